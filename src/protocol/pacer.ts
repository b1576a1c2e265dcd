/**
 * Token bucket over stream messages: the service drops a connection that sustains about a thousand
 * a second. Time comes in with each call; the bucket never sleeps.
 */
import { PACER_BURST_SECONDS, PACER_WAKE_TOKENS } from './constants.ts';

/** Absorbs rounding, so that a wake at the computed instant always finds its token. */
const EPSILON = 1e-6;

export class Pacer {
  readonly #perMs: number;
  readonly #burst: number;
  #tokens: number;
  #filledAt = Number.NEGATIVE_INFINITY;

  constructor(messagesPerSecond: number) {
    this.#perMs = messagesPerSecond / 1000;
    this.#burst = Math.max(1, messagesPerSecond * PACER_BURST_SECONDS);
    this.#tokens = this.#burst;
  }

  /** Whether a message may go out now. */
  isReady(now: number): boolean {
    this.#fill(now);
    return this.#tokens >= 1 - EPSILON;
  }

  /** Accounts for a message that goes out now, allowed or not. */
  take(now: number): void {
    this.#fill(now);
    this.#tokens -= 1;
  }

  /** When to look again: a few tokens at a time, so that pacing does not mean a wake per message. */
  readyAt(): number {
    const wanted = Math.min(PACER_WAKE_TOKENS, this.#burst);
    return this.#filledAt + Math.max(0, wanted - this.#tokens) / this.#perMs;
  }

  #fill(now: number): void {
    if (now <= this.#filledAt) return;
    this.#tokens = Math.min(this.#burst, this.#tokens + (now - this.#filledAt) * this.#perMs);
    this.#filledAt = now;
  }
}
