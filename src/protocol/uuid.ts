/**
 * Message ids. On the wire the two halves of a UUID are swapped: bytes 8–15 come first. In
 * acknowledgements the same id stands as ordinary text, un-swapped.
 */
import { readHex, readU8, writeHex } from './bytes.ts';
import { ID_POOL_BYTES, MESSAGE_ID_SIZE } from './constants.ts';

/** Puts a message id into a header under construction. */
export interface MessageIdSource {
  write(target: Uint8Array, offset: number): void;
}

/** The lower-case text form of the id at `offset`. */
export function readMessageId(source: Uint8Array, offset: number): string {
  const hex = readHex(source, offset, offset + MESSAGE_ID_SIZE);
  return `${hex.slice(16, 24)}-${hex.slice(24, 28)}-${hex.slice(28, 32)}-${hex.slice(0, 4)}-${hex.slice(4, 16)}`;
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
