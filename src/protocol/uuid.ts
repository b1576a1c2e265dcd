/**
 * Message ids. On the wire the two halves of a UUID are swapped: bytes 8–15 come first. In
 * acknowledgements the same id stands as ordinary text, un-swapped.
 */
import { readU8, utf8Bytes, writeHex } from './bytes.ts';
import { ID_POOL_BYTES, MESSAGE_ID_SIZE } from './constants.ts';

/** Puts a message id into a header under construction. */
export interface MessageIdSource {
  write(target: Uint8Array, offset: number): void;
}

/** Characters of an id as text. */
export const MESSAGE_ID_TEXT_LENGTH = 36;

const HEX = utf8Bytes('0123456789abcdef');
const DASH = '-'.charCodeAt(0);
/** Where each byte of an id as it is on the wire begins in its text. */
const TEXT_AT = [19, 21, 24, 26, 28, 30, 32, 34, 0, 2, 4, 6, 9, 11, 14, 16];
const DASHES_AT = [8, 13, 18, 23];

/** Writes the lower-case text form of the id at `offset` of `source`. */
export function writeMessageIdText(
  target: Uint8Array,
  targetOffset: number,
  source: Uint8Array,
  offset: number,
): void {
  for (let index = 0; index < MESSAGE_ID_SIZE; index += 1) {
    const byte = source[offset + index] ?? 0;
    const at = targetOffset + (TEXT_AT[index] ?? 0);
    target[at] = HEX[byte >> 4] ?? 0;
    target[at + 1] = HEX[byte & 0x0f] ?? 0;
  }
  for (const at of DASHES_AT) target[targetOffset + at] = DASH;
}

/** An id known as text. */
export function fixedMessageId(text: string): MessageIdSource {
  const hex = text.replaceAll('-', '');
  return {
    write(target, offset) {
      writeHex(target, offset, hex.slice(16) + hex.slice(0, 16));
    },
  };
}

/** Fresh version 4 ids; asks for randomness in bulk because a call costs more than 16 bytes. */
export class RandomMessageIds implements MessageIdSource {
  readonly #randomBytes: (size: number) => Uint8Array;
  #pool: Uint8Array = new Uint8Array(0);
  #used = 0;

  constructor(randomBytes: (size: number) => Uint8Array) {
    this.#randomBytes = randomBytes;
  }

  write(target: Uint8Array, offset: number): void {
    if (this.#used + MESSAGE_ID_SIZE > this.#pool.length) {
      this.#pool = this.#randomBytes(ID_POOL_BYTES);
      this.#used = 0;
    }
    const start = this.#used;
    this.#used += MESSAGE_ID_SIZE;
    target.set(this.#pool.subarray(start, start + MESSAGE_ID_SIZE), offset);
    // UUID byte 8 (variant) is first on the wire, byte 6 (version) is at 8 + 6.
    target[offset] = (readU8(target, offset) & 0x3f) | 0x80;
    target[offset + 14] = (readU8(target, offset + 14) & 0x0f) | 0x40;
  }
}
