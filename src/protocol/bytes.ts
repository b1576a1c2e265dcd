/**
 * Big-endian reads and writes, and the conversions between bytes and text that are fast in Node.
 * Offsets are the caller's to check: nothing here looks at lengths from the wire.
 */
// eslint-disable-next-line no-restricted-imports -- allocation from a pool and latin1 copies in C++; no I/O
import { Buffer } from 'node:buffer';

const TWO_32 = 0x1_0000_0000;

/** Uninitialised bytes, to be written in full by the caller. */
export function allocate(size: number): Uint8Array {
  return Buffer.allocUnsafe(size);
}

/** The same in memory of its own, for bytes that are kept and used again. */
export function allocateApart(size: number): Uint8Array {
  return Buffer.allocUnsafeSlow(size);
}

/** All of the memory behind a view into what `allocateApart` gave. */
export function wholeMemory(view: Uint8Array): Uint8Array {
  return Buffer.from(view.buffer);
}

export function readU8(source: Uint8Array, offset: number): number {
  return asBuffer(source).readUInt8(offset);
}

export function readU32(source: Uint8Array, offset: number): number {
  return asBuffer(source).readUInt32BE(offset);
}

/** A signed 64-bit field, or undefined when it is negative or not exactly a number. */
export function readSafeI64(source: Uint8Array, offset: number): number | undefined {
  const high = readU32(source, offset);
  if (high > 0x1f_ffff) return undefined;
  return high * TWO_32 + readU32(source, offset + 4);
}

export function writeU32(target: Uint8Array, offset: number, value: number): void {
  target[offset] = value >>> 24;
  target[offset + 1] = value >>> 16;
  target[offset + 2] = value >>> 8;
  target[offset + 3] = value;
}

/** Writes a non-negative safe integer. */
export function writeU64(target: Uint8Array, offset: number, value: number): void {
  writeU32(target, offset, Math.floor(value / TWO_32));
  writeU32(target, offset + 4, value % TWO_32);
}

/** Each byte as the character of the same code. */
export function readLatin1(source: Uint8Array, start: number, end: number): string {
  return asBuffer(source).toString('latin1', start, end);
}

/** Each character below 256 as the byte of the same code. */
export function writeLatin1(target: Uint8Array, offset: number, text: string): void {
  asBuffer(target).write(text, offset, text.length, 'latin1');
}

export function writeHex(target: Uint8Array, offset: number, hex: string): void {
  asBuffer(target).write(hex, offset, hex.length / 2, 'hex');
}

export function readUtf8(source: Uint8Array): string {
  return asBuffer(source).toString('utf8');
}

export function utf8Bytes(text: string): Uint8Array {
  return Buffer.from(text, 'utf8');
}

function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.isBuffer(bytes)
    ? bytes
    : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
