/**
 * The message envelope once more, written for plainness and sharing nothing with src/protocol: an
 * oracle for its codec, and the voice of the model agent.
 */
import { createHash, randomUUID } from 'node:crypto';

export interface NaiveMessage {
  headerLength: number;
  messageType: string;
  createdAt: bigint;
  seq: bigint;
  flags: bigint;
  messageId: string;
  digest: string;
  /** Absent when the header ends before it. */
  payloadType: number | undefined;
  payload: Uint8Array;
}

export function sha256Hex(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}

export function naiveDecode(bytes: Uint8Array): NaiveMessage | undefined {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length < 112) return undefined;
  const headerLength = view.getUint32(0);
  if (headerLength < 112 || headerLength + 4 > bytes.length) return undefined;
  let messageType = '';
  for (const byte of bytes.subarray(4, 36)) messageType += String.fromCharCode(byte);
  const hex = [...bytes.subarray(72, 80), ...bytes.subarray(64, 72)]
    .map((byte) => byte.toString(16).padStart(2, '0'))
    .join('');
  return {
    headerLength,
    messageType: messageType.replace(/^[\0\s]+/, '').replace(/[\0\s]+$/, ''),
    createdAt: view.getBigUint64(40),
    seq: view.getBigInt64(48),
    flags: view.getBigUint64(56),
    messageId: [8, 12, 16, 20, 32].map((end, i) => hex.slice([0, 8, 12, 16, 20][i], end)).join('-'),
    digest: [...bytes.subarray(80, 112)].map((b) => b.toString(16).padStart(2, '0')).join(''),
    payloadType: headerLength >= 116 ? view.getUint32(112) : undefined,
    payload: new Uint8Array(bytes.subarray(headerLength + 4)),
  };
}

export interface NaiveFields {
  messageType: string;
  seq?: number | bigint;
  flags?: number | bigint;
  createdAt?: number | bigint;
  messageId?: string;
  payloadType?: number;
  payload?: Uint8Array | string;
  /** What pads the type to 32 bytes. */
  pad?: string;
  /** 112 leaves the payload type out; other values are written as they are. */
  headerLength?: number;
  digest?: Uint8Array;
  payloadLength?: number;
}

export function naiveEncode(fields: NaiveFields): Uint8Array {
  const payload =
    typeof fields.payload === 'string'
      ? new TextEncoder().encode(fields.payload)
      : (fields.payload ?? new Uint8Array(0));
  const headerLength = fields.headerLength ?? 116;
  const lengthAt = headerLength === 112 ? 112 : 116;
  const bytes = new Uint8Array(lengthAt + 4 + payload.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, headerLength);
  const type = fields.messageType.padEnd(32, fields.pad ?? ' ');
  for (let i = 0; i < 32; i += 1) bytes[4 + i] = type.charCodeAt(i);
  view.setUint32(36, 1);
  view.setBigUint64(40, BigInt(fields.createdAt ?? 1_700_000_000_000));
  view.setBigInt64(48, BigInt(fields.seq ?? 0));
  view.setBigUint64(56, BigInt(fields.flags ?? 0));
  const id = (fields.messageId ?? randomUUID()).replaceAll('-', '');
  for (let i = 0; i < 16; i += 1) {
    bytes[64 + ((i + 8) % 16)] = Number.parseInt(id.slice(2 * i, 2 * i + 2), 16);
  }
  bytes.set(fields.digest ?? createHash('sha256').update(payload).digest(), 80);
  if (lengthAt === 116) view.setUint32(112, fields.payloadType ?? 0);
  view.setUint32(lengthAt, fields.payloadLength ?? payload.length);
  bytes.set(payload, lengthAt + 4);
  return bytes;
}
