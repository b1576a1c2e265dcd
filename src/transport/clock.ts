/** Time as the inner layers see it, so that tests can own it. */
export interface Clock {
  /** Monotonic milliseconds; unaffected by wall-clock changes, may stand still while suspended. */
  now(): number;
  /** Unix time in milliseconds. */
  wallNow(): number;
  /** Calls `callback` once, `delayMs` from now. The returned function cancels it. */
  setTimer(callback: () => void, delayMs: number): () => void;
}

/** Node runs a timer that is set for longer than this at once. */
const maxDelayMs = 2 ** 31 - 1;

export const systemClock: Clock = {
  now: () => performance.now(),
  wallNow: () => Date.now(),
  setTimer(callback, delayMs) {
    const timer = setTimeout(callback, Math.min(delayMs, maxDelayMs));
    return () => {
      clearTimeout(timer);
    };
  },
};
