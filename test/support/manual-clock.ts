/** A clock that stands still until it is told to move. */
import type { Clock } from '../../src/transport/clock.ts';

interface Timer {
  readonly at: number;
  readonly callback: () => void;
}

/** One turn of the event loop: promises and immediates that are due have run. */
export function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

/** Enough turns for any chain of promises and immediates to come to rest. */
export async function settled(): Promise<void> {
  for (let count = 0; count < 4; count += 1) await turn();
}

export class ManualClock implements Clock {
  readonly #timers = new Set<Timer>();
  #now = 1000;
  #wallOffset = 1_700_000_000_000;

  now(): number {
    return this.#now;
  }

  wallNow(): number {
    return this.#now + this.#wallOffset;
  }

  setTimer(callback: () => void, delayMs: number): () => void {
    if (!(delayMs >= 0)) throw new Error(`a timer was set for ${delayMs} ms`);
    const timer = { at: this.#now + delayMs, callback };
    this.#timers.add(timer);
    return () => {
      this.#timers.delete(timer);
    };
  }

  get pendingTimers(): number {
    return this.#timers.size;
  }

  /** Moves time at once, as for a test of code that sets timers only. */
  advance(ms: number): void {
    const until = this.#now + ms;
    for (let timer = this.#due(until); timer !== undefined; timer = this.#due(until)) {
      this.#run(timer);
    }
    this.#now = until;
  }

  /** Moves time and lets promises settle after each timer. */
  async pass(ms: number): Promise<void> {
    const until = this.#now + ms;
    await settled();
    for (let timer = this.#due(until); timer !== undefined; timer = this.#due(until)) {
      this.#run(timer);
      await settled();
    }
    this.#now = until;
  }

  /** The machine sleeps: the wall clock goes on, the monotonic one and the timers do not. */
  sleep(ms: number): void {
    this.#wallOffset += ms;
  }

  /** The process is stopped: both clocks go on, no timer runs. */
  freeze(ms: number): void {
    this.#now += ms;
  }

  #run(timer: Timer): void {
    this.#timers.delete(timer);
    this.#now = Math.max(this.#now, timer.at);
    timer.callback();
  }

  #due(until: number): Timer | undefined {
    let first: Timer | undefined;
    for (const timer of this.#timers) {
      if (timer.at <= until && (first === undefined || timer.at < first.at)) first = timer;
    }
    return first;
  }
}
