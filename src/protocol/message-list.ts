/**
 * A doubly linked list through the entries themselves: every step the send window takes per message
 * is then constant, however many messages are unacknowledged. An entry is in one list at a time.
 */

export interface SendEntry {
  readonly seq: number;
  /** The encoded message; a resend is these very bytes. */
  readonly frame: Uint8Array;
  readonly payloadBytes: number;
  /** Times sent over all sockets; only a message sent once gives a round-trip sample. */
  transmissions: number;
  /** Times sent over the present socket. */
  transmissionsOnSocket: number;
  /** First and last time sent over the present socket. */
  firstSentAt: number;
  lastSentAt: number;
  /** Key of the in-flight list: last sent, or last found not yet due. */
  orderedAt: number;
  list: MessageList | undefined;
  previous: SendEntry | undefined;
  next: SendEntry | undefined;
}

export class MessageList {
  #head: SendEntry | undefined;
  #tail: SendEntry | undefined;

  get head(): SendEntry | undefined {
    return this.#head;
  }

  /** Moves the entry from whatever list it is in to the end of this one. */
  append(entry: SendEntry): void {
    entry.list?.remove(entry);
    entry.list = this;
    entry.previous = this.#tail;
    if (this.#tail === undefined) this.#head = entry;
    else this.#tail.next = entry;
    this.#tail = entry;
  }

  /** The entry must be in this list. */
  remove(entry: SendEntry): void {
    if (entry.previous === undefined) this.#head = entry.next;
    else entry.previous.next = entry.next;
    if (entry.next === undefined) this.#tail = entry.previous;
    else entry.next.previous = entry.previous;
    entry.previous = undefined;
    entry.next = undefined;
    entry.list = undefined;
  }
}
