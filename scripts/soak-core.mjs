// Plays seeded schedules of the protocol core against a simulated bad network, far more of them than
// the test suite does: node scripts/soak-core.mjs [schedules] [first seed]. A failure names its seed;
// `node scripts/soak-core.mjs 1 SEED` repeats exactly that run.
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

const BATCH = 1000;
const schedules = Number(process.argv[2] ?? 20_000);
const firstSeed = Number(process.argv[3] ?? Date.now() % 1_000_000_000);

const { outputFiles } = await build({
  entryPoints: [fileURLToPath(new URL('../test/support/soak-core.ts', import.meta.url))],
  bundle: true,
  platform: 'node',
  format: 'esm',
  write: false,
});
const code = Buffer.from(outputFiles[0].contents).toString('base64');
const { soakCore } = await import(`data:text/javascript;base64,${code}`);

console.log(`core: ${schedules} schedules from seed ${firstSeed}`);
try {
  for (let done = 0; done < schedules; done += BATCH) {
    const count = Math.min(BATCH, schedules - done);
    console.log(JSON.stringify(soakCore(count, firstSeed + done)));
  }
} catch (error) {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
}
