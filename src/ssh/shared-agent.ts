/**
 * One agent per socket path, however many logins share it: ssh_config cannot express a path of one
 * login's own. Whoever comes first owns the socket; the others hold leases. An owner that ends hands the
 * place over without a gap and serves the signatures already begun; one that is killed is replaced by a
 * lease holder as soon as the kernel closes the lease.
 */
import { watch, type FSWatcher } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { BridgeError, systemCode, type ErrorCode } from '../errors.ts';
import type { Logger } from '../logger.ts';
import { AgentFaultError, takeLease, type AgentFault, type Lease } from './agent-client.ts';
import type { PushFailure } from './agent-protocol.ts';
import { AgentServer } from './agent-server.ts';
import { KEY_COMMENT, makeEphemeralKey } from './ephemeral-key.ts';
import type { SocketPlace } from './socket-place.ts';

/** Rounds of looking and claiming; each lost round means that another bridge got somewhere. */
const MAX_ATTEMPTS = 200;
/** When the kernel's queue of connections to the owner is full. */
const BUSY_WAIT_MS = 20;
/** A successor needs milliseconds, or a second on a busy machine; one that is stopped is passed over. */
const HANDOVER_LIMIT_MS = 2000;
/** sshd's default LoginGraceTime is 120 s: what began a login before that has ended or failed. */
const LOGIN_LIMIT_MS = 130_000;
/** ssh closes its connection to the agent when it is authenticated; nothing comes after that. */
const SETTLE_MS = 1000;

export interface SharedAgentOptions {
  readonly place: SocketPlace;
  /** The same text for logins whose keys go to the same account by the same means. */
  readonly destination: string;
  /** Puts a public key (a line of authorized_keys) at this login's destination, unless it is fresh there. */
  readonly push: (publicKey: string) => Promise<void>;
  /** A push that the owner of the agent made for its tenants has failed; perhaps not for this login. */
  readonly onPushFailed: (error: BridgeError) => void;
  /** There is no agent any more, and no way to have one. */
  readonly onLost: (error: BridgeError) => void;
  readonly logger: Logger;
}

type Role =
  | { readonly kind: 'none' }
  | { readonly kind: 'owner'; readonly server: AgentServer; readonly publicKey: string }
  | { readonly kind: 'tenant'; readonly lease: Lease; readonly publicKey: string };

export class SharedAgent {
  readonly #options: SharedAgentOptions;
  #role: Role = { kind: 'none' };
  /** The latest step to another role. Steps are taken one after the other: each ends in one role. */
  #acquired: Promise<void> = Promise.resolve();
  #watcher: FSWatcher | undefined;
  #loginLimit: NodeJS.Timeout | undefined;
  #settleTimer: NodeJS.Timeout | undefined;
  readonly #retired: Promise<void>[] = [];
  #isPastNewkeys = false;
  /** This login needs the agent no more. */
  #isDone = false;
  #isEnded = false;
  #ending: Promise<void> | undefined;

  constructor(options: SharedAgentOptions) {
    this.#options = options;
  }

  /** Resolves when an agent listens at the place. Rejects key.agent. */
  async start(): Promise<void> {
    await this.#options.place.prepare();
    this.#watch();
    await this.#reacquire();
  }

  get role(): Role['kind'] {
    return this.#role.kind;
  }

  /** The client is about to look for the agent. What it sends next waits for the promise, if there is one. */
  atNewkeys(): Promise<void> | undefined {
    this.#isPastNewkeys = true;
    this.#loginLimit = setTimeout(() => {
      this.#loginDone();
    }, LOGIN_LIMIT_MS);
    this.#loginLimit.unref();
    const role = this.#role;
    switch (role.kind) {
      case 'none':
        return this.#acquired;
      case 'tenant':
        return role.lease.isCovered ? undefined : this.#options.push(role.publicKey);
      case 'owner':
        // Not awaited: the agent does not answer before the key is there. Begun now, it saves a wait.
        this.#options.push(role.publicKey).catch(() => undefined); // Reported by whoever pushes.
        return undefined;
    }
  }

  /** Ends this login's part. Resolves when no signature is outstanding here and nothing is left behind. */
  async end(limitMs: number): Promise<void> {
    this.#ending ??= this.#end(limitMs);
    await this.#ending;
    await Promise.all(this.#retired);
  }

  async #end(limitMs: number): Promise<void> {
    this.#isEnded = true;
    clearTimeout(this.#loginLimit);
    clearTimeout(this.#settleTimer);
    await this.#acquired.catch(() => undefined); // Reported when it failed.
    this.#watcher?.close();
    const role = this.#role;
    this.#role = { kind: 'none' };
    if (role.kind === 'tenant') role.lease.end();
    if (role.kind === 'owner') await this.#handOver(role.server, limitMs);
  }

  #next(step: () => Promise<void>): Promise<void> {
    this.#acquired = this.#acquired
      .catch(() => undefined) // Reported by whoever took that step.
      .then(step);
    return this.#acquired;
  }

  #reacquire(): Promise<void> {
    return this.#next(async () => {
      if (this.#role.kind === 'none') await this.#acquire();
    });
  }

  async #acquire(): Promise<void> {
    const { place } = this.#options;
    for (let attempt = 0; attempt < MAX_ATTEMPTS && !this.#isEnded; attempt++) {
      await place.prepare();
      const occupant = await place.occupant();
      if (occupant === undefined) {
        if (await this.#claim()) return;
        continue;
      }
      const fault = await this.#rent();
      if (fault === undefined) return;
      if (fault === 'foreign') {
        throw new BridgeError('key.agent', `another kind of agent listens on ${place.path}`, {
          hint: 'give --agent-socket, and IdentityAgent, a path that only ssm-bridge uses',
        });
      }
      // A stopped owner will see that its place is taken when it runs again.
      if (fault === 'silent' && (await this.#own(this.#replaceOccupant))) return;
      if (fault === 'absent') await place.clear(occupant);
      if (fault === 'busy') await sleep(BUSY_WAIT_MS);
    }
    if (this.#isEnded) return;
    throw new BridgeError('key.agent', `cannot get hold of the agent socket ${place.path}`);
  }

  async #claim(): Promise<boolean> {
    try {
      return await this.#own((bindPath) => this.#options.place.claim(bindPath));
    } catch (error) {
      // Somebody has removed the directory meanwhile.
      if (error instanceof BridgeError && systemCode(error.cause) === 'ENOENT') return false;
      throw error;
    }
  }

  async #rent(): Promise<AgentFault | undefined> {
    const { place, destination } = this.#options;
    try {
      const lease: Lease = await takeLease(place.path, destination, {
        onTakeOver: () => {
          this.#takeOver(lease);
        },
        onPushFailed: (failure) => {
          this.#options.onPushFailed(errorFrom(failure));
        },
        onLost: () => {
          this.#leaseLost();
        },
      });
      this.#become({ kind: 'tenant', lease, publicKey: publicKeyOf(lease.blob) });
      // The key has changed under a login that is past its gate and whose owner pushes elsewhere.
      if (this.#isPastNewkeys && !lease.isCovered) {
        this.#options.push(publicKeyOf(lease.blob)).catch(() => undefined); // Reported by whoever pushes.
      }
      return undefined;
    } catch (error) {
      if (error instanceof AgentFaultError) return error.fault;
      throw error;
    }
  }

  async #own(publish: (bindPath: string) => Promise<boolean>): Promise<boolean> {
    const { place, destination, logger } = this.#options;
    const key = makeEphemeralKey();
    const bindPath = place.ownName();
    const server = await AgentServer.listen({
      key,
      bindPath,
      destination,
      ensurePushed: () => this.#pushAsOwner(server, key.publicKey),
      onChange: () => {
        this.#considerEnding();
      },
      logger,
    });
    let isPublished = false;
    try {
      isPublished = await publish(bindPath);
    } finally {
      if (!isPublished) await server.retire(0);
    }
    if (!isPublished) return false;
    this.#become({ kind: 'owner', server, publicKey: key.publicKey });
    void this.#checkPlace(); // Whatever happened between the two lines above gave no event.
    return true;
  }

  async #pushAsOwner(server: AgentServer, publicKey: string): Promise<void> {
    try {
      await this.#options.push(publicKey);
    } catch (error) {
      if (error instanceof BridgeError) {
        const { code, message, hint = '' } = error;
        server.announceFailure({ code, message, hint });
      }
      throw error;
    }
  }

  #become(role: Role): void {
    this.#options.logger.debug({ role: role.kind }, 'agent socket');
    this.#role = role;
  }

  #leaseLost(): void {
    if (this.#isEnded || this.#isDone) return;
    this.#become({ kind: 'none' });
    this.#reacquire().catch((error: unknown) => {
      this.#lost(error);
    });
  }

  #takeOver(lease: Lease): void {
    const taken = this.#next(async () => {
      if (this.#role.kind === 'owner' || this.#isEnded || this.#isDone) return;
      await this.#own(this.#replaceOccupant);
    });
    // Ended in any case: the owner waits for it, and then asks another one.
    taken.then(
      () => {
        lease.end();
      },
      (error: unknown) => {
        lease.end();
        this.#lost(error);
      },
    );
  }

  readonly #replaceOccupant = async (bindPath: string): Promise<boolean> => {
    await this.#options.place.replace(bindPath);
    return true;
  };

  #lost(error: unknown): void {
    this.#options.onLost(
      error instanceof BridgeError
        ? error
        : new BridgeError('key.agent', 'the agent socket is lost', { cause: error }),
    );
  }

  /** When somebody removes or replaces the socket, its owner is the first to need another. */
  #watch(): void {
    const { place, logger } = this.#options;
    try {
      this.#watcher = watch(place.directory, { persistent: false }, (_event, name) => {
        if (name === null || name === place.name) void this.#checkPlace();
      });
      this.#watcher.on('error', (error) => {
        logger.debug({ error: error.message }, 'cannot watch the agent socket');
      });
    } catch (error) {
      logger.debug({ error: String(error) }, 'cannot watch the agent socket');
    }
  }

  async #checkPlace(): Promise<void> {
    const role = this.#role;
    if (role.kind !== 'owner' || this.#isEnded) return;
    const occupant = await this.#options.place.occupant().catch(() => undefined);
    if (occupant === role.server.identity || this.#role !== role) return;
    this.#options.logger.debug({}, 'agent socket is no longer ours');
    this.#become({ kind: 'none' });
    this.#retired.push(role.server.retire(LOGIN_LIMIT_MS));
    if (!this.#isDone) this.#leaseLost();
  }

  #loginDone(): void {
    this.#isDone = true;
    if (this.#role.kind !== 'owner') {
      void this.end(0);
      return;
    }
    this.#considerEnding();
  }

  /** An owner whose agent nobody needs takes it away, though its session goes on. */
  #considerEnding(): void {
    clearTimeout(this.#settleTimer);
    if (!this.#isUnused()) return;
    this.#settleTimer = setTimeout(() => {
      if (!this.#isUnused()) return;
      this.#options.logger.debug({}, 'agent is no longer needed');
      void this.end(LOGIN_LIMIT_MS);
    }, SETTLE_MS);
    this.#settleTimer.unref();
  }

  #isUnused(): boolean {
    if (this.#role.kind !== 'owner' || this.#isEnded) return false;
    const { server } = this.#role;
    const isFinished = this.#isDone || (this.#isPastNewkeys && server.isUsedUp);
    return isFinished && server.clientCount === 0 && server.leaseCount === 0;
  }

  async #handOver(server: AgentServer, limitMs: number): Promise<void> {
    const { place } = this.#options;
    const isOurs = async (): Promise<boolean> =>
      (await place.occupant().catch(() => undefined)) === server.identity;
    while (await isOurs()) {
      const successor = server.appointSuccessor();
      if (successor === undefined) {
        if (server.identity !== undefined) {
          await place.clear(server.identity).catch(() => undefined); // Nothing more can be done about it.
        }
        break;
      }
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, HANDOVER_LIMIT_MS);
        successor.once('close', () => {
          clearTimeout(timer);
          resolve();
        });
      });
      successor.destroy();
    }
    await server.retire(limitMs);
  }
}

function publicKeyOf(blob: Uint8Array): string {
  return `ssh-ed25519 ${Buffer.from(blob).toString('base64')} ${KEY_COMMENT}`;
}

/** The owner's words, as they came from its process. */
function errorFrom({ code, message, hint }: PushFailure): BridgeError {
  // Both ends are the same program and user; an unknown code would only misname the class of failure.
  const known = /^(key|access|credentials|target|network|api)\./.test(code)
    ? (code as ErrorCode)
    : 'key.failed';
  return new BridgeError(known, message, hint === '' ? {} : { hint });
}
