import { loadSharedConfigFiles, NODE_REGION_CONFIG_OPTIONS } from '@smithy/core/config';
import { BridgeError } from '../errors.ts';
import {
  count,
  flag,
  nonEmpty,
  type PartialSettings,
  retryMode,
  type ServiceName,
} from './settings.ts';

type Section = Readonly<Record<string, string | undefined>>;
type Sections = Readonly<Record<string, Section | undefined>>;

/**
 * Settings of a profile from the shared config files. The region may also come from the instance
 * metadata service, which the SDK asks last.
 */
export async function fileSettings(
  profile: string | undefined,
  needsRegion: boolean,
): Promise<PartialSettings> {
  const { config, credentials } = await readSharedFiles();
  const name = profile ?? 'default';
  const inConfig = config[name];
  const inCredentials = credentials[name];
  if (profile !== undefined && inConfig === undefined && inCredentials === undefined) {
    throw new BridgeError('usage.config', `AWS profile ${profile} is not configured`, {
      hint: 'check --profile or AWS_PROFILE against `aws configure list-profiles`',
    });
  }
  const section: Section = { ...inCredentials, ...inConfig };
  const services = servicesSection(section, config);
  const endpoint = (key: string): string | undefined =>
    nonEmpty(services?.[`${key}.endpoint_url`]) ?? nonEmpty(section['endpoint_url']);
  const endpoints: Record<ServiceName, string | undefined> = {
    SSM: endpoint('ssm'),
    'EC2 Instance Connect': endpoint('ec2_instance_connect'),
  };
  return {
    // The credentials file wins for the region, as in the SDK.
    region: needsRegion
      ? (nonEmpty(inCredentials?.['region']) ??
        nonEmpty(inConfig?.['region']) ??
        (await instanceRegion()))
      : undefined,
    endpoints,
    ignoreEndpoints: flag(
      section['ignore_configured_endpoint_urls'],
      'ignore_configured_endpoint_urls',
    ),
    useFipsEndpoint: flag(section['use_fips_endpoint'], 'use_fips_endpoint'),
    useDualstackEndpoint: flag(section['use_dualstack_endpoint'], 'use_dualstack_endpoint'),
    caFile: nonEmpty(section['ca_bundle']),
    maxAttempts: count(section['max_attempts'], 'max_attempts'),
    retryMode: retryMode(section['retry_mode'], 'retry_mode'),
    userAgentAppId: nonEmpty(section['sdk_ua_app_id']),
    disableClockSkewCorrection: flag(
      section['disable_clock_skew_correction'],
      'disable_clock_skew_correction',
    ),
  };
}

/** Both files, read anew: a long session sees what `aws sso login` and others have written meanwhile. */
export async function readSharedFiles(): Promise<{ config: Sections; credentials: Sections }> {
  const { configFile, credentialsFile } = await loadSharedConfigFiles({ ignoreCache: true });
  return { config: configFile, credentials: credentialsFile };
}

function servicesSection(section: Section, config: Sections): Section | undefined {
  const name = nonEmpty(section['services']);
  if (name === undefined) return undefined;
  const services = config[`services.${name}`];
  if (services === undefined) {
    throw new BridgeError('usage.config', `the AWS config file has no section [services ${name}]`, {
      hint: 'a profile refers to it by its services key; add the section or remove the key',
    });
  }
  return services;
}

/** Undefined when there is no metadata service, or it is disabled. */
async function instanceRegion(): Promise<string | undefined> {
  const fallback = NODE_REGION_CONFIG_OPTIONS.default;
  if (typeof fallback !== 'function') return undefined;
  try {
    return await fallback();
  } catch {
    // The SDK rejects when it finds nothing; what to say about that is decided by the caller.
    return undefined;
  }
}
