import { BridgeError, oneLine, systemCode } from '../errors.ts';
import type { Logger } from '../logger.ts';
import { type ApiPlace, classifyApiError } from './classify.ts';
import { sdkLogger } from './clients.ts';
import { readSharedFiles } from './cold-shared-config.ts';
import type { Credentials } from './credentials.ts';
import { nonEmpty, type Settings } from './settings.ts';

/**
 * Credentials from the SDK's chain: profile (static keys, assumed role, IAM Identity Center, web identity,
 * process), container and instance metadata. Rejects with credentials.*, access.denied or network.*.
 */
export async function loadFromChain(
  settings: Settings,
  requestHandler: object,
  logger: Logger,
): Promise<Credentials> {
  const { makeChain } = await import('./cold-chain.ts');
  const { profile, region, maxAttempts } = settings;
  const chain = makeChain({
    profile,
    region,
    maxAttempts,
    requestHandler,
    logger: sdkLogger(logger),
  });
  try {
    return await chain();
  } catch (error) {
    throw explain(error, settings, await profileChain(profile ?? 'default'));
  }
}

type Section = Readonly<Record<string, string | undefined>>;

/** The profile and the profiles it takes its credentials from, nearest first. */
async function profileChain(profile: string): Promise<Section[]> {
  const { config, credentials } = await readSharedFiles();
  const chain: Section[] = [];
  const seen = new Set<string>();
  for (let name: string | undefined = profile; name !== undefined && !seen.has(name);) {
    seen.add(name);
    const section: Section = { ...config[name], ...credentials[name] };
    chain.push(section);
    name = nonEmpty(section['source_profile']);
  }
  return chain;
}

/**
 * The SDK has one error for everything that can go wrong in its chain, so what the profile is made of
 * decides what to say.
 */
function explain(error: unknown, settings: Settings, chain: readonly Section[]): BridgeError {
  if (error instanceof BridgeError) return error;
  const { profile, region } = settings;
  const has = (key: string): boolean =>
    chain.some((section) => nonEmpty(section[key]) !== undefined);
  const whose = profile === undefined ? '' : ` of profile ${profile}`;
  const as = profile === undefined ? '' : ` --profile ${profile}`;
  if (isServiceAnswer(error) || systemCode(error)?.startsWith('E') === true) {
    const role = chain
      .map((section) => nonEmpty(section['role_arn']))
      .find((arn) => arn !== undefined);
    const place: ApiPlace = {
      region,
      profile,
      host: `sts.${region}.amazonaws.com`,
      caFile: settings.caFile,
    };
    return classifyApiError(error, { action: 'sts:AssumeRole', on: role ?? 'the role' }, place);
  }
  if (has('mfa_serial')) {
    return failed(`the role${whose} wants an MFA code, which a ProxyCommand cannot ask for`, {
      hint: 'get temporary credentials with MFA first and export them, or use IAM Identity Center',
      cause: error,
    });
  }
  if (has('sso_session') || has('sso_start_url')) {
    return new BridgeError(
      'credentials.expired',
      `IAM Identity Center gives no credentials for profile ${profile ?? 'default'}: ${words(error)}`,
      { hint: `log in with: aws sso login${as}`, cause: error },
    );
  }
  if (has('login_session')) {
    return new BridgeError(
      'credentials.expired',
      `the console login${whose} gives no credentials: ${words(error)}`,
      {
        hint: `log in with: aws login${as}`,
        cause: error,
      },
    );
  }
  if (has('credential_process')) {
    // Neither its words nor the error itself: both repeat the command line and what it wrote.
    return failed(`the credential_process${whose} failed`, {
      hint: 'run the command by hand to see why',
    });
  }
  if (isElsewhere() || has('role_arn') || has('credential_source')) {
    return failed(`no credentials could be got${whose}: ${words(error)}`, {
      hint: 'check the role, the credential source and what they need to be reached',
      cause: error,
    });
  }
  return new BridgeError('credentials.missing', `no AWS credentials were found${whose}`, {
    hint: `set AWS_PROFILE or --profile, export AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or log in with: aws sso login${as}`,
    cause: error,
  });
}

/** Whether the environment names a source of credentials that must have failed, then. */
function isElsewhere(): boolean {
  return [
    'AWS_WEB_IDENTITY_TOKEN_FILE',
    'AWS_CONTAINER_CREDENTIALS_RELATIVE_URI',
    'AWS_CONTAINER_CREDENTIALS_FULL_URI',
  ].some((name) => nonEmpty(process.env[name]) !== undefined);
}

function failed(message: string, options: { hint: string; cause?: unknown }): BridgeError {
  return new BridgeError('credentials.failed', message, options);
}

/** The first sentence; what the SDK advises after it is said better in the hint. */
function words(error: unknown): string {
  if (!(error instanceof Error)) return 'unknown error';
  return oneLine(error.message)
    .replace(/\. [A-Z].*$/, '')
    .replace(/\.$/, '');
}

function isServiceAnswer(error: unknown): boolean {
  return error instanceof Error && '$fault' in error;
}
