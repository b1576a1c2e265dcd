import { defaultProvider } from '@aws-sdk/credential-provider-node';

export interface ChainOptions {
  readonly profile: string | undefined;
  readonly region: string;
  readonly maxAttempts: number;
  /** For the calls to STS and IAM Identity Center: the same trust, proxy and limits as ours. */
  readonly requestHandler: object;
  readonly logger: SdkLogger;
}

interface SdkLogger {
  trace(...parts: unknown[]): void;
  debug(...parts: unknown[]): void;
  info(...parts: unknown[]): void;
  warn(...parts: unknown[]): void;
  error(...parts: unknown[]): void;
}

interface ChainCredentials {
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  readonly sessionToken?: string;
  readonly expiration?: Date;
}

/**
 * The SDK's default credential chain. Imports nothing of this program, so that the build can keep it, with
 * the clients of STS and IAM Identity Center underneath, in a file of its own.
 */
export function makeChain(options: ChainOptions): () => Promise<ChainCredentials> {
  const { profile, region, maxAttempts, requestHandler, logger } = options;
  return defaultProvider({
    ...(profile === undefined ? {} : { profile }),
    // Files are read again each time: tools rewrite them while a session lasts.
    ignoreCache: true,
    logger,
    clientConfig: { requestHandler, logger, maxAttempts },
    parentClientConfig: { region: () => Promise.resolve(region), logger },
    // For the instance metadata service, which answers at once or is not there.
    timeout: 1_000,
    maxRetries: 1,
  });
}
