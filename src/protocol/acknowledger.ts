/**
 * Acknowledgements of the agent's stream messages. There is one for every message that arrives, 1 KiB
 * as a rule, so they are written into the same memory again and again: only the number, the id, the
 * date and the digest differ from one to the next.
 */
import { allocateApart, writeLatin1 } from './bytes.ts';
import { acknowledgeHead, digestOf, writeCreatedDate } from './codec.ts';
import { OFFSET, PAYLOAD_OFFSET } from './constants.ts';
import { MESSAGE_ID_TEXT_LENGTH, writeMessageIdText, type MessageIdSource } from './uuid.ts';

/** Keys in the order AWS's own client writes them (session-manager-plugin, AcknowledgeContent). */
const BEFORE_ID = '{"AcknowledgedMessageType":"output_stream_data","AcknowledgedMessageId":"';
const BEFORE_SEQ = '","AcknowledgedMessageSequenceNumber":';
const AFTER_SEQ = ',"IsSequentialMessage":true}';

const ID_OFFSET = PAYLOAD_OFFSET + BEFORE_ID.length;
const SEQ_OFFSET = ID_OFFSET + MESSAGE_ID_TEXT_LENGTH + BEFORE_SEQ.length;
const ZERO = '0'.charCodeAt(0);
/** Of the largest safe integer. */
const MAX_SEQ_LENGTH = 16;

export class Acknowledger {
  readonly #ids: MessageIdSource;
  readonly #memory = allocateApart(SEQ_OFFSET + MAX_SEQ_LENGTH + AFTER_SEQ.length);
  /** Views of the memory, for numbers of `#seqLength` digits. */
  #frame = this.#memory.subarray(0, 0);
  #payload = this.#memory.subarray(0, 0);
  #seqLength = 0;

  constructor(ids: MessageIdSource) {
    this.#ids = ids;
  }

  /** The last frame that `encode` gave; undefined before the first. */
  get last(): Uint8Array | undefined {
    return this.#seqLength === 0 ? undefined : this.#frame;
  }

  /**
   * The acknowledgement of the output_stream_data message in `received`, whose sequence number is
   * `seq`. The frame is valid until the next call. `createdAt` is in Unix milliseconds.
   */
  encode(received: Uint8Array, seq: number, createdAt: number): Uint8Array {
    const seqLength = decimalLength(seq);
    if (seqLength !== this.#seqLength) this.#layOut(seqLength);
    const frame = this.#frame;
    writeDecimal(frame, SEQ_OFFSET, seqLength, seq);
    writeMessageIdText(frame, ID_OFFSET, received, OFFSET.messageId);
    writeLatin1(frame, OFFSET.payloadDigest, digestOf(this.#payload));
    writeCreatedDate(frame, createdAt);
    this.#ids.write(frame, OFFSET.messageId);
    return frame;
  }

  #layOut(seqLength: number): void {
    const seqEnd = SEQ_OFFSET + seqLength;
    this.#seqLength = seqLength;
    this.#frame = this.#memory.subarray(0, seqEnd + AFTER_SEQ.length);
    this.#payload = this.#frame.subarray(PAYLOAD_OFFSET);
    this.#frame.set(acknowledgeHead(this.#payload.length));
    writeLatin1(this.#frame, PAYLOAD_OFFSET, BEFORE_ID);
    writeLatin1(this.#frame, ID_OFFSET + MESSAGE_ID_TEXT_LENGTH, BEFORE_SEQ);
    writeLatin1(this.#frame, seqEnd, AFTER_SEQ);
  }
}

// Not by String(): V8 remembers the texts of thousands of numbers, and so each of these would outlive
// its message by a second, enough for the young generation of the heap to grow to its limit.

function decimalLength(value: number): number {
  let length = 1;
  for (let bound = 10; value >= bound; bound *= 10) length += 1;
  return length;
}

function writeDecimal(target: Uint8Array, offset: number, length: number, value: number): void {
  let rest = value;
  for (let at = offset + length - 1; at >= offset; at -= 1) {
    const tenth = Math.floor(rest / 10);
    target[at] = ZERO + (rest - tenth * 10);
    rest = tenth;
  }
}
