import { randomFillSync } from 'node:crypto';

/** Frames are gathered in pieces of this size. */
const slabBytes = 64 * 1024;

/** Slabs kept for reuse; more are in use only while the peer does not read. */
const maxSpareSlabs = 4;

/** Takes bytes to write; calls `done` once it does not need their memory any more. */
export type WriteBytes = (bytes: Buffer, done: () => void) => void;

/**
 * Client-side WebSocket framing (RFC 6455, 5.2) of binary messages.
 *
 * `ws` frames and writes one message at a time and masks byte by byte, which costs more than the
 * rest of the relay together at 1 KiB messages. This writes a whole batch at once and masks by
 * words. Messages are never fragmented and never compressed. The memory that is written from is used
 * again: as garbage it would lie outside of V8's heap, where V8 lets tens of megabytes gather.
 */
export class FrameWriter {
  readonly #write: WriteBytes;
  readonly #spare: Buffer[] = [];

  constructor(write: WriteBytes) {
    this.#write = write;
  }

  /** The messages have been copied when this returns. */
  send(messages: readonly Uint8Array[]): void {
    let slab: Buffer | undefined;
    let used = 0;
    for (const message of messages) {
      const size = headerBytes(message.length) + message.length;
      if (slab !== undefined && used + size > slab.length) {
        this.#writeSlab(slab, used);
        slab = undefined;
      }
      if (slab === undefined) {
        slab = this.#takeSlab(size);
        used = 0;
      }
      used = writeFrame(slab, used, message);
    }
    if (slab !== undefined) this.#writeSlab(slab, used);
  }

  #takeSlab(size: number): Buffer {
    if (size > slabBytes) return Buffer.allocUnsafeSlow(size);
    return this.#spare.pop() ?? Buffer.allocUnsafeSlow(slabBytes);
  }

  #writeSlab(slab: Buffer, used: number): void {
    this.#write(slab.subarray(0, used), () => {
      if (slab.length === slabBytes && this.#spare.length < maxSpareSlabs) this.#spare.push(slab);
    });
  }
}

const finAndBinary = 0x82;
const maskBit = 0x80;

function headerBytes(length: number): number {
  return length < 126 ? 6 : length < 65_536 ? 8 : 14;
}

function writeFrame(out: Buffer, start: number, message: Uint8Array): number {
  const length = message.length;
  let offset = start;
  out[offset++] = finAndBinary;
  if (length < 126) {
    out[offset++] = maskBit | length;
  } else if (length < 65_536) {
    out[offset++] = maskBit | 126;
    offset = out.writeUInt16BE(length, offset);
  } else {
    out[offset++] = maskBit | 127;
    offset = out.writeUInt32BE(0, offset);
    offset = out.writeUInt32BE(length, offset);
  }
  const mask = nextMask();
  out.set(mask, offset);
  offset += 4;
  out.set(message, offset);
  applyMask(out, offset, length, mask);
  return offset + length;
}

function applyMask(out: Buffer, start: number, length: number, mask: Uint8Array): void {
  const end = start + length;
  let offset = start;
  // Up to the first word boundary of the underlying memory, byte by byte.
  while (offset < end && ((out.byteOffset + offset) & 3) !== 0) {
    out[offset] = byteAt(out, offset) ^ byteAt(mask, (offset - start) & 3);
    offset += 1;
  }
  const words = (end - offset) >> 2;
  if (words > 0) {
    const rotation = (offset - start) & 3;
    rotated[0] = byteAt(mask, rotation);
    rotated[1] = byteAt(mask, (rotation + 1) & 3);
    rotated[2] = byteAt(mask, (rotation + 2) & 3);
    rotated[3] = byteAt(mask, (rotation + 3) & 3);
    const maskWord = rotatedWord[0] ?? 0;
    const view = new Int32Array(out.buffer, out.byteOffset + offset, words);
    for (let index = 0; index < words; index += 1) view[index] = (view[index] ?? 0) ^ maskWord;
    offset += words << 2;
  }
  while (offset < end) {
    out[offset] = byteAt(out, offset) ^ byteAt(mask, (offset - start) & 3);
    offset += 1;
  }
}

function byteAt(bytes: Uint8Array, index: number): number {
  return bytes[index] ?? 0;
}

const rotated = new Uint8Array(4);
const rotatedWord = new Int32Array(rotated.buffer);

// Masking keys must be unpredictable (RFC 6455, 5.3); one call for 1024 of them keeps that cheap.
const maskPool = new Uint8Array(4096);
let maskOffset = maskPool.length;

function nextMask(): Uint8Array {
  if (maskOffset === maskPool.length) {
    randomFillSync(maskPool);
    maskOffset = 0;
  }
  const mask = maskPool.subarray(maskOffset, maskOffset + 4);
  maskOffset += 4;
  return mask;
}
