/**
 * Puts stream messages in order. The next expected message is always accepted; early ones are kept
 * up to a count and a number of bytes, and what does not fit is refused, which means it must not be
 * acknowledged: the agent will send it again.
 */
import { MAX_EARLY_BYTES, MAX_EARLY_MESSAGES } from './constants.ts';

/** What is kept of a message until its turn comes. */
export interface ReceivedMessage {
  readonly seq: number;
  readonly payloadType: number;
  readonly payload: Uint8Array;
}

export type Placement = 'next' | 'early' | 'duplicate' | 'refused';

export interface ReceiveWindowLimits {
  readonly maxEarlyMessages: number;
  readonly maxEarlyBytes: number;
}

const DEFAULT_LIMITS: ReceiveWindowLimits = {
  maxEarlyMessages: MAX_EARLY_MESSAGES,
  maxEarlyBytes: MAX_EARLY_BYTES,
};

export class ReceiveWindow {
  readonly #limits: ReceiveWindowLimits;
  readonly #early = new Map<number, ReceivedMessage>();
  #earlyBytes = 0;
  #expectedSeq = 0;

  constructor(limits: ReceiveWindowLimits = DEFAULT_LIMITS) {
    this.#limits = limits;
  }

  get expectedSeq(): number {
    return this.#expectedSeq;
  }

  get earlyMessages(): number {
    return this.#early.size;
  }

  get earlyBytes(): number {
    return this.#earlyBytes;
  }

  /** Whether messages are known to be missing: some that follow them have arrived. */
  get hasGap(): boolean {
    return this.#early.size > 0;
  }

  /**
   * Takes a message. After `next` the caller processes this very message (nothing of it is kept)
   * and then what `takeNext` yields.
   */
  place(message: ReceivedMessage): Placement {
    if (message.seq === this.#expectedSeq) {
      this.#expectedSeq += 1;
      return 'next';
    }
    if (message.seq < this.#expectedSeq || this.#early.has(message.seq)) return 'duplicate';
    const bytes = this.#earlyBytes + message.payload.length;
    if (this.#early.size >= this.#limits.maxEarlyMessages || bytes > this.#limits.maxEarlyBytes) {
      return 'refused';
    }
    this.#earlyBytes = bytes;
    // Copied: the bytes received belong to the caller, and a view would keep a whole read alive.
    // (Not `slice`, which makes a view when the bytes are a Buffer.)
    const { seq, payloadType } = message;
    this.#early.set(seq, { seq, payloadType, payload: new Uint8Array(message.payload) });
    return 'early';
  }

  /** The kept message whose turn it is now, if any; call until undefined after `next`. */
  takeNext(): ReceivedMessage | undefined {
    const message = this.#early.get(this.#expectedSeq);
    if (message === undefined) return undefined;
    this.#early.delete(message.seq);
    this.#earlyBytes -= message.payload.length;
    this.#expectedSeq += 1;
    return message;
  }
}
