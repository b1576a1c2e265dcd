/**
 * A pushed key, from the client's first byte to the session's end. How `connect` uses it:
 *
 *     const push = openKeyPush({ ... });            // before or beside StartSession
 *     void push.failed.then((error) => end(error)); // the connection cannot log in any more
 *     push.warm();                                  // once StartSession is on the wire
 *     const source = push.wrapSource(stdin, () => channel.sourceReady());
 *     ...
 *     await push.close();                           // when the client is gone or the session is over
 *
 * `close` takes a second and a half at most, unless other logins wait for a signature of this one's agent:
 * then it goes on until they have it.
 */
import { createHash } from 'node:crypto';
import { BridgeError } from '../errors.ts';
import type { Logger } from '../logger.ts';
import { gatedSource, type PayloadSource } from './gated-source.ts';
import { NewkeysGate } from './newkeys-gate.ts';
import { ensureKeyFile, readAgentKey, readPublicKeyFile } from './public-key.ts';
import type { KeyChoice, PublicKey } from './public-key.ts';
import { checkPush, choosePushMethod, KeyPusher, type PushApis, type PushMethod } from './push.ts';
import { SharedAgent } from './shared-agent.ts';
import { defaultSocketPath, expandHome, SocketPlace } from './socket-place.ts';

/** Longest that taking the key away may hold up the end; it expires anyway. */
const REMOVE_LIMIT_MS = 1500;
/** A passphrase is asked for after the push, and sshd's default LoginGraceTime gives two minutes for it. */
const LOGIN_LIMIT_MS = 120_000;
const REPEAT_EVERY_MS = 45_000;
/** A client that has sent this much since NEWKEYS has logged in; one that asks for a passphrase has not. */
const LOGIN_BYTES = 4096;
/** Longest that the agent serves logins already begun, after its own session is over. */
const SERVE_LIMIT_MS = 20_000;

export interface KeyPushOptions {
  readonly pushKey: PushMethod | 'auto';
  readonly key: KeyChoice;
  /** The login name (%r). */
  readonly user: string;
  /** The node that gets the key: i-… or mi-…. */
  readonly node: string;
  /** Host and port as ssh has them (%h, %p); they name the default agent socket. */
  readonly target: string;
  readonly port: number;
  readonly agentSocket?: string | undefined;
  readonly availabilityZone?: string | undefined;
  /** Tells identities apart that push to the same account: profile and region as given. */
  readonly identity: string;
  /** Asked for once it is needed, or at `warm`. */
  readonly apis: () => Promise<PushApis>;
  readonly env: NodeJS.ProcessEnv;
  readonly logger: Logger;
  /** For failures that need not be this login's end. */
  readonly notice: (text: string) => void;
}

export interface KeyPush {
  /**
   * What makes this login impossible, when something does: key.*, access.*, credentials.*, target.*,
   * network.*, api.*. Never something that befalls a login that has succeeded.
   */
  readonly failed: Promise<BridgeError>;
  /** Readies the API client. */
  warm(): void;
  /** The client's bytes, held back where they must wait. `ready` is called when there may be some again. */
  wrapSource(source: PayloadSource, ready: () => void): PayloadSource;
  /** Idempotent; never rejects. Begun work of other logins is finished first. */
  close(): Promise<void>;
}

/** Throws usage.arguments, key.refused or key.agent for what cannot work; everything later goes to `failed`. */
export function openKeyPush(options: KeyPushOptions): KeyPush {
  const { key, user, node, logger, notice } = options;
  const method = choosePushMethod(options.pushKey, node);
  const pusher = new KeyPusher({
    method,
    node,
    osUser: user,
    availabilityZone: options.availabilityZone,
    apis: once(options.apis),
    logger,
    now: () => performance.now(),
  });
  let fail: (error: BridgeError) => void = () => undefined;
  const failed = new Promise<BridgeError>((resolve) => {
    fail = resolve;
  });
  const report = (error: unknown): void => {
    fail(
      error instanceof BridgeError
        ? error
        : new BridgeError('key.failed', 'the key could not be pushed', { cause: error }),
    );
  };
  /** This login may still be under way: ssh has accepted the host key and said little since. */
  const isLoggingIn = (): boolean => isPastNewkeys && bytesSinceNewkeys <= LOGIN_BYTES;
  const push = async (publicKey: string): Promise<void> => {
    try {
      await pusher.ensure(publicKey);
      hasPushed = true;
    } catch (error) {
      // Later pushes are for logins of others, or for a passphrase that may never come.
      if (isPastNewkeys && !hasPushed && closing === undefined) report(error);
      else logger.debug({ error: String(error) }, 'key not pushed');
      throw error;
    }
  };

  const place = key.kind === 'ephemeral' ? placeOf(options) : undefined;
  let agent: SharedAgent | undefined;
  let known: PublicKey | undefined;
  const prepared = prepare();
  prepared.catch(report);

  async function prepare(): Promise<void> {
    if (place !== undefined) {
      checkPush(method, user, 'ssh-ed25519', '');
      agent = new SharedAgent({
        place,
        destination: destinationOf(options, method),
        push,
        onPushFailed: ({ message, hint }) => {
          if (isLoggingIn()) notice(hint === undefined ? message : `${message}; ${hint}`);
        },
        onLost: (error) => {
          if (isPastNewkeys) logger.debug({ error: error.message }, 'agent lost');
          else report(error);
        },
        logger,
      });
      await agent.start();
      return;
    }
    known = await readKey(key, options);
    checkPush(method, user, known.type, known.line);
  }

  let isPastNewkeys = false;
  let hasPushed = false;
  let bytesSinceNewkeys = 0;
  let repeat: NodeJS.Timeout | undefined;

  /** Keeps a key that ssh may not have used yet from expiring. */
  function repeatPush(publicKey: string, since: number): void {
    repeat = setTimeout(() => {
      if (bytesSinceNewkeys > LOGIN_BYTES || performance.now() - since > LOGIN_LIMIT_MS) return;
      push(publicKey).catch(() => undefined); // Logged there.
      repeatPush(publicKey, since);
    }, REPEAT_EVERY_MS);
    repeat.unref();
  }

  function atNewkeys(): Promise<void> | undefined {
    isPastNewkeys = true;
    bytesSinceNewkeys = 0;
    if (known === undefined) return agent?.atNewkeys();
    repeatPush(known.line, performance.now());
    return push(known.line);
  }

  let closing: Promise<void> | undefined;

  async function close(): Promise<void> {
    clearTimeout(repeat);
    await prepared.catch(() => undefined); // Reported above.
    await agent?.end(SERVE_LIMIT_MS);
    await pusher.remove(AbortSignal.timeout(REMOVE_LIMIT_MS));
  }

  return {
    failed,
    warm: () => void pusher.warm(),
    wrapSource(source, ready) {
      const gated = gatedSource(source, new NewkeysGate(), { prepared, ready, atNewkeys });
      return {
        pull(maxBytes) {
          const bytes = gated.pull(maxBytes);
          bytesSinceNewkeys += bytes?.length ?? 0;
          return bytes;
        },
      };
    },
    close: () => (closing ??= close()),
  };
}

function placeOf({ agentSocket, user, target, port }: KeyPushOptions): SocketPlace {
  return new SocketPlace(
    agentSocket === undefined ? defaultSocketPath(user, target, port) : expandHome(agentSocket),
  );
}

function readKey(key: KeyChoice, { env }: KeyPushOptions): Promise<PublicKey> {
  switch (key.kind) {
    case 'ephemeral':
      return Promise.reject(new BridgeError('internal', 'an ephemeral key is the agent’s'));
    case 'public':
      return readPublicKeyFile(key.path);
    case 'agent':
      return readAgentKey(key.comment, env);
    case 'file':
      return ensureKeyFile(key.path);
  }
}

/** A digest, so that nothing about the account stands in another process's memory. */
function destinationOf({ node, user, identity }: KeyPushOptions, method: PushMethod): string {
  return createHash('sha256')
    .update(JSON.stringify([method, node, user, identity]))
    .digest('hex');
}

function once<T>(make: () => Promise<T>): () => Promise<T> {
  let made: Promise<T> | undefined;
  return () => (made ??= make());
}
