import { Echo } from './echo.ts';
import { nodes, startEmulated } from './emulated.ts';
import { costOf, firstOutput, MiB, pause, startBridge, stop, type Cost } from './process.ts';
import { atLeast, format, memoryRows, row, type SectionSettings } from './rows.ts';
import { median, type Row } from './stats.ts';

/** Many bridges at once: what each costs, and whether one that is busy disturbs the others. */
export async function many({ isQuick }: SectionSettings): Promise<Row[]> {
  const count = isQuick ? 20 : 100;
  const idleMs = isQuick ? 5_000 : 20_000;
  const emulated = await startEmulated({});
  const bridges: Echo[] = [];
  try {
    await startAll(bridges, count, emulated.env);
    await pause(3_000);
    const before = bridges.map((bridge) => costOf(bridge.pid));
    await pause(idleMs);
    const after = bridges.map((bridge) => costOf(bridge.pid));
    const alone = await echoes(bridges);
    const [beside, bulk] = await besideBulk(emulated.env, () => echoes(bridges));
    return [
      ...rows(count, idleMs, before, after, alone, beside),
      ...memoryRows('many', 'of that upload', bulk),
    ];
  } finally {
    await Promise.all(bridges.map((bridge) => bridge.stop()));
    emulated.close();
  }
}

/** A few at a time: they have to share the cores. */
async function startAll(
  bridges: Echo[],
  count: number,
  env: Readonly<Record<string, string>>,
): Promise<void> {
  while (bridges.length < count) {
    const some = Math.min(5, count - bridges.length);
    bridges.push(...(await Promise.all(Array.from({ length: some }, () => Echo.start(env)))));
  }
}

async function besideBulk<T>(
  env: Readonly<Record<string, string>>,
  act: () => Promise<T>,
): Promise<[T, Cost]> {
  const bulk = startBridge({ env, node: nodes.discard });
  try {
    await firstOutput(bulk);
    bulk.stdout.resume();
    const chunk = Buffer.alloc(64 * 1024);
    const feed = (): void => {
      while (bulk.stdin.writable && bulk.stdin.write(chunk));
    };
    bulk.stdin.on('drain', feed);
    feed();
    await pause(1_000);
    return [await act(), costOf(bulk.pid)];
  } finally {
    await stop(bulk.child);
  }
}

/** One after the other; those that did not answer are left out. */
async function echoes(bridges: readonly Echo[]): Promise<number[]> {
  const measured: number[] = [];
  for (const bridge of bridges) {
    const ms = await bridge.echo();
    if (ms !== undefined) measured.push(ms);
  }
  return measured;
}

function rows(
  count: number,
  idleMs: number,
  before: readonly Cost[],
  after: readonly Cost[],
  alone: readonly number[],
  beside: readonly number[],
): Row[] {
  const name = 'many';
  const alive = Math.min(alone.length, beside.length);
  const cpu = mean(after.map(({ cpuMs }, index) => cpuMs - (before[index]?.cpuMs ?? 0)));
  const pss = mean(after.map(({ pssBytes }) => pssBytes)) / MiB;
  const rss = mean(after.map(({ rssBytes }) => rssBytes)) / MiB;
  const [echo, busyEcho] = [median(alone), median(beside)];
  const idleFor = `${idleMs / 1000} s`;
  return [
    row(name, `alive of ${count} idle connections`, alive, String(alive), atLeast(count, alive)),
    row(name, 'proportional share (PSS) of each', pss, `${format(pss)} MiB`),
    row(name, 'resident memory (RSS) of each', rss, `${format(rss)} MiB`),
    row(name, `CPU of each in ${idleFor} of idling`, cpu, `${format(cpu)} ms`),
    row(name, 'one byte there and back, median', echo, `${format(echo)} ms`),
    row(name, '… beside an upload at full rate', busyEcho, `${format(busyEcho)} ms`),
  ];
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}
