/** How much is gathered before it is written without waiting for the end of the event-loop turn. */
const flushAtBytes = 256 * 1024;

/**
 * Messages on their way to a socket. Those of one event-loop turn share one write: at 1 KiB a
 * message, a write and a TLS record for each acknowledgement would be most of the cost.
 */
export class Outbox {
  readonly #write: (messages: readonly Uint8Array[]) => void;
  #messages: Uint8Array[] = [];
  #bytes = 0;
  #turn: NodeJS.Immediate | undefined;

  /** `write` is given each batch, in order; it may be called from within `add`. */
  constructor(write: (messages: readonly Uint8Array[]) => void) {
    this.#write = write;
  }

  get bytes(): number {
    return this.#bytes;
  }

  add(message: Uint8Array): void {
    this.#messages.push(message);
    this.#bytes += message.length;
    if (this.#bytes >= flushAtBytes) this.flush();
    else this.#turn ??= setImmediate(this.#onTurn);
  }

  flush(): void {
    if (this.#messages.length === 0) return;
    const messages = this.#messages;
    this.discard();
    this.#write(messages);
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
