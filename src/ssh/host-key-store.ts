import { homedir } from 'node:os';
import { isAbsolute, join } from 'node:path';
import type { HostKey } from './host-keys.ts';
import {
  parseStored,
  parseFailure,
  type KnownNode,
  type RecentFailure,
} from './host-key-record.ts';
import {
  preparePrivateDirectory,
  readPrivateFile,
  withLock,
  writePrivateFile,
} from './private-file.ts';

/** What is remembered of each node: its keys as last fetched, and a failure to fetch them just now. */
export class HostKeyStore {
  readonly #directory: string;
  readonly #node: string;

  /** Rejects local.io when the directory is not the user's alone. */
  static async open(env: NodeJS.ProcessEnv, node: string): Promise<HostKeyStore> {
    const directory = hostKeyDirectory(env);
    await preparePrivateDirectory(directory);
    return new HostKeyStore(directory, node);
  }

  private constructor(directory: string, node: string) {
    this.#directory = directory;
    this.#node = node;
  }

  async known(): Promise<KnownNode | undefined> {
    return parseStored(await readPrivateFile(this.#path('json')), this.#node);
  }

  async remember(keys: readonly HostKey[], fetchedAt: number): Promise<void> {
    const record = { version: 1, node: this.#node, fetchedAt, keys };
    await writePrivateFile(this.#path('json'), `${JSON.stringify(record)}\n`);
  }

  async recentFailure(): Promise<RecentFailure | undefined> {
    return parseFailure(await readPrivateFile(this.#path('failed')));
  }

  async rememberFailure(failure: RecentFailure): Promise<void> {
    await writePrivateFile(this.#path('failed'), `${JSON.stringify(failure)}\n`);
  }

  /** One process at a time asks the node; the others wait and find its answer. */
  alone<T>(limitMs: number, work: () => Promise<T>): Promise<T> {
    return withLock(this.#path('lock'), limitMs, work);
  }

  #path(kind: 'json' | 'failed' | 'lock'): string {
    return join(this.#directory, `${this.#node}.${kind}`);
  }
}

function hostKeyDirectory(env: NodeJS.ProcessEnv): string {
  const base = env['XDG_CACHE_HOME'];
  // The XDG base directory specification: relative paths are to be ignored.
  const cache = base !== undefined && isAbsolute(base) ? base : join(homedir(), '.cache');
  return join(cache, 'ssm-bridge', 'host-keys');
}
