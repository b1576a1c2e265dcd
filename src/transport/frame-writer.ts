import { randomFillSync } from 'node:crypto';

/** How much is gathered before it is written without waiting for the end of the event-loop turn. */
const slabBytes = 64 * 1024;

/** Slabs kept for reuse: 1 MiB. More are in use only while the peer does not read. */
const maxSpareSlabs = 16;

/** Takes bytes to write; calls `done` once it does not need their memory any more. */
export type WriteBytes = (bytes: Buffer, done: () => void) => void;

interface Slab {
  readonly bytes: Buffer;
  /** The same memory. */
  readonly words: Int32Array;
}

/**
 * Client-side WebSocket framing (RFC 6455, 5.2) of binary messages. Those of one event-loop turn share
 * one write: at 1 KiB a message, a write and a TLS record for each acknowledgement would be most of
 * the cost.
 *
 * `ws` frames and writes one message at a time and masks byte by byte, which costs more than the
 * rest of the relay together at 1 KiB messages. This gathers frames and masks by words. Messages are
 * never fragmented and never compressed. The memory that is written from is used again: as garbage it
 * would lie outside of V8's heap, where V8 lets tens of megabytes gather.
 */
export class FrameWriter {
  readonly #write: WriteBytes;
  readonly #spare: Slab[] = [];
  #slab: Slab | undefined;
  #used = 0;
  #turn: NodeJS.Immediate | undefined;

  /** `write` may be called from within `add`, and may itself cause more to be added. */
  constructor(write: WriteBytes) {
    this.#write = write;
  }

  /** Bytes gathered and not yet written. */
  get bytes(): number {
    return this.#used;
  }

  /** The message has been copied when this returns. */
  add(message: Uint8Array): void {
    const size = headerBytes(message.length) + message.length;
    if (size > slabBytes) {
      this.flush();
      const apart = makeSlab(size);
      writeFrame(apart, 0, message);
      this.#write(apart.bytes.subarray(0, size), ignore);
      return;
    }
    // Again and again, because what is written may cause more to be added.
    while (this.#used + size > slabBytes) this.flush();
    this.#slab ??= this.#spare.pop() ?? makeSlab(slabBytes);
    this.#used = writeFrame(this.#slab, this.#used, message);
    this.#turn ??= setImmediate(this.#onTurn);
  }

  flush(): void {
    const slab = this.#slab;
    if (slab === undefined || this.#used === 0) return;
    const bytes = slab.bytes.subarray(0, this.#used);
    // Out of reach of what is added while it is being written.
    this.#slab = undefined;
    this.#used = 0;
    this.#write(bytes, () => {
      if (this.#spare.length < maxSpareSlabs) this.#spare.push(slab);
    });
  }

  /** Forgets what is gathered; stream messages are kept by the core until they are acknowledged. */
  discard(): void {
    this.#used = 0;
    clearImmediate(this.#turn);
    this.#turn = undefined;
  }

  readonly #onTurn = (): void => {
    this.#turn = undefined;
    this.flush();
  };
}

function ignore(): void {
  // Memory that is not used again.
}

function makeSlab(size: number): Slab {
  const bytes = Buffer.allocUnsafeSlow((size + 3) & ~3);
  return { bytes, words: new Int32Array(bytes.buffer) };
}

const finAndBinary = 0x82;
const maskBit = 0x80;

function headerBytes(length: number): number {
  return length < 126 ? 6 : length < 65_536 ? 8 : 14;
}

/** Gives the offset after the frame. */
function writeFrame(slab: Slab, start: number, message: Uint8Array): number {
  const { bytes } = slab;
  const length = message.length;
  let offset = start;
  bytes[offset++] = finAndBinary;
  if (length < 126) {
    bytes[offset++] = maskBit | length;
  } else if (length < 65_536) {
    bytes[offset++] = maskBit | 126;
    offset = bytes.writeUInt16BE(length, offset);
  } else {
    bytes[offset++] = maskBit | 127;
    offset = bytes.writeUInt32BE(0, offset);
    offset = bytes.writeUInt32BE(length, offset);
  }
  takeMask();
  for (let index = 0; index < 4; index += 1) bytes[offset + index] = byteAt(mask, index);
  offset += 4;
  bytes.set(message, offset);
  applyMask(slab, offset, offset + length);
  return offset + length;
}

/** By words, and byte by byte where the frame shares a word with its neighbours. */
function applyMask({ bytes, words }: Slab, start: number, end: number): void {
  const firstWord = (start + 3) >> 2;
  const endWord = end >> 2;
  let offset = start;
  if (firstWord < endWord) {
    const wordsStart = firstWord << 2;
    for (; offset < wordsStart; offset += 1) {
      bytes[offset] = byteAt(bytes, offset) ^ byteAt(mask, (offset - start) & 3);
    }
    for (let index = 0; index < 4; index += 1) {
      rotated[index] = byteAt(mask, (wordsStart - start + index) & 3);
    }
    const maskWord = rotatedWord[0] ?? 0;
    for (let index = firstWord; index < endWord; index += 1) {
      words[index] = (words[index] ?? 0) ^ maskWord;
    }
    offset = endWord << 2;
  }
  for (; offset < end; offset += 1) {
    bytes[offset] = byteAt(bytes, offset) ^ byteAt(mask, (offset - start) & 3);
  }
}

function byteAt(bytes: Uint8Array, index: number): number {
  return bytes[index] ?? 0;
}

/** The key of the frame that is being written, and the same turned to where a word begins. */
const mask = new Uint8Array(4);
const rotated = new Uint8Array(4);
const rotatedWord = new Int32Array(rotated.buffer);

// Masking keys must be unpredictable (RFC 6455, 5.3); one call for 1024 of them keeps that cheap.
const maskPool = new Uint8Array(4096);
let maskOffset = maskPool.length;

function takeMask(): void {
  if (maskOffset === maskPool.length) {
    randomFillSync(maskPool);
    maskOffset = 0;
  }
  for (let index = 0; index < 4; index += 1) mask[index] = byteAt(maskPool, maskOffset + index);
  maskOffset += 4;
}
