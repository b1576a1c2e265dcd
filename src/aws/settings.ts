import { readFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { BridgeError } from '../errors.ts';

/** Where settings and credentials are taken from. */
export interface SettingsSource {
  readonly profile?: string | undefined;
  readonly region?: string | undefined;
  readonly env: NodeJS.ProcessEnv;
}

/** Services of ours that have an endpoint setting of their own. */
export type ServiceName = 'SSM' | 'EC2 Instance Connect';

/** Everything that AWS SDKs let a user configure about a client and that matters here, resolved. */
export interface Settings {
  /** Undefined when neither an option nor the environment names one. */
  readonly profile: string | undefined;
  readonly region: string;
  readonly endpoints: Readonly<Record<ServiceName, string | undefined>>;
  readonly useFipsEndpoint: boolean;
  readonly useDualstackEndpoint: boolean;
  /** File whose certificates replace the default roots. */
  readonly caFile: string | undefined;
  readonly maxAttempts: number;
  readonly retryMode: string;
  readonly userAgentAppId: string;
  readonly disableClockSkewCorrection: boolean;
}

/** One source of settings; absent keys leave the decision to the next source. */
export interface PartialSettings {
  readonly region?: string | undefined;
  readonly ignoreEndpoints?: boolean | undefined;
  readonly endpoints?: Readonly<Partial<Record<ServiceName, string | undefined>>> | undefined;
  readonly useFipsEndpoint?: boolean | undefined;
  readonly useDualstackEndpoint?: boolean | undefined;
  readonly caFile?: string | undefined;
  readonly maxAttempts?: number | undefined;
  readonly retryMode?: string | undefined;
  readonly userAgentAppId?: string | undefined;
  readonly disableClockSkewCorrection?: boolean | undefined;
}

const defaultMaxAttempts = 3;

/**
 * Resolves settings in the order of the AWS SDKs: options, environment, shared config files. The files
 * are parsed only when something in them can matter: with credentials and region in the environment
 * and no relevant key in the files, the parser is not even loaded.
 */
export async function resolveSettings(source: SettingsSource): Promise<Settings> {
  const { env } = source;
  const profile = profileName(source);
  const fromEnv = environmentSettings(env);
  const askedRegion = nonEmpty(source.region) ?? fromEnv.region;
  const isSelfContained =
    profile === undefined && askedRegion !== undefined && hasEnvironmentCredentials(env);
  let fromFiles: PartialSettings = {};
  if (!isSelfContained || configMentionsSettings(env)) {
    const { fileSettings } = await import('./cold-shared-config.ts');
    fromFiles = await fileSettings(profile, askedRegion === undefined);
  }
  const region = askedRegion ?? fromFiles.region;
  if (region === undefined) throw missingRegion(profile);
  return merge(profile, region, fromEnv, fromFiles);
}

/** The profile in effect. AWS_DEFAULT_PROFILE is the AWS CLI's older name. */
function profileName({ profile, env }: SettingsSource): string | undefined {
  return nonEmpty(profile) ?? nonEmpty(env['AWS_PROFILE']) ?? nonEmpty(env['AWS_DEFAULT_PROFILE']);
}

/** The region as far as it can be told without reading a file, for work begun early. */
export function earlyRegion({ region, env }: SettingsSource): string | undefined {
  return nonEmpty(region) ?? nonEmpty(env['AWS_REGION']) ?? nonEmpty(env['AWS_DEFAULT_REGION']);
}

export function hasEnvironmentCredentials(env: NodeJS.ProcessEnv): boolean {
  return (
    nonEmpty(env['AWS_ACCESS_KEY_ID']) !== undefined &&
    nonEmpty(env['AWS_SECRET_ACCESS_KEY']) !== undefined
  );
}

function configFiles(env: NodeJS.ProcessEnv): { config: string; credentials: string } {
  const home = nonEmpty(env['HOME']) ?? nonEmpty(env['USERPROFILE']) ?? homedir();
  const path = (given: string | undefined, name: string): string =>
    given === undefined ? join(home, '.aws', name) : given.replace(/^~(?=\/)/, home);
  return {
    config: path(nonEmpty(env['AWS_CONFIG_FILE']), 'config'),
    credentials: path(nonEmpty(env['AWS_SHARED_CREDENTIALS_FILE']), 'credentials'),
  };
}

function environmentSettings(env: NodeJS.ProcessEnv): PartialSettings {
  const common = nonEmpty(env['AWS_ENDPOINT_URL']);
  return {
    region: earlyRegion({ env }),
    ignoreEndpoints: flag(
      env['AWS_IGNORE_CONFIGURED_ENDPOINT_URLS'],
      'AWS_IGNORE_CONFIGURED_ENDPOINT_URLS',
    ),
    endpoints: {
      SSM: nonEmpty(env['AWS_ENDPOINT_URL_SSM']) ?? common,
      'EC2 Instance Connect': nonEmpty(env['AWS_ENDPOINT_URL_EC2_INSTANCE_CONNECT']) ?? common,
    },
    useFipsEndpoint: flag(env['AWS_USE_FIPS_ENDPOINT'], 'AWS_USE_FIPS_ENDPOINT'),
    useDualstackEndpoint: flag(env['AWS_USE_DUALSTACK_ENDPOINT'], 'AWS_USE_DUALSTACK_ENDPOINT'),
    caFile: nonEmpty(env['AWS_CA_BUNDLE']),
    maxAttempts: count(env['AWS_MAX_ATTEMPTS'], 'AWS_MAX_ATTEMPTS'),
    retryMode: retryMode(env['AWS_RETRY_MODE'], 'AWS_RETRY_MODE'),
    userAgentAppId: nonEmpty(env['AWS_SDK_UA_APP_ID']),
    disableClockSkewCorrection: flag(
      env['AWS_DISABLE_CLOCK_SKEW_CORRECTION'],
      'AWS_DISABLE_CLOCK_SKEW_CORRECTION',
    ),
  };
}

function merge(
  profile: string | undefined,
  askedRegion: string,
  first: PartialSettings,
  second: PartialSettings,
): Settings {
  const { region, isFips } = realRegion(askedRegion);
  const ignoreEndpoints = first.ignoreEndpoints ?? second.ignoreEndpoints ?? false;
  const endpoint = (name: ServiceName): string | undefined =>
    ignoreEndpoints ? undefined : (first.endpoints?.[name] ?? second.endpoints?.[name]);
  const settings: Settings = {
    profile,
    region,
    endpoints: { SSM: endpoint('SSM'), 'EC2 Instance Connect': endpoint('EC2 Instance Connect') },
    useFipsEndpoint: isFips || (first.useFipsEndpoint ?? second.useFipsEndpoint ?? false),
    useDualstackEndpoint: first.useDualstackEndpoint ?? second.useDualstackEndpoint ?? false,
    caFile: first.caFile ?? second.caFile,
    maxAttempts: first.maxAttempts ?? second.maxAttempts ?? defaultMaxAttempts,
    retryMode: first.retryMode ?? second.retryMode ?? 'standard',
    userAgentAppId: first.userAgentAppId ?? second.userAgentAppId ?? '',
    disableClockSkewCorrection:
      first.disableClockSkewCorrection ?? second.disableClockSkewCorrection ?? false,
  };
  checkEndpoints(settings);
  return settings;
}

/** The SDK would say the same, but only with the first call and without naming the settings. */
function checkEndpoints(settings: Settings): void {
  for (const endpoint of Object.values(settings.endpoints)) {
    if (endpoint === undefined) continue;
    if (!URL.canParse(endpoint) || !/^https?:$/.test(new URL(endpoint).protocol)) {
      throw new BridgeError('usage.config', 'the configured endpoint URL is not an http(s) URL', {
        hint: 'check AWS_ENDPOINT_URL, AWS_ENDPOINT_URL_SSM and endpoint_url in the AWS config file',
      });
    }
    if (settings.useFipsEndpoint || settings.useDualstackEndpoint) {
      const which = settings.useFipsEndpoint ? 'FIPS' : 'dual-stack';
      throw new BridgeError('usage.config', `a custom endpoint URL excludes ${which} endpoints`, {
        hint: `unset the endpoint URL, set AWS_IGNORE_CONFIGURED_ENDPOINT_URLS=true, or turn ${which} off`,
      });
    }
  }
}

/** Pseudo-regions such as `fips-us-east-1` and `us-east-1-fips` stand for a region with FIPS on. */
function realRegion(region: string): { region: string; isFips: boolean } {
  if (!/^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/i.test(region)) {
    throw new BridgeError('usage.config', 'the configured AWS region is not a valid region name', {
      hint: 'check --region, AWS_REGION and the profile',
    });
  }
  const isFips = region.startsWith('fips-') || region.endsWith('-fips');
  return { region: region.replace(/^fips-|-fips$/, ''), isFips };
}

function missingRegion(profile: string | undefined): BridgeError {
  const where = profile === undefined ? 'the AWS config file' : `profile ${profile}`;
  return new BridgeError('usage.config', 'no AWS region is configured', {
    hint: `give --region, set AWS_REGION, or set region in ${where}`,
  });
}

const relevantKeys =
  /^[ \t]*(?:endpoint_url|services|ignore_configured_endpoint_urls|use_fips_endpoint|use_dualstack_endpoint|ca_bundle|max_attempts|retry_mode|sdk_ua_app_id|disable_clock_skew_correction)[ \t]*=/m;

/**
 * Whether the shared config files say anything but regions and credentials. Reading two small files
 * costs microseconds; it is loading the SDK's parser that should be paid only when needed.
 */
function configMentionsSettings(env: NodeJS.ProcessEnv): boolean {
  const files = configFiles(env);
  return [files.config, files.credentials].some((path) => {
    try {
      return relevantKeys.test(readFileSync(path, 'utf8'));
    } catch {
      // Absent or unreadable: the SDKs take such a file for an empty one.
      return false;
    }
  });
}

/** Strict, as in the SDK: a typing error in a security setting must not turn it off. */
export function flag(value: string | undefined, name: string): boolean | undefined {
  const text = nonEmpty(value)?.toLowerCase();
  if (text === undefined) return undefined;
  if (text === 'true') return true;
  if (text === 'false') return false;
  throw new BridgeError('usage.config', `${name} must be true or false`, {
    hint: 'correct or remove it',
  });
}

export function count(value: string | undefined, name: string): number | undefined {
  const text = nonEmpty(value);
  if (text === undefined) return undefined;
  if (/^[1-9]\d{0,3}$/.test(text)) return Number(text);
  throw new BridgeError('usage.config', `${name} must be a number from 1 to 9999`, {
    hint: 'correct or remove it',
  });
}

export function retryMode(value: string | undefined, name: string): string | undefined {
  const text = nonEmpty(value)?.toLowerCase();
  // `legacy` is botocore's; the SDK for JavaScript has nothing older than standard.
  if (text === undefined || text === 'legacy') return undefined;
  if (text === 'standard' || text === 'adaptive') return text;
  throw new BridgeError('usage.config', `${name} must be standard or adaptive`, {
    hint: 'correct or remove it',
  });
}

export function nonEmpty(value: string | undefined): string | undefined {
  return value === undefined || value === '' ? undefined : value;
}
