import { randomBytes } from 'node:crypto';
import { BridgeError } from '../errors.ts';
import type { Logger } from '../logger.ts';
import { authorizedKeysScript, editFault, isOsUser } from './authorized-keys.ts';

/** How a public key gets to the account. */
export type PushMethod = 'instance-connect' | 'run-command';

/** EC2 Instance Connect, as far as it is needed here. Rejects with BridgeError. */
export interface InstanceConnect {
  sendSshPublicKey(
    request: {
      readonly instanceId: string;
      readonly osUser: string;
      readonly publicKey: string;
      readonly availabilityZone?: string | undefined;
    },
    signal: AbortSignal,
  ): Promise<void>;
}

/** Systems Manager Run Command, as far as it is needed here. Rejects with BridgeError. */
export interface RunCommand {
  run(
    request: {
      readonly target: string;
      readonly script: readonly string[];
      readonly comment: string;
      readonly timeoutSeconds: number;
    },
    signal: AbortSignal,
  ): Promise<{
    readonly status: string;
    readonly detail: string;
    readonly exitCode: number;
    readonly stdout: string;
    readonly stderr: string;
  }>;
}

export interface PushApis {
  instanceConnect(): Promise<InstanceConnect>;
  commands(): Promise<RunCommand>;
}

export interface PusherOptions {
  readonly method: PushMethod;
  readonly node: string;
  readonly osUser: string;
  readonly availabilityZone?: string | undefined;
  readonly apis: () => Promise<PushApis>;
  readonly logger: Logger;
  /** Monotonic milliseconds. */
  readonly now: () => number;
}

/** EC2 Instance Connect keeps a key for 60 s; one this old is pushed again before it is used. */
const INSTANCE_CONNECT_FRESH_MS = 45_000;
/** sshd's default LoginGraceTime is 120 s; the rest is for the command to get there. */
const LINE_LIFE_SECONDS = 180;
const LINE_FRESH_MS = 120_000;
/** No longer than sshd waits for a login. Throttled calls are repeated within it. */
const PUSH_LIMIT_MS = 60_000;
/** EC2 Instance Connect's own pattern for InstanceOSUser. */
const INSTANCE_CONNECT_USER = /^[A-Za-z_][A-Za-z0-9@._-]{0,30}[A-Za-z0-9$_-]?$/;

/** What the node's kind allows. Throws usage.arguments. */
export function choosePushMethod(asked: PushMethod | 'auto', node: string): PushMethod {
  const isInstance = /^i-[0-9a-f]+$/.test(node);
  if (!isInstance && !/^mi-[0-9a-f]+$/.test(node)) {
    throw new BridgeError(
      'usage.arguments',
      `a key can be pushed to a node (i-… or mi-…), not to ${node}`,
      { hint: 'leave out --push-key' },
    );
  }
  if (asked === 'auto') return isInstance ? 'instance-connect' : 'run-command';
  if (asked === 'instance-connect' && !isInstance) {
    throw new BridgeError(
      'usage.arguments',
      `EC2 Instance Connect is for EC2 instances, and ${node} is another managed node`,
      { hint: 'use --push-key run-command or --push-key auto' },
    );
  }
  return asked;
}

/** Refuses what cannot work before anything is connected. Throws key.refused. */
export function checkPush(
  method: PushMethod,
  osUser: string,
  keyType: string,
  keyLine: string,
): void {
  const isUser =
    isOsUser(osUser) && (method === 'run-command' || INSTANCE_CONNECT_USER.test(osUser));
  if (!isUser) {
    throw new BridgeError('key.refused', `no key can be pushed for a user called '${osUser}'`, {
      hint: 'give the login name of the node as --user (%r)',
    });
  }
  if (method === 'instance-connect' && !['ssh-ed25519', 'ssh-rsa'].includes(keyType)) {
    throw new BridgeError(
      'key.refused',
      `EC2 Instance Connect takes ed25519 and RSA keys, and this one is ${keyType}`,
      { hint: 'choose another --key, or --push-key run-command' },
    );
  }
  if (keyLine.length > 4096) {
    throw new BridgeError('key.refused', 'the public key is longer than 4096 characters');
  }
}

/** Puts public keys at one account of one node, and takes them away again where that is needed. */
export class KeyPusher {
  readonly #options: PusherOptions;
  readonly #freshMs: number;
  readonly #ending = new AbortController();
  /** By public key: when it got there, or the push that is under way. */
  readonly #pushedAt = new Map<string, number>();
  readonly #underWay = new Map<string, Promise<void>>();
  /** What stands in authorized_keys because of us, or may. */
  #lines: { readonly publicKey: string; readonly id: string }[] = [];

  constructor(options: PusherOptions) {
    this.#options = options;
    this.#freshMs =
      options.method === 'instance-connect' ? INSTANCE_CONNECT_FRESH_MS : LINE_FRESH_MS;
  }

  /** Loads what the call needs, so that only the call itself is left. Never rejects. */
  async warm(): Promise<void> {
    const { method, apis, logger } = this.#options;
    try {
      const ready = await apis();
      await (method === 'instance-connect' ? ready.instanceConnect() : ready.commands());
    } catch (error) {
      logger.debug({ error: String(error) }, 'key push could not be readied');
    }
  }

  /** Resolves when the key is at the account and will be for a while. Parallel calls share one push. */
  ensure(publicKey: string): Promise<void> {
    const current = this.#underWay.get(publicKey);
    if (current !== undefined) return current;
    const at = this.#pushedAt.get(publicKey);
    if (at !== undefined && this.#options.now() - at < this.#freshMs) return Promise.resolve();
    const push = this.#push(publicKey).finally(() => this.#underWay.delete(publicKey));
    this.#underWay.set(publicKey, push);
    return push;
  }

  /** Takes the keys away that would stay longer than a minute, as far as `signal` allows. Never rejects. */
  async remove(signal: AbortSignal): Promise<void> {
    this.#ending.abort();
    const { node, osUser, apis, logger } = this.#options;
    const lines = this.#lines;
    this.#lines = [];
    this.#pushedAt.clear();
    await Promise.all(
      lines.map(async ({ publicKey, id }) => {
        try {
          const commands = await (await apis()).commands();
          const script = authorizedKeysScript({
            action: 'remove',
            osUser,
            publicKey: withoutComment(publicKey),
            id,
            lifeSeconds: 0,
          });
          const comment = 'ssm-bridge: remove a public key';
          await commands.run({ target: node, script, comment, timeoutSeconds: 30 }, signal);
          logger.debug({ node, osUser }, 'public key removed');
        } catch (error) {
          // It expires by itself.
          logger.debug({ error: String(error) }, 'public key not removed');
        }
      }),
    );
  }

  async #push(publicKey: string): Promise<void> {
    const { method, logger, now } = this.#options;
    const limit = AbortSignal.timeout(PUSH_LIMIT_MS);
    const startedAt = now();
    const signal = AbortSignal.any([limit, this.#ending.signal]);
    try {
      await (method === 'instance-connect'
        ? this.#pushByInstanceConnect(publicKey, signal)
        : this.#pushByRunCommand(publicKey, signal));
    } catch (error) {
      if (!limit.aborted) throw error;
      throw new BridgeError(
        'key.failed',
        `pushing the key took longer than ${PUSH_LIMIT_MS / 1000} s`,
        { cause: error },
      );
    }
    // From its start: the service's clock may have run since then.
    this.#pushedAt.set(publicKey, startedAt);
    logger.debug({ method, tookMs: Math.round(now() - startedAt) }, 'public key pushed');
  }

  async #pushByInstanceConnect(publicKey: string, signal: AbortSignal): Promise<void> {
    const { node, osUser, availabilityZone, apis } = this.#options;
    const instanceConnect = await (await apis()).instanceConnect();
    await instanceConnect.sendSshPublicKey(
      { instanceId: node, osUser, publicKey, availabilityZone },
      signal,
    );
  }

  async #pushByRunCommand(publicKey: string, signal: AbortSignal): Promise<void> {
    const { node, osUser, apis } = this.#options;
    const id = randomBytes(8).toString('hex');
    this.#lines.push({ publicKey, id });
    const commands = await (await apis()).commands();
    const script = authorizedKeysScript({
      action: 'add',
      osUser,
      publicKey: withoutComment(publicKey),
      id,
      lifeSeconds: LINE_LIFE_SECONDS,
    });
    const comment = 'ssm-bridge: add a public key that expires';
    const { status, detail, exitCode, stderr } = await commands.run(
      { target: node, script, comment, timeoutSeconds: 30 },
      signal,
    );
    if (status === 'Success') return;
    if (exitCode > 0) throw editFault(exitCode, osUser, node, stderr) ?? notRun(node, detail);
    throw notRun(node, detail);
  }
}

function notRun(node: string, detail: string): BridgeError {
  return new BridgeError(
    'target.not-connected',
    `${node} did not run the command that adds the key (${detail})`,
    { hint: 'check that the node is online in Systems Manager' },
  );
}

function withoutComment(publicKey: string): string {
  return publicKey.split(' ', 2).join(' ');
}
