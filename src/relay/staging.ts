/**
 * Bytes between a stream that gives them as they come and a sender that takes them in payloads. While
 * the sender has to wait, what arrives is gathered here, so that its next payload is a full one.
 */
export class Staging {
  readonly #bytes: Uint8Array;
  #start = 0;
  #end = 0;

  constructor(capacity: number) {
    // Not zeroed: only what was appended is ever read.
    this.#bytes = Buffer.allocUnsafeSlow(capacity);
  }

  get length(): number {
    return this.#end - this.#start;
  }

  /** Copies `bytes` in; they must fit into what `capacity` leaves. */
  append(bytes: Uint8Array): void {
    if (this.#end + bytes.length > this.#bytes.length) {
      this.#bytes.copyWithin(0, this.#start, this.#end);
      this.#end -= this.#start;
      this.#start = 0;
    }
    this.#bytes.set(bytes, this.#end);
    this.#end += bytes.length;
  }

  /** At most `maxBytes`, undefined when empty; a view that is valid until the next `append`. */
  take(maxBytes: number): Uint8Array | undefined {
    if (this.length === 0) return undefined;
    const taken = this.#bytes.subarray(this.#start, Math.min(this.#end, this.#start + maxBytes));
    this.#start += taken.length;
    if (this.#start === this.#end) this.clear();
    return taken;
  }

  clear(): void {
    this.#start = 0;
    this.#end = 0;
  }
}
