/** Copies of a gigabyte and more through a connection that never lives for long. */
import { createWriteStream } from 'node:fs';
import { randomBytes } from 'node:crypto';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { openBench, type Bench } from '../support/bench.ts';
import { run, sha256File } from '../support/process.ts';

const chunkBytes = 1024 * 1024;
const cutEveryMs = 3000;
const timeoutMs = 3_600_000;

export async function large(mebibytes: number): Promise<(readonly [string, string])[]> {
  const bench = await openBench();
  try {
    const source = join(bench.dir, 'large');
    await pipeline(
      Readable.from(
        (function* () {
          for (let done = 0; done < mebibytes; done++) yield randomBytes(chunkBytes);
        })(),
      ),
      createWriteStream(source),
    );
    const wanted = await sha256File(source);
    const target = `${source}.copy`;
    const rows: (readonly [string, string])[] = [];
    const shell = `ssh -F '${bench.config}'`;
    const copies: readonly (readonly [string, readonly string[]])[] = [
      ['scp, up', ['scp', '-q', '-F', bench.config, source, `${bench.host}:${target}`]],
      ['rsync, down', ['rsync', '-a', '-e', shell, `${bench.host}:${source}`, target]],
    ];
    for (const [name, argv] of copies) {
      const cuts = await copyWhileCutting(bench, argv);
      if ((await sha256File(target)) !== wanted) throw new Error(`${name}: the copy differs`);
      rows.push([`${name}, ${mebibytes} MiB, cut every ${cutEveryMs / 1000} s`, cuts]);
      await rm(target);
    }
    await bench.assertClean(10_000);
    return rows;
  } finally {
    await bench.close();
  }
}

async function copyWhileCutting(bench: Bench, argv: readonly string[]): Promise<string> {
  let round = 0;
  const cutting = setInterval(() => {
    const session = bench.emulator.sessions.at(-1);
    if (session?.isConnected !== true) return;
    if (++round % 2 === 0) session.closeSocket(1000, 'Bye');
    else session.resetSocket();
  }, cutEveryMs);
  try {
    const done = await run(argv, { env: bench.env, timeoutMs });
    if (done.code !== 0 || done.stderr !== '') {
      throw new Error(`${argv.join(' ')}: exit ${String(done.code)}: ${done.stderr}`);
    }
    const seconds = (done.durationMs / 1000).toFixed(0);
    return `equal, ${seconds} s, ${bench.emulator.sessions.at(-1)?.counters.resumes ?? 0} resumes`;
  } finally {
    clearInterval(cutting);
  }
}
