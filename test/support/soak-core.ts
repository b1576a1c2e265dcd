/**
 * Many seeded schedules, one after another. The failure of one names its seed, and `runSchedule`
 * then repeats exactly that run.
 */
import { runSchedule } from './simulated-link.ts';

export interface SoakSummary {
  readonly schedules: number;
  readonly sockets: number;
  readonly transmitted: number;
  readonly resent: number;
  readonly dropped: number;
  readonly virtualHours: number;
}

/** Throws the ScheduleFailure of the first schedule that breaks a promise. */
export function soakCore(count: number, firstSeed: number): SoakSummary {
  let sockets = 0;
  let transmitted = 0;
  let resent = 0;
  let dropped = 0;
  let virtualMs = 0;
  for (let seed = firstSeed; seed < firstSeed + count; seed += 1) {
    const result = runSchedule(seed);
    sockets += result.sockets;
    transmitted += result.transmitted;
    resent += result.transmitted - result.distinct;
    dropped += result.dropped;
    virtualMs += result.virtualMs;
  }
  return {
    schedules: count,
    sockets,
    transmitted,
    resent,
    dropped,
    virtualHours: Math.round(virtualMs / 36_000) / 100,
  };
}
