import { setTimeout as delay } from 'node:timers/promises';
import type { Logger } from '../logger.ts';
import { isThrottled } from './classify.ts';

/** Longest pause between attempts; long enough that a crowd of 50 spreads over a limit of 20/s. */
const maxPauseMs = 4_000;
const firstPauseMs = 250;
const maxAttempts = 8;

/**
 * Repeats a call that is throttled, beyond the SDK's own few attempts, with pauses drawn at random so that
 * a crowd does not come back as one. Gives up with the last error, or at once when the signal fires.
 */
export async function retryThrottled<T>(
  call: () => Promise<T>,
  signal: AbortSignal,
  logger: Logger,
): Promise<T> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await call();
    } catch (error) {
      if (attempt === maxAttempts || !isThrottledCause(error)) throw error;
      const pauseMs = Math.random() * Math.min(maxPauseMs, firstPauseMs * 2 ** attempt);
      logger.debug({ attempt, pauseMs: Math.round(pauseMs) }, 'throttled; trying again');
      try {
        await delay(pauseMs, undefined, { signal });
      } catch {
        // Aborted while waiting: the throttling is what there is to tell.
        throw error;
      }
    }
  }
}

function isThrottledCause(error: unknown): boolean {
  return isThrottled(error) || (error instanceof Error && isThrottled(error.cause));
}
