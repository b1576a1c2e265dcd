/** How much is gathered before it is written without waiting for the end of the event-loop turn. */
const slabBytes = 64 * 1024;

/**
 * Messages on their way to a socket. Those of one event-loop turn share one write: at 1 KiB a
 * message, a write and a TLS record for each acknowledgement would be most of the cost.
 *
 * What is added is copied, because the core lends its frames for the length of a call only.
 */
export class Outbox {
  readonly #write: (messages: readonly Uint8Array[]) => void;
  #messages: Uint8Array[] = [];
  #slab: Uint8Array | undefined;
  #bytes = 0;
  #turn: NodeJS.Immediate | undefined;

  /**
   * `write` is given each batch, in order; it may be called from within `add`. It has copied the
   * messages when it returns: their memory is used for the next batch.
   */
  constructor(write: (messages: readonly Uint8Array[]) => void) {
    this.#write = write;
  }

  get bytes(): number {
    return this.#bytes;
  }

  add(message: Uint8Array): void {
    if (message.length > slabBytes) {
      this.flush();
      this.#write([message]);
      return;
    }
    // Again and again, because what is written may cause more to be added.
    while (this.#bytes + message.length > slabBytes) this.flush();
    this.#slab ??= Buffer.allocUnsafeSlow(slabBytes);
    const copy = this.#slab.subarray(this.#bytes, this.#bytes + message.length);
    copy.set(message);
    this.#messages.push(copy);
    this.#bytes += message.length;
    this.#turn ??= setImmediate(this.#onTurn);
  }

  flush(): void {
    if (this.#messages.length === 0) return;
    const messages = this.#messages;
    const slab = this.#slab;
    this.discard();
    // Out of reach of what is added while it is being written.
    this.#slab = undefined;
    this.#write(messages);
    this.#slab ??= slab;
  }

  /** Forgets what is gathered; stream messages are kept by the core until they are acknowledged. */
  discard(): void {
    this.#messages = [];
    this.#bytes = 0;
  }

  close(): void {
    this.discard();
    clearImmediate(this.#turn);
  }

  readonly #onTurn = (): void => {
    this.#turn = undefined;
    this.flush();
  };
}
