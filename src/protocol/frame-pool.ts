/**
 * Memory for large messages, used again once they are acknowledged. Each would otherwise be garbage
 * outside of V8's heap, which V8 hardly notices: a long upload would grow by tens of megabytes.
 *
 * Whoever is handed a frame copies it before the next call to the session, so that a frame may be
 * filled anew as soon as its message is acknowledged.
 */
import { allocate, allocateApart, wholeMemory } from './bytes.ts';

/** Smaller messages come from Node's own pool and cost little. */
const MIN_POOLED_BYTES = 2048;
/** 64 full messages; a larger window than that is paid for with garbage again. */
const MAX_SPARE = 64;

export class FramePool {
  readonly #capacity: number;
  readonly #spare: Uint8Array[] = [];

  /** `capacity` is the size of the largest frame there will be. */
  constructor(capacity: number) {
    this.#capacity = capacity;
  }

  /** Uninitialised bytes, to be written in full by the caller. */
  take(size: number): Uint8Array {
    if (size < MIN_POOLED_BYTES || size > this.#capacity) return allocate(size);
    return (this.#spare.pop() ?? allocateApart(this.#capacity)).subarray(0, size);
  }

  /** The frame is not needed any more. Only what `take` gave is taken back. */
  give(frame: Uint8Array): void {
    if (frame.length < MIN_POOLED_BYTES || frame.length > this.#capacity) return;
    if (this.#spare.length < MAX_SPARE) {
      this.#spare.push(wholeMemory(frame));
    }
  }
}
