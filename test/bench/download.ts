import type { BareResult } from './bare.ts';
import { paced } from './paced.ts';
import { bareLoop, startService } from './peer.ts';
import { MiB } from './process.ts';
import { profileArguments } from './profile.ts';
import {
  atLeast,
  atMost,
  floorRows,
  format,
  growthRow,
  memoryRows,
  mibPerSecond,
  row,
  times,
} from './rows.ts';
import type { SectionSettings } from './rows.ts';
import { median, medianRatio, type Row } from './stats.ts';
import { download } from './transfer.ts';

const payloadBytes = 1024;

export async function downloads({ isQuick, profile, rounds }: SectionSettings): Promise<Row[]> {
  const bytes = (isQuick ? 128 : 1024) * MiB;
  const roundBytes = (isQuick ? 64 : 128) * MiB;
  const count = isQuick ? 3 : rounds;
  const peer = await startService({ downloadBytes: roundBytes, isBare: false });
  const barePeer = await startService({ downloadBytes: roundBytes, isBare: true });
  const ours = { rate: [] as number[], cpu: [] as number[] };
  const bare = { rate: [] as number[], cpu: [] as number[], loops: [] as BareResult[] };
  const loop = { direction: 'receive', bytes: roundBytes, payloadBytes } as const;
  try {
    for (let round = 0; round < count; round += 1) {
      const nodeArgs = round === 0 ? profileArguments(profile) : [];
      const transfer = await download(peer, roundBytes, nodeArgs);
      ours.rate.push(transfer.bytesPerMs);
      ours.cpu.push(transfer.cpuMsPerMiB);
      const yardstick = await bareLoop(barePeer, loop);
      bare.rate.push(roundBytes / yardstick.ms);
      bare.loops.push(yardstick);
      bare.cpu.push(yardstick.cpuMs / (roundBytes / MiB));
    }
  } finally {
    peer.close();
    barePeer.close();
  }
  const longPeer = await startService({ downloadBytes: bytes, isBare: false });
  const long = await download(longPeer, bytes).finally(() => {
    longPeer.close();
  });
  const atPace = await paced(isQuick ? 2 : 3, isQuick ? 4_000 : 10_000);
  const part = medianRatio(ours.rate, bare.rate);
  const cpu = medianRatio(ours.cpu, bare.cpu);
  const name = 'download';
  return [
    row(
      name,
      'bare ws receive loop with SHA-256, 1 KiB messages',
      median(bare.rate),
      mibPerSecond(median(bare.rate)),
    ),
    row(
      name,
      'ssm-bridge from an unpaced agent',
      median(ours.rate),
      mibPerSecond(median(ours.rate)),
    ),
    times(name, '… as a part of the bare loop', part, atLeast(0.5, part, 'x')),
    row(name, 'CPU per MiB', median(ours.cpu), `${format(median(ours.cpu))} ms`),
    times(name, '… as a multiple of the bare loop', cpu, atMost(2, cpu, 'x')),
    row(
      name,
      'part of what a paced agent gives a bare client',
      atPace.part,
      `${format(100 * atPace.part)}%`,
      {
        text: '>= 97%',
        isMet: atPace.part >= 0.97,
      },
    ),
    ...memoryRows(name, 'at the pace of the real agent', atPace.cost),
    ...memoryRows(name, 'from an unpaced agent', long.late),
    ...floorRows(name, bare.loops),
    growthRow(name, bytes, long.early, long.late),
  ];
}
