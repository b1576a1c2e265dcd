import { startEmulated, nodes } from './emulated.ts';
import { cpuMsOf, firstOutput, pause, startBridge, stop, wakeUpsOf } from './process.ts';
import { atMost, format, row, type SectionSettings } from './rows.ts';
import type { Row } from './stats.ts';

/** What a connection costs on which nothing happens. */
export async function idle({ isQuick }: SectionSettings): Promise<Row[]> {
  const forMs = isQuick ? 15_000 : 60_000;
  const emulated = await startEmulated({});
  const bridge = startBridge({ env: emulated.env, node: nodes.echo });
  try {
    await firstOutput(bridge);
    // Until the code cache is written and the garbage of the start is collected.
    await pause(5_000);
    const before = { cpuMs: cpuMsOf(bridge.pid), wakeUps: wakeUpsOf(bridge.pid) };
    await pause(forMs);
    const perMinute = 60_000 / forMs;
    const cpuMs = (cpuMsOf(bridge.pid) - before.cpuMs) * perMinute;
    const wakeUps = (wakeUpsOf(bridge.pid) - before.wakeUps) * perMinute;
    const name = 'cost';
    return [
      row(name, 'idle: CPU per minute', cpuMs, `${format(cpuMs, 0)} ms`, atMost(50, cpuMs, ' ms')),
      row(name, 'idle: wake-ups of the main thread per minute', wakeUps, format(wakeUps, 0)),
    ];
  } finally {
    await stop(bridge.child);
    emulated.close();
  }
}
