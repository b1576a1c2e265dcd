/**
 * Notices a dead connection: half-open TCP, a NAT that forgot us, a machine that slept.
 *
 * Pure: time comes in, a verdict goes out. WebSocket pings are not session activity for the service,
 * so they never keep an unused session from its idle timeout (Session Manager, session timeout).
 */
export type Verdict = 'alive' | 'ping' | 'dead';

export interface LivenessInstant {
  readonly now: number;
  readonly wallNow: number;
}

export interface LivenessOptions {
  /** Silence after which a ping is sent; also the usual interval of pings, in ms. */
  readonly keepaliveMs: number;
}

/** Silence, in keep-alive intervals, after which the connection counts as dead. */
const silenceLimitIntervals = 2.5;

/** How long a probe that was sent for a reason (wake from sleep, unacknowledged data) may go unanswered. */
const probeLimitMs = 10_000;

/** Unacknowledged data and silence for this long is reason enough to probe. */
const stallBeforeProbeMs = 10_000;

/** Longest time between looks, so that a wake from sleep is noticed; short timers would cost idle CPU. */
const lookIntervalMs = 10_000;

/** A look this much later than planned, or a wall clock this far ahead, means the process stood still. */
const jumpMs = 5_000;

export class Liveness {
  readonly #keepaliveMs: number;
  #heardAt: number;
  #pingedAt: number;
  #probedAt: number | undefined;
  #lookAt: number;
  #wallOffset: number;

  constructor(options: LivenessOptions, at: LivenessInstant) {
    this.#keepaliveMs = options.keepaliveMs;
    this.#heardAt = at.now;
    this.#pingedAt = at.now;
    this.#lookAt = at.now + this.#interval();
    this.#wallOffset = at.wallNow - at.now;
  }

  /** Anything arrived from the peer, pongs included. */
  heard(now: number): void {
    this.#heardAt = now;
    this.#probedAt = undefined;
  }

  /** When to call `look` next. */
  get lookAt(): number {
    return this.#lookAt;
  }

  /** The process was stopped or the machine slept: find out now whether the peer is still there. */
  suspectSleep(at: LivenessInstant): boolean {
    const offset = at.wallNow - at.now;
    const isJump = offset - this.#wallOffset > jumpMs || at.now - this.#lookAt > jumpMs;
    this.#wallOffset = offset;
    return isJump;
  }

  /** Asks for a probe; the caller sends the ping. */
  probe(now: number): void {
    this.#probedAt ??= now;
    this.#pingedAt = now;
    this.#lookAt = Math.min(this.#lookAt, now + probeLimitMs);
  }

  /**
   * `isReading` is false while we hold the peer back ourselves: its silence then says nothing.
   * `isWaiting` means that data of ours is unacknowledged.
   */
  look(at: LivenessInstant, state: { isReading: boolean; isWaiting: boolean }): Verdict {
    const { now } = at;
    const slept = this.suspectSleep(at);
    this.#lookAt = now + this.#interval();
    if (!state.isReading) {
      this.#heardAt = now;
      this.#probedAt = undefined;
      return 'alive';
    }
    const silenceMs = now - this.#heardAt;
    if (slept) {
      // What the peer said meanwhile may still sit in the socket: judge by the answer to a probe.
      this.#heardAt = now;
      this.#probedAt = undefined;
      this.probe(now);
      return 'ping';
    }
    if (this.#probedAt !== undefined) {
      if (now - this.#probedAt >= probeLimitMs) return 'dead';
      this.#lookAt = this.#probedAt + probeLimitMs;
      return 'alive';
    }
    if (silenceMs >= this.#keepaliveMs * silenceLimitIntervals) return 'dead';
    if (state.isWaiting && silenceMs >= stallBeforeProbeMs) {
      this.probe(now);
      return 'ping';
    }
    if (now - this.#pingedAt >= this.#keepaliveMs) {
      this.#pingedAt = now;
      return 'ping';
    }
    return 'alive';
  }

  #interval(): number {
    return Math.min(this.#keepaliveMs, lookIntervalMs);
  }
}
