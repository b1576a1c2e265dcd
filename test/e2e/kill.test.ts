/** A hundred sessions killed at random moments: whatever dies, nothing stays open and nothing stays behind. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openBench, type Bench } from '../support/bench.ts';
import { startSshd, type Sshd } from '../support/openssh.ts';
import { seeded } from '../support/seeded.ts';

const seed = Number(process.env['KILL_SEED'] ?? 20260101);

let sshd: Sshd;
beforeAll(async () => {
  sshd = await startSshd();
});
afterAll(() => sshd.stop());

const kinds = [
  { kills: 'ssh', signal: 'SIGKILL' },
  { kills: 'bridge', signal: 'SIGTERM' },
  { kills: 'bridge', signal: 'SIGHUP' },
] as const;

/** What the session is doing when it dies. */
const loads = [
  ['true', 'true'],
  ['idle', 'sleep 30'],
  ['upload', 'cat >/dev/null'],
  ['download', 'cat /dev/zero'],
  ['both', 'cat'],
] as const;

async function killOne(bench: Bench, random: () => number): Promise<string> {
  const kind = kinds[Math.floor(random() * kinds.length)]!;
  const [load, command] = loads[Math.floor(random() * loads.length)]!;
  const afterMs = Math.floor(random() ** 2 * 2000);
  const running = bench.startSsh([bench.host, command], {
    hashOnly: true,
    timeoutMs: 30_000,
    ...(load === 'upload' || load === 'both' ? { stdin: 'pipe' } : {}),
  });
  if (load === 'upload' || load === 'both') {
    const chunk = Buffer.alloc(256 * 1024, 7);
    const feed = (): void => {
      while (running.stdin.writable && running.stdin.write(chunk));
    };
    running.stdin.on('drain', feed);
    feed();
  }
  // The moment is what is random here; there is nothing to wait for.
  await new Promise((resolve) => setTimeout(resolve, afterMs));
  if (kind.kills === 'ssh') {
    running.signal(kind.signal);
  } else {
    for (const pid of bench.bridgePids()) process.kill(pid, kind.signal);
    // SIGHUP alone means nothing while ssh lives; ssh dies of what killed the bridge's session.
    setTimeout(() => {
      running.signal('SIGKILL');
    }, 50);
  }
  await running.exited;
  if (running.child.stdin !== null) running.child.stdin.destroy();
  return `${kind.kills} ${kind.signal} after ${afterMs} ms of ${load}`;
}

describe.concurrent(`killed at random moments (seed ${seed})`, () => {
  const lanes = [0, 1, 2, 3];
  it.each(lanes)('25 sessions in lane %i leave nothing behind', async (lane) => {
    const random = seeded(seed + lane);
    const bench = await openBench({ sshd });
    try {
      for (let round = 0; round < 25; round++) {
        const what = await killOne(bench, random);
        await bench.assertClean(6000).catch((error: unknown) => {
          throw new Error(`lane ${lane}, round ${round}: ${what}`, { cause: error });
        });
      }
      expect(bench.emulator.openSessionCount()).toBe(0);
    } finally {
      await bench.close();
    }
  });
});
