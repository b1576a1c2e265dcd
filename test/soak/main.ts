/** The soak: random work over a random network, then a table of what was done and what was left. */
import { randomBytes } from 'node:crypto';
import { parseArgs } from 'node:util';
import { openBench, type Bench } from '../support/bench.ts';
import { seeded } from '../support/seeded.ts';
import { soakCore } from '../support/soak-core.ts';
import { large } from './large.ts';
import { openLongSession, type LongSession } from './long-session.ts';
import { operations, perform } from './operations.ts';
import { startWeather } from './weather.ts';

const help = `usage: scripts/soak [MINUTES] [--seed N] [--workers N]
       scripts/soak --core SCHEDULES [--seed N]
       scripts/soak --large MEBIBYTES

Without options: ssh, scp, rsync and git over a network that changes its kind of trouble every few
seconds, for MINUTES (default 2). Everything is compared by hash. Ends with a table and exit status 0
when nothing was lost, nothing grew, and no session or process was left.

  --seed N       repeat the choices of an earlier run (default: random, printed)
  --workers N    operations at the same time (default 3)
  --core N       instead: N seeded schedules of the protocol core on a simulated network
  --large N      instead: scp and rsync of N MiB through a socket that is cut every few seconds
`;

export async function main(argv: readonly string[]): Promise<number> {
  const { values, positionals } = parseArgs({
    args: [...argv],
    allowPositionals: true,
    options: {
      seed: { type: 'string' },
      workers: { type: 'string', default: '3' },
      core: { type: 'string' },
      large: { type: 'string' },
      help: { type: 'boolean', short: 'h' },
    },
  });
  if (values.help === true) {
    console.log(help);
    return 0;
  }
  const seed = Number(values.seed ?? randomBytes(4).readUInt32BE() % 1_000_000_000);
  if (values.core !== undefined) return core(Number(values.core), seed);
  if (values.large !== undefined) return table(await large(Number(values.large)));
  return soak(Number(positionals[0] ?? 2) * 60_000, seed, Number(values.workers));
}

type Rows = readonly (readonly [what: string, figure: string])[];

/** In the form that a README takes. */
function table(rows: Rows): number {
  const width = Math.max(...rows.map(([what]) => what.length));
  const figureWidth = Math.max(...rows.map(([, figure]) => figure.length));
  console.log(`| ${''.padEnd(width)} | ${''.padEnd(figureWidth)} |`);
  console.log(`| ${'-'.repeat(width)} | ${'-'.repeat(figureWidth)} |`);
  for (const [what, figure] of rows) {
    console.log(`| ${what.padEnd(width)} | ${figure.padEnd(figureWidth)} |`);
  }
  return 0;
}

const batch = 1000;

function core(schedules: number, seed: number): number {
  console.log(`core: ${schedules} schedules from seed ${seed}`);
  const total = { sockets: 0, transmitted: 0, resent: 0, dropped: 0, virtualHours: 0 };
  for (let done = 0; done < schedules; done += batch) {
    try {
      const part = soakCore(Math.min(batch, schedules - done), seed + done);
      for (const key of ['sockets', 'transmitted', 'resent', 'dropped', 'virtualHours'] as const) {
        total[key] += part[key];
      }
    } catch (error) {
      console.error(error instanceof Error ? error.message : error);
      console.error('repeat with: scripts/soak --core 1 --seed SEED (the seed of the message)');
      return 1;
    }
  }
  return table([
    ['schedules, all delivered exactly', String(schedules)],
    ['sockets used', String(total.sockets)],
    ['messages sent', String(total.transmitted)],
    ['of them again', String(total.resent)],
    ['messages dropped by the network', String(total.dropped)],
    ['simulated hours', total.virtualHours.toFixed(1)],
  ]);
}

interface Tally {
  readonly runs: Map<string, number>;
  readonly failures: string[];
  bytes: number;
}

async function soak(durationMs: number, seed: number, workers: number): Promise<number> {
  console.log(`soak: ${durationMs / 60_000} min, ${workers} workers, seed ${seed}`);
  // A dead connection is to be noticed in seconds here, not in a minute and a quarter.
  const bench = await openBench({ bridgeArgs: ['--keepalive', '1s'], emulator: { seed } });
  const startedAt = performance.now();
  const until = startedAt + durationMs;
  try {
    const long = await openLongSession(bench, durationMs);
    const weather = startWeather(bench.emulator, seeded(seed));
    const tally: Tally = { runs: new Map(), failures: [], bytes: 0 };
    let number = 0;
    await Promise.all(
      Array.from({ length: workers }, async (_, worker) => {
        const random = seeded(seed + 1 + worker);
        while (performance.now() < until) await step(bench, number++, random, tally);
      }),
    );
    weather.stop();
    const status = await long.end().catch((error: unknown) => {
      tally.failures.push(String(error));
      return null;
    });
    if (status !== 0) tally.failures.push(`the long session ended with ${String(status)}`);
    await bench.assertClean(10_000).catch((error: unknown) => {
      tally.failures.push(String(error));
    });
    if (hasGrown(long)) tally.failures.push('the bridge of the long session has grown');
    const minutes = (performance.now() - startedAt) / 60_000;
    table(summary(bench, { minutes, seed, tally, long, weather: weather.seen }));
    for (const failure of tally.failures) console.error(`failed: ${failure}`);
    return tally.failures.length === 0 ? 0 : 1;
  } finally {
    await bench.close();
  }
}

async function step(
  bench: Bench,
  number: number,
  random: () => number,
  tally: Tally,
): Promise<void> {
  const names = Object.keys(operations);
  const name = names[Math.floor(random() * names.length)]!;
  try {
    tally.bytes += await perform(name, bench, number, random);
    tally.runs.set(name, (tally.runs.get(name) ?? 0) + 1);
  } catch (error) {
    tally.failures.push(`${name} (operation ${number}): ${String(error)}`);
  }
}

const mebibyte = 1024 * 1024;

/**
 * V8 lets a heap with little to do grow before it collects: over a thousand resumes in a row the bridge
 * goes from 60 MiB to 110 MiB within the first 400 and stays there. Growth beyond that is a leak.
 */
const heapSlackBytes = 48 * mebibyte;

/** Compares the second quarter with the last: the first belongs to the start. */
function hasGrown({ memory, descriptors }: LongSession): boolean {
  const quarter = Math.floor(memory.length / 4);
  if (quarter < 10) return false;
  const mean = (values: readonly number[]): number =>
    values.reduce((sum, value) => sum + value, 0) / values.length;
  const growth = mean(memory.slice(-quarter)) - mean(memory.slice(quarter, 2 * quarter));
  const more =
    Math.max(...descriptors.slice(-quarter)) - Math.max(...descriptors.slice(0, quarter));
  return growth > heapSlackBytes || more > 8;
}

interface Findings {
  readonly minutes: number;
  readonly seed: number;
  readonly tally: Tally;
  readonly long: LongSession;
  readonly weather: ReadonlyMap<string, number>;
}

function summary(bench: Bench, findings: Findings): Rows {
  const { tally, long } = findings;
  const { sessions, faults } = bench.emulator;
  const sum = (pick: (session: (typeof sessions)[number]) => number): number =>
    sessions.reduce((total, session) => total + pick(session), 0);
  const inMebibytes = (bytes: number | undefined): string =>
    bytes === undefined ? '-' : (bytes / mebibyte).toFixed(0);
  const quarter = Math.floor(long.memory.length / 4);
  const runs = [...tally.runs.values()].reduce((total, count) => total + count, 0);
  return [
    ['duration', `${findings.minutes.toFixed(1)} min, seed ${findings.seed}`],
    ['operations', `${runs} (${[...tally.runs].map(([name, n]) => `${name}: ${n}`).join('; ')})`],
    ['operations failed', String(tally.failures.length)],
    ['data compared by SHA-256', `${inMebibytes(tally.bytes)} MiB`],
    ['bytes lost', tally.failures.length === 0 ? '0' : 'see the failures'],
    ['sessions', String(sessions.length)],
    ['connections cut and resumed', String(sum(({ counters }) => counters.resumes))],
    ['messages the bridge sent again', String(sum(({ counters }) => counters.duplicates))],
    ['changes of the network', String([...findings.weather.values()].reduce((a, b) => a + b, 0))],
    [
      'faults that met a frame, a connection or a call',
      String(Object.values(faults.hits).reduce((a, b) => a + b, 0)),
    ],
    ['lines through the session that was open throughout', `${long.lines}, none lost`],
    [
      'memory of its bridge after a quarter, at the end, at most',
      `${inMebibytes(long.memory[quarter])}, ${inMebibytes(long.memory.at(-1))}, ${inMebibytes(Math.max(...long.memory))} MiB`,
    ],
    ['sessions left open', String(bench.emulator.openSessionCount())],
    ['processes left', String(bench.bridgePids().length)],
    ['protocol violations', String(bench.emulator.violations().length)],
  ];
}
