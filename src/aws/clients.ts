import type { SSMClientConfig } from '@aws-sdk/client-ssm';
import { oneLine } from '../errors.ts';
import type { Logger } from '../logger.ts';
import { makeAgents, type ApiDial } from './agent.ts';
import type { CredentialStore } from './credentials.ts';
import type { ServiceName, Settings } from './settings.ts';

/** Limits of one attempt; the caller's signal bounds the whole. */
const connectTimeoutMs = 10_000;
const answerTimeoutMs = 30_000;

/** What the SDK's clients need of their surroundings. */
export interface ClientBase {
  readonly settings: Settings;
  readonly credentials: CredentialStore;
  readonly ca: readonly string[] | undefined;
  readonly dial: ApiDial | undefined;
  readonly logger: Logger;
}

/**
 * Configuration of a client. Everything that the SDK would otherwise look up in files, once per value, is
 * given, as resolved in settings.ts.
 */
export function clientConfig(base: ClientBase, service: ServiceName, keepAlive: boolean) {
  silenceVersionNotice();
  const { settings, credentials } = base;
  const endpoint = settings.endpoints[service];
  return {
    region: settings.region,
    ...(endpoint === undefined ? { ignoreConfiguredEndpointUrls: true } : { endpoint }),
    // `memoized` keeps the SDK from caching on top: CredentialStore decides when to resolve anew.
    credentials: Object.assign(() => credentials.resolve(), { memoized: true }),
    useFipsEndpoint: settings.useFipsEndpoint,
    useDualstackEndpoint: settings.useDualstackEndpoint,
    maxAttempts: settings.maxAttempts,
    retryMode: settings.retryMode,
    defaultsMode: 'standard',
    userAgentAppId: settings.userAgentAppId,
    customUserAgent: 'ssm-bridge',
    authSchemePreference: [],
    disableClockSkewCorrection: settings.disableClockSkewCorrection,
    logger: sdkLogger(base.logger),
    requestHandler: handlerOptions(base, keepAlive),
  } satisfies SSMClientConfig;
}

/** How the SDK's clients make HTTP requests, those of the credential chain included. */
export function handlerOptions({ ca, dial }: Pick<ClientBase, 'ca' | 'dial'>, keepAlive: boolean) {
  const agents = makeAgents({ ca, dial, keepAlive, connectTimeoutMs });
  return {
    httpsAgent: agents.https,
    httpAgent: agents.http,
    // A dial of ours has its own limit. The SDK's timer for it outlives a request that is given up.
    connectionTimeout: dial === undefined ? connectTimeoutMs : 0,
    requestTimeout: answerTimeoutMs,
    // Otherwise the limit is a warning on stderr.
    throwOnRequestTimeout: true,
  };
}

/**
 * On Node 20 the SDK announces the end of its support on every start, on stderr, where a ProxyCommand has
 * nothing to say when all is well.
 */
function silenceVersionNotice(): void {
  process.env['AWS_SDK_JS_NODE_VERSION_SUPPORT_WARNING_DISABLED'] = 'true';
}

/**
 * The SDK writes to the console unless given a logger. Its warnings are prose; its other levels carry
 * inputs and outputs, tokens among them, and are dropped.
 */
export function sdkLogger(logger: Logger) {
  const drop = (): void => {
    // See above.
  };
  return {
    trace: drop,
    debug: drop,
    info: drop,
    error: drop,
    warn: (...parts: unknown[]): void => {
      if (typeof parts[0] === 'string') logger.debug({ from: 'sdk' }, oneLine(parts[0]));
    },
  };
}
