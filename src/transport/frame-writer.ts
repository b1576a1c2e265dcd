import { randomFillSync } from 'node:crypto';

/**
 * Client-side WebSocket framing (RFC 6455, 5.2) of many binary messages into one buffer.
 *
 * `ws` frames and writes one message at a time and masks byte by byte, which costs more than the
 * rest of the relay together at 1 KiB messages. This writes a whole batch at once and masks by
 * words. Messages are never fragmented and never compressed.
 */
export function frameBinary(messages: readonly Uint8Array[]): Buffer {
  let total = 0;
  for (const message of messages) total += headerBytes(message.length) + message.length;
  const out = Buffer.allocUnsafe(total);
  let offset = 0;
  for (const message of messages) offset = writeFrame(out, offset, message);
  return out;
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
