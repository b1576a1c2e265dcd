import { once } from 'node:events';
import type { Peer } from './peer.ts';
import { costOf, ignore, MiB, nowMs, startBridge, stop, unlessItEnds, within } from './process.ts';
import type { Cost } from './process.ts';

export interface Transfer {
  readonly bytesPerMs: number;
  readonly cpuMsPerMiB: number;
  /** Early in the transfer and near its end. */
  readonly early: Cost;
  readonly late: Cost;
}

/** No transfer here is meant to take longer. */
export const transferLimitMs = 300_000;

/** Pushes `bytes` into the bridge's stdin; timed by what arrives at the service. */
export async function upload(
  peer: Peer,
  bytes: number,
  nodeArgs: readonly string[] = [],
): Promise<Transfer> {
  peer.reset();
  const { child, pid, stdin, stdout } = startBridge({ env: peer.env, nodeArgs });
  try {
    stdout.resume();
    const chunk = Buffer.alloc(64 * 1024, 'u');
    const feed = async (): Promise<void> => {
      for (let sent = 0; sent < bytes; sent += chunk.length) {
        if (!stdin.write(chunk)) await once(stdin, 'drain');
      }
    };
    // When the bridge goes, the waits below say so.
    feed().catch(ignore);
    const arrived = (least: number) =>
      unlessItEnds(
        child,
        peer.next('received', (event) => event.bytes >= least),
      );
    const first = await arrived(bytes / 20);
    const early = costOf(pid);
    const last = await arrived(bytes);
    const late = costOf(pid);
    return result(last.bytes - first.bytes, last.at - first.at, early, late);
  } finally {
    await stop(child);
  }
}

/** Takes `bytes` from the bridge's stdout. */
export async function download(
  peer: Peer,
  bytes: number,
  nodeArgs: readonly string[] = [],
): Promise<Transfer> {
  const { child, pid, stdout } = startBridge({ env: peer.env, nodeArgs });
  try {
    let received = 0;
    let early: { readonly cost: Cost; readonly at: number; readonly bytes: number } | undefined;
    const everything = new Promise<void>((resolve) => {
      stdout.on('data', (chunk: Buffer) => {
        received += chunk.length;
        if (early === undefined && received > bytes / 20) {
          early = { cost: costOf(pid), at: nowMs(), bytes: received };
        }
        if (received >= bytes) resolve();
      });
    });
    await unlessItEnds(child, within(everything, transferLimitMs, 'a download'));
    const endedAt = nowMs();
    const late = costOf(pid);
    if (early === undefined) throw new Error('nothing was received');
    return result(received - early.bytes, endedAt - early.at, early.cost, late);
  } finally {
    await stop(child);
  }
}

function result(bytes: number, ms: number, early: Cost, late: Cost): Transfer {
  return {
    bytesPerMs: bytes / ms,
    cpuMsPerMiB: (late.cpuMs - early.cpuMs) / (bytes / MiB),
    early,
    late,
  };
}
