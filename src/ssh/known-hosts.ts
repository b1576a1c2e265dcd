import { BridgeError } from '../errors.ts';
import type { Logger } from '../logger.ts';
import type { KnownNode } from './host-key-record.ts';
import { HostKeyStore } from './host-key-store.ts';
import {
  describeKey,
  fetchHostKeys,
  haveChanged,
  presentedKey,
  type HostKey,
} from './host-keys.ts';
import type { RunCommand } from './push.ts';

/** How long a failure stands for the next ones: ssh asks twice, and parallel logins all at once. */
const FAILURE_LIFE_MS = 10_000;

export interface KnownHostsOptions {
  /** As ssh wants it at the beginning of each line (%H). */
  readonly host: string;
  /** Where ssh connects to (%h), when `host` may be something else. */
  readonly node: string | undefined;
  /** %K. */
  readonly presented: string | undefined;
  readonly cacheMs: number;
  readonly timeoutMs: number;
  /** Believe the keys that the node states now, whatever was known before. */
  readonly acceptChanged: boolean;
  readonly commands: () => Promise<RunCommand>;
  readonly env: NodeJS.ProcessEnv;
  readonly notice: (text: string) => void;
  readonly logger: Logger;
  /** Unix time in milliseconds. */
  readonly wallNow: () => number;
  /** The process that runs this one: ssh, when it is KnownHostsCommand. */
  readonly parentPid: number;
}

/**
 * Lines for known_hosts. Nothing, after a notice, when the node's keys are not to be had: ssh then goes by
 * the user's files. Rejects hostkey.changed for a key that is not the node's; ssh gives up at that.
 */
export async function knownHostsLines(options: KnownHostsOptions): Promise<string> {
  const node = nodeIn(options.node) ?? nodeIn(options.host);
  if (node === undefined) return '';
  const presented = presentedKey(options.presented);
  const store = await openStore(options, node);
  if (store === undefined) return '';
  const before = await store.known();
  const known = await currentKeys(options, node, store, before, presented);
  if (known === undefined) {
    // Keys too old to vouch for a server are still good enough to tell that it has others.
    if (before !== undefined && presented !== undefined) refuseOther(node, before, presented);
    return '';
  }
  if (presented !== undefined && !known.keys.includes(presented)) {
    throw notTheNodes(node, known, presented);
  }
  return known.keys.map((key) => `${options.host} ${key}\n`).join('');
}

/** A node id, also as `[id]:port`. */
function nodeIn(host: string | undefined): string | undefined {
  return /^\[?(m?i-[0-9a-f]{8,17})(?:\]:\d+)?$/.exec(host ?? '')?.[1];
}

async function openStore(
  { env, notice }: KnownHostsOptions,
  node: string,
): Promise<HostKeyStore | undefined> {
  try {
    return await HostKeyStore.open(env, node);
  } catch (error) {
    if (!(error instanceof BridgeError)) throw error;
    notice(withoutKeys(error));
    return undefined;
  }
}

async function currentKeys(
  options: KnownHostsOptions,
  node: string,
  store: HostKeyStore,
  before: KnownNode | undefined,
  presented: HostKey | undefined,
): Promise<KnownNode | undefined> {
  const { acceptChanged, timeoutMs, wallNow, notice, parentPid } = options;
  const enough = sufficient(before, options, presented);
  if (enough !== undefined) return enough;
  return store.alone(timeoutMs, async () => {
    const meanwhile = await store.known();
    const isNew = meanwhile?.fetchedAt !== before?.fetchedAt;
    const fetched = isNew ? sufficient(meanwhile, options, presented) : undefined;
    if (fetched !== undefined) return fetched;
    const failure = acceptChanged ? undefined : await store.recentFailure();
    if (failure !== undefined && isWithin(wallNow() - failure.at, FAILURE_LIFE_MS)) {
      if (failure.toldPid !== parentPid) notice(failure.text);
      return undefined;
    }
    let keys: readonly HostKey[];
    try {
      keys = await fetchKeys(options, node);
    } catch (error) {
      // Asked for by hand, and not for ssh to go on without.
      if (!(error instanceof BridgeError) || acceptChanged) throw error;
      const text = withoutKeys(error);
      await store.rememberFailure({ at: wallNow(), text, toldPid: parentPid });
      notice(text);
      return undefined;
    }
    if (meanwhile !== undefined && haveChanged(meanwhile.keys, keys) && !acceptChanged) {
      throw changed(node, meanwhile, keys);
    }
    const known = { keys, fetchedAt: wallNow() };
    await store.remember(known.keys, known.fetchedAt);
    return known;
  });
}

/** What is known, if the node need not be asked: recent, and with the key that is to be judged. */
function sufficient(
  known: KnownNode | undefined,
  { cacheMs, acceptChanged, wallNow }: KnownHostsOptions,
  presented: HostKey | undefined,
): KnownNode | undefined {
  if (known === undefined || acceptChanged) return undefined;
  const isRecent = isWithin(wallNow() - known.fetchedAt, cacheMs);
  const isAnswer = presented === undefined || known.keys.includes(presented);
  return isRecent && isAnswer ? known : undefined;
}

/** Negative ages come from clocks that were set back. */
function isWithin(ageMs: number, limitMs: number): boolean {
  return ageMs >= 0 && ageMs < limitMs;
}

async function fetchKeys(options: KnownHostsOptions, node: string): Promise<readonly HostKey[]> {
  const limit = AbortSignal.timeout(options.timeoutMs);
  try {
    return await fetchHostKeys(await options.commands(), node, limit);
  } catch (error) {
    if (!limit.aborted) throw error;
    throw new BridgeError(
      'hostkey.unavailable',
      `the node did not answer within ${options.timeoutMs / 1000} s`,
      { cause: error },
    );
  }
}

function refuseOther(node: string, known: KnownNode, presented: HostKey): void {
  if (!known.keys.includes(presented)) throw notTheNodes(node, known, presented);
}

function withoutKeys({ message, hint }: BridgeError): string {
  const advice = hint === undefined ? '' : `; ${hint}`;
  return `host keys not verified by Systems Manager, known_hosts decides: ${message}${advice}`;
}

function notTheNodes(node: string, known: KnownNode, presented: HostKey): BridgeError {
  return new BridgeError(
    'hostkey.changed',
    `the server's host key (${describeKey(presented)}) is not one of ${node}: refused`,
    {
      hint: `somebody may be in between, or another sshd answers on this port; ${node} has ${known.keys.map(describeKey).join(', ')}`,
    },
  );
}

function changed(node: string, before: KnownNode, now: readonly HostKey[]): BridgeError {
  const since = new Date(before.fetchedAt).toISOString().slice(0, 16).replace('T', ' ');
  const fresh = now.filter((key) => !before.keys.includes(key)).map(describeKey);
  return new BridgeError(
    'hostkey.changed',
    `the host keys of ${node} have changed since ${since} UTC (now ${fresh.join(', ')}): refused`,
    {
      hint: `if that is expected, run ssm-bridge known-hosts --accept-changed ${node}`,
    },
  );
}
