import type { AgentTuning } from './types.ts';

interface Entry {
  readonly frame: Buffer;
  sentAt: number;
  resends: number;
}

export interface OutgoingEvents {
  transmit(frame: Buffer, isResend: boolean): void;
  /** Paused, cut off or blocked: nothing is resent. */
  isSilent(): boolean;
  empty(): void;
}

const RTO_MAX_MS = 1000;
/** Bytes resent in one scan when everything overdue is. */
const BURST_BYTES = 4 * 1024 * 1024;

/**
 * Sent stream messages waiting for their acknowledgement, with the agent's round-trip estimate:
 * srtt 100 ms and RTO 200 ms at first, no exclusion of resent messages, no backing off.
 */
export class OutgoingBuffer {
  readonly #tuning: AgentTuning;
  readonly #events: OutgoingEvents;
  readonly #entries = new Map<number, Entry>();
  #next = 0;
  #oldest = 0;
  #srttMs = 100;
  #variationMs = 0;
  #rtoMs = 200;
  #timer: NodeJS.Timeout | undefined;
  #isClosed = false;

  constructor(tuning: AgentTuning, events: OutgoingEvents) {
    this.#tuning = tuning;
    this.#events = events;
  }

  get size(): number {
    return this.#entries.size;
  }

  nextSeq(): number {
    return this.#next++;
  }

  add(seq: number, frame: Buffer): void {
    // A full buffer does not keep the message: it goes out once and can never be resent.
    if (this.#entries.size >= this.#tuning.outgoingLimit) return;
    this.#entries.set(seq, { frame, sentAt: performance.now(), resends: 0 });
    this.#arm();
  }

  acknowledge(seq: number): void {
    const entry = this.#entries.get(seq);
    if (entry === undefined) return;
    this.#entries.delete(seq);
    const sample = performance.now() - entry.sentAt;
    this.#variationMs = 0.75 * this.#variationMs + 0.25 * Math.abs(this.#srttMs - sample);
    this.#srttMs = 0.875 * this.#srttMs + 0.125 * sample;
    this.#rtoMs = this.#srttMs + Math.max(10, 4 * this.#variationMs);
    if (this.#entries.size === 0) this.#events.empty();
  }

  resendOldest(): void {
    const entry = this.#oldestEntry();
    if (entry !== undefined) this.#resend(entry, performance.now());
  }

  /** Publication goes on. The real agent waits for its scan; 'all' repeats everything at once. */
  resumed(): void {
    if (this.#tuning.resend === 'all') this.#resendOverdue(0);
  }

  close(): void {
    this.#isClosed = true;
    clearInterval(this.#timer);
    this.#timer = undefined;
    this.#entries.clear();
  }

  #arm(): void {
    if (this.#isClosed) return;
    this.#timer ??= setInterval(() => {
      this.#scan();
    }, this.#tuning.resendScanMs);
  }

  #scan(): void {
    if (this.#entries.size === 0) {
      clearInterval(this.#timer);
      this.#timer = undefined;
      return;
    }
    if (this.#events.isSilent()) return;
    if (this.#tuning.resend === 'all') {
      this.#resendOverdue(this.#rtoMs);
      return;
    }
    const now = performance.now();
    const entry = this.#oldestEntry();
    if (entry !== undefined && now - entry.sentAt > Math.min(this.#rtoMs, RTO_MAX_MS)) {
      this.#resend(entry, now);
    }
  }

  #resendOverdue(rtoMs: number): void {
    const now = performance.now();
    let bytes = 0;
    for (const entry of this.#entries.values()) {
      if (now - entry.sentAt <= rtoMs * 2 ** Math.min(entry.resends, 4)) continue;
      this.#resend(entry, now);
      bytes += entry.frame.length;
      if (bytes > BURST_BYTES || this.#events.isSilent()) return;
    }
  }

  #oldestEntry(): Entry | undefined {
    while (this.#oldest < this.#next) {
      const entry = this.#entries.get(this.#oldest);
      if (entry !== undefined) return entry;
      this.#oldest += 1;
    }
    return undefined;
  }

  #resend(entry: Entry, now: number): void {
    entry.sentAt = now;
    entry.resends += 1;
    this.#events.transmit(entry.frame, true);
  }
}
