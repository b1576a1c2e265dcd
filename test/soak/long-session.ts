/** One ssh session that is open during the whole soak, talks now and then, and must not grow. */
import type { Bench } from '../support/bench.ts';
import { openDescriptors, residentBytes } from '../support/process.ts';

export interface LongSession {
  /** Resident memory of its bridge over time, in bytes. */
  readonly memory: readonly number[];
  readonly descriptors: readonly number[];
  readonly lines: number;
  /** Says goodbye; gives ssh's exit status. Rejects when a line was lost. */
  end(): Promise<number | null>;
}

export async function openLongSession(bench: Bench, lifetimeMs: number): Promise<LongSession> {
  const running = bench.startSsh([bench.host, 'cat'], {
    stdin: 'pipe',
    timeoutMs: lifetimeMs + 600_000,
  });
  running.stdin.write('0\n');
  await running.waitForStdout(/^0\n/);
  const [pid] = bench.bridgePids();
  if (pid === undefined) throw new Error('the long session has no bridge');
  const memory: number[] = [];
  const descriptors: number[] = [];
  let lines = 1;
  const talk = setInterval(() => {
    running.stdin.write(`${lines++}\n`);
    try {
      memory.push(residentBytes(pid));
      descriptors.push(openDescriptors(pid));
    } catch {
      // The bridge is gone; end() says so.
    }
  }, 500);
  return {
    memory,
    descriptors,
    get lines() {
      return lines;
    },
    async end() {
      clearInterval(talk);
      running.stdin.end();
      const done = await running.finished;
      const wanted = Array.from({ length: lines }, (_, index) => `${index}\n`).join('');
      if (done.stdout.toString() !== wanted) {
        throw new Error(`the long session lost lines: ${done.stderr}`);
      }
      return done.code;
    },
  };
}
