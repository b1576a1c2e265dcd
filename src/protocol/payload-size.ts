/**
 * How large the next payload may be. Interactive bytes go out in small messages at once; a sender
 * that fills its payloads earns larger ones, because the service limits messages, not bytes.
 * When large messages seem to be what kills the connection, none are made any more.
 */
import { CLOSE_TOO_BIG, SMALL_PAYLOAD_BYTES, SUSPECT_CLOSES } from './constants.ts';

export class PayloadSize {
  #max: number;
  #limit: number;
  /** The last payload was a full one, so there is most likely more behind it. */
  #hasBacklog = false;
  #closesWithoutAck = 0;

  constructor(maxPayloadBytes: number) {
    this.#max = maxPayloadBytes;
    this.#limit = Math.min(SMALL_PAYLOAD_BYTES, maxPayloadBytes);
  }

  /** The bound for the next payload, given how many messages are unacknowledged. */
  limit(unackedMessages: number): number {
    if (unackedMessages === 0 && !this.#hasBacklog) {
      this.#limit = Math.min(SMALL_PAYLOAD_BYTES, this.#max);
    }
    return this.#limit;
  }

  /** A payload of `length` was sent under the present limit. */
  sent(length: number): void {
    this.#hasBacklog = length >= this.#limit;
    if (this.#hasBacklog) this.#limit = Math.min(this.#limit * 2, this.#max);
  }

  acknowledged(): void {
    this.#closesWithoutAck = 0;
  }

  /** A socket ended while a large message was, or was not, waiting for its acknowledgement. */
  socketLost(closeCode: number | undefined, isLargeUnacked: boolean): void {
    if (!isLargeUnacked) return;
    this.#closesWithoutAck += 1;
    if (closeCode === CLOSE_TOO_BIG || this.#closesWithoutAck >= SUSPECT_CLOSES) {
      this.#max = Math.min(SMALL_PAYLOAD_BYTES, this.#max);
      this.#limit = this.#max;
    }
  }
}
