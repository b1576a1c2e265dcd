import type { Logger } from '../logger.ts';
import { hasEnvironmentCredentials, nonEmpty, type Settings } from './settings.ts';

/** Keys to sign with. Structurally the SDK's AwsCredentialIdentity. */
export interface Credentials {
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  readonly sessionToken?: string;
  readonly expiration?: Date;
}

export type LoadCredentials = () => Promise<Credentials>;

/** Keys this close to their end are replaced before they are used. */
const renewBeforeMs = 5 * 60_000;

/**
 * Credentials of one process, resolved when first needed and again when they are about to end. Concurrent
 * callers share one resolution.
 */
export class CredentialStore {
  /** Whether resolving again can give anything else; the environment of a process does not change. */
  readonly isRenewable: boolean;
  readonly #load: LoadCredentials;
  readonly #logger: Logger;
  #current: Credentials | undefined;
  #pending: Promise<Credentials> | undefined;

  constructor(load: LoadCredentials, isRenewable: boolean, logger: Logger) {
    this.#load = load;
    this.isRenewable = isRenewable;
    this.#logger = logger;
  }

  async resolve(): Promise<Credentials> {
    const current = this.#current;
    if (current === undefined) return await this.#reload();
    const lifeMs = remainingMs(current);
    if (!this.isRenewable || lifeMs > renewBeforeMs) return current;
    try {
      return await this.#reload();
    } catch (error) {
      if (lifeMs <= 0) throw error;
      this.#logger.debug(
        { lifeMs },
        'credentials could not be renewed; the present ones still hold',
      );
      return current;
    }
  }

  /** Forgets the present credentials, because a service refused them as expired. */
  invalidate(): void {
    if (this.isRenewable) this.#current = undefined;
  }

  /**
   * To be called when a long time may have passed: credentials that do not say when they end (keys in
   * a file, rewritten by some tool) are read again before their next use.
   */
  freshen(): void {
    if (this.#current !== undefined && this.#current.expiration === undefined) this.invalidate();
  }

  #reload(): Promise<Credentials> {
    this.#pending ??= this.#load()
      .then((credentials) => {
        this.#current = credentials;
        this.#logger.debug(
          { expiresAt: credentials.expiration?.toISOString() ?? 'not stated' },
          'credentials resolved',
        );
        return credentials;
      })
      .finally(() => {
        this.#pending = undefined;
      });
    return this.#pending;
  }
}

function remainingMs({ expiration }: Credentials): number {
  return expiration === undefined ? Infinity : expiration.getTime() - Date.now();
}

/**
 * The SDK's default chain. Its first link, the environment, is done here, because it is the common one
 * in automation and the rest of the chain takes long to load.
 */
export function openCredentials(
  settings: Settings,
  env: NodeJS.ProcessEnv,
  requestHandler: () => object,
  logger: Logger,
): CredentialStore {
  // As in the SDK, naming a profile rules out credentials of the environment.
  if (settings.profile === undefined && hasEnvironmentCredentials(env)) {
    return new CredentialStore(() => Promise.resolve(environmentCredentials(env)), false, logger);
  }
  const load: LoadCredentials = async () => {
    const { loadFromChain } = await import('./cold-credentials.ts');
    return await loadFromChain(settings, requestHandler(), logger);
  };
  return new CredentialStore(load, true, logger);
}

function environmentCredentials(env: NodeJS.ProcessEnv): Credentials {
  const sessionToken = nonEmpty(env['AWS_SESSION_TOKEN']);
  return {
    accessKeyId: env['AWS_ACCESS_KEY_ID'] ?? '',
    secretAccessKey: env['AWS_SECRET_ACCESS_KEY'] ?? '',
    ...(sessionToken === undefined ? {} : { sessionToken }),
  };
}
