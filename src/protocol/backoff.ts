/** Delays between attempts to get a socket back. */

const FIRST_CEILING_MS = 500;
const MAX_CEILING_MS = 15_000;

/**
 * How long to wait before the attempt of this number (0 is the first): none at first, because most
 * sockets end routinely; then full jitter, so that many clients of one outage spread out.
 * `random` is in [0, 1).
 */
export function resumeDelayMs(attempt: number, random: number): number {
  if (attempt <= 0) return 0;
  // The exponent is bounded before the power, so that no attempt number overflows.
  const ceiling = FIRST_CEILING_MS * 2 ** Math.min(attempt - 1, 5);
  return random * Math.min(ceiling, MAX_CEILING_MS);
}
