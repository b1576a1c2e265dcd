import { fork, type ChildProcess } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import type { BareOptions, BareResult } from './bare.ts';
import { cleanEnvironment, unlessItEnds, within } from './process.ts';
import type { ServiceEvent, ServiceOptions } from './service.ts';

/** This file's bundle, which plays every part depending on its first argument. */
const self = fileURLToPath(import.meta.url);

export interface Peer {
  readonly env: Readonly<Record<string, string>>;
  readonly url: string;
  /** The next event that `accepts` says yes to, past ones that nobody took included. */
  next<K extends ServiceEvent['kind']>(
    kind: K,
    accepts?: (event: Extract<ServiceEvent, { kind: K }>) => boolean,
    limitMs?: number,
  ): Promise<Extract<ServiceEvent, { kind: K }>>;
  /** Forgets past events. */
  reset(): void;
  close(): void;
}

/** Starts the lean service in a process of its own, so that it has a core of its own. */
export async function startService(options: ServiceOptions): Promise<Peer> {
  const child = fork(self, ['--service', JSON.stringify(options)], {
    env: cleanEnvironment({}),
    execArgv: [],
  });
  const events = new EventQueue(child);
  const ready = await unlessItEnds(child, events.next('ready'));
  return {
    env: ready.env,
    url: ready.url,
    next: (kind, accepts, limitMs) => events.next(kind, accepts, limitMs),
    reset: () => {
      events.reset();
    },
    close: () => {
      child.kill();
    },
  };
}

/** Longer than any transfer takes; a benchmark that hangs should say so. */
const longestMs = 300_000;

class EventQueue {
  #past: ServiceEvent[] = [];
  readonly #waiting: ((event: ServiceEvent) => boolean)[] = [];

  constructor(child: ChildProcess) {
    child.on('message', (event: ServiceEvent) => {
      const taker = this.#waiting.findIndex((wants) => wants(event));
      if (taker >= 0) this.#waiting.splice(taker, 1);
      else this.#past.push(event);
    });
  }

  reset(): void {
    this.#past = [];
  }

  next<K extends ServiceEvent['kind']>(
    kind: K,
    accepts: (event: Extract<ServiceEvent, { kind: K }>) => boolean = () => true,
    limitMs: number = longestMs,
  ): Promise<Extract<ServiceEvent, { kind: K }>> {
    type Wanted = Extract<ServiceEvent, { kind: K }>;
    const matches = (event: ServiceEvent): event is Wanted =>
      // The kind was compared, which narrows the union for a literal kind but not for a generic one.
      event.kind === kind && accepts(event as Wanted);
    const index = this.#past.findIndex(matches);
    const found = this.#past[index];
    if (found !== undefined && matches(found)) {
      this.#past.splice(0, index + 1);
      return Promise.resolve(found);
    }
    return new Promise((resolve, reject) => {
      const take = (event: ServiceEvent): boolean => {
        if (!matches(event)) return false;
        clearTimeout(timer);
        resolve(event);
        return true;
      };
      const timer = setTimeout(() => {
        this.#waiting.splice(this.#waiting.indexOf(take), 1);
        reject(new Error(`no '${kind}' within ${limitMs / 1000} s`));
      }, limitMs);
      this.#waiting.push(take);
    });
  }
}

/** Runs a bare loop against the peer in a process of its own. */
export function bareLoop(
  { url, env }: Peer,
  loop: Omit<BareOptions, 'url' | 'caFile'>,
): Promise<BareResult> {
  const options: BareOptions = { ...loop, url, caFile: env['AWS_CA_BUNDLE'] ?? '' };
  const child = fork(self, ['--bare', JSON.stringify(options)], {
    env: cleanEnvironment({}),
    execArgv: [],
  });
  const result = new Promise<BareResult>((resolve) => {
    child.once('message', resolve);
  });
  return unlessItEnds(child, within(result, longestMs, 'a bare loop'));
}
