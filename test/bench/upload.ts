import { DEFAULT_MESSAGES_PER_SECOND } from '../../src/protocol/constants.ts';
import type { BareResult } from './bare.ts';
import { startEmulated, nodes } from './emulated.ts';
import { officialUpload } from './official.ts';
import { bareLoop, startService } from './peer.ts';
import { MiB, nowMs, pause, startBridge, stop } from './process.ts';
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
import { transferLimitMs, upload, type Transfer } from './transfer.ts';

const payloadBytes = 16 * 1024;

/** The last transfer is the long one that shows whether memory is flat. */
export async function uploads({ isQuick, profile, rounds }: SectionSettings): Promise<Row[]> {
  const bytes = (isQuick ? 64 : 1024) * MiB;
  // As much for the bare loop: what V8 needs to compile either is a part of the CPU time.
  const roundBytes = (isQuick ? 32 : 128) * MiB;
  const count = isQuick ? 3 : rounds;
  const peer = await startService({ downloadBytes: 0, isBare: false });
  const barePeer = await startService({ downloadBytes: 0, isBare: true });
  const measured = { rate: [] as number[], cpu: [] as number[] };
  const bareCpu: number[] = [];
  const pacedBareCpu: number[] = [];
  const bareLoops: BareResult[] = [];
  const loop = { direction: 'send', bytes: roundBytes, payloadBytes } as const;
  const official: number[] = [];
  let isReal = false;
  let long: Transfer;
  try {
    for (let round = 0; round < count; round += 1) {
      const theirs = await officialUpload(2_000);
      isReal = theirs.isReal;
      official.push(theirs.bytesPerMs);
      const nodeArgs = round === 0 ? profileArguments(profile) : [];
      const ours = await upload(peer, roundBytes, nodeArgs);
      measured.rate.push(ours.bytesPerMs);
      measured.cpu.push(ours.cpuMsPerMiB);
      const bare = await bareLoop(barePeer, loop);
      bareLoops.push(bare);
      const pacedBare = await bareLoop(barePeer, {
        ...loop,
        messagesPerSecond: DEFAULT_MESSAGES_PER_SECOND,
      });
      pacedBareCpu.push(pacedBare.cpuMs / (roundBytes / MiB));
      bareCpu.push(bare.cpuMs / (roundBytes / MiB));
    }
    long = await upload(peer, bytes);
  } finally {
    peer.close();
    barePeer.close();
  }
  const bound = await boundedUpload((isQuick ? 48 : 160) * MiB);
  const name = 'upload';
  const faster = medianRatio(measured.rate, official);
  const cpu = medianRatio(measured.cpu, bareCpu);
  const pacedCpu = median(pacedBareCpu);
  const toPaced = medianRatio(measured.cpu, pacedBareCpu);
  const officialName = isReal
    ? 'session-manager-plugin'
    : "the official client's loop, rebuilt (session-manager-plugin is not installed)";
  return [
    row(name, officialName, median(official), mibPerSecond(median(official))),
    row(
      name,
      'ssm-bridge into an unpaced agent',
      median(measured.rate),
      mibPerSecond(median(measured.rate)),
    ),
    times(name, '… as a multiple', faster, atLeast(15, faster, 'x')),
    row(
      name,
      `part of an emulated bound of 1000 messages/s${bound.hasObjected ? ' (THE SERVICE OBJECTED)' : ''}`,
      bound.part,
      `${format(100 * bound.part)}%`,
      { text: '>= 90%', isMet: bound.part >= 0.9 && !bound.hasObjected },
    ),
    row(name, 'CPU per MiB', median(measured.cpu), `${format(median(measured.cpu))} ms`),
    times(name, '… as a multiple of a bare ws send loop', cpu, atMost(2, cpu, 'x')),
    row(name, '… of that loop at our 950 messages/s', toPaced, `${format(toPaced, 2)}x`),
    row(name, 'CPU per MiB of that loop at that pace', pacedCpu, `${format(pacedCpu)} ms`),
    ...memoryRows(name, 'uploading at full rate', long.late),
    ...floorRows(name, bareLoops),
    growthRow(name, bytes, long.early, long.late),
  ];
}

interface Bounded {
  /** Of 1000 full payloads a second. */
  readonly part: number;
  readonly hasObjected: boolean;
}

/** Into a service that drops whoever exceeds 1000 messages a second. */
async function boundedUpload(bytes: number): Promise<Bounded> {
  const emulated = await startEmulated({ messageRateLimit: 1000, agent: { readPauseMs: 0 } });
  const { child, stdin, stdout } = startBridge({ env: emulated.env, node: nodes.discard });
  try {
    stdout.resume();
    const chunk = Buffer.alloc(64 * 1024, 'b');
    let sent = 0;
    const feed = (): void => {
      while (sent < bytes) {
        sent += chunk.length;
        if (!stdin.write(chunk)) return;
      }
    };
    stdin.on('drain', feed);
    feed();
    const endBy = nowMs() + transferLimitMs;
    let state = await emulated.state();
    while (state.discarded.bytes < bytes && nowMs() < endBy) {
      await pause(100);
      state = await emulated.state();
    }
    const { discarded, violations, closeCodes } = state;
    const rate = discarded.bytes / (discarded.lastAt - discarded.firstAt);
    return {
      part: rate / payloadBytes,
      hasObjected: violations.length > 0 || closeCodes.some((code) => code !== 1000),
    };
  } finally {
    await stop(child);
    emulated.close();
  }
}
