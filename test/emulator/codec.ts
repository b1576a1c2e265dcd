import * as crypto from 'node:crypto';

/** AgentMessage layout, written from the specification and sharing no code with the client it checks. */
export interface AgentMessage {
  readonly headerLength: number;
  readonly type: string;
  readonly schemaVersion: number;
  readonly createdDate: number;
  readonly seq: number;
  readonly flags: number;
  readonly messageId: string;
  readonly digest: Buffer;
  /** 0 when the header has no such field. */
  readonly payloadType: number;
  readonly payloadLength: number;
  readonly payload: Buffer;
}

export const HEADER = 116;
export const PAYLOAD_AT = 120;

export const payloadTypes = {
  none: 0,
  output: 1,
  handshakeRequest: 5,
  handshakeResponse: 6,
  handshakeComplete: 7,
  flag: 10,
} as const;

// crypto.hash() exists from Node 20.12 and is several times faster for small inputs.
export const sha256: (data: Uint8Array | string) => Buffer =
  typeof crypto.hash === 'function'
    ? (data) => crypto.hash('sha256', data, 'buffer')
    : (data) => crypto.createHash('sha256').update(data).digest();

let pool = Buffer.alloc(0);
let poolAt = 0;

/** 16 bytes of a version 4 UUID. A view: copy it before the next call. */
function uuidBytes(): Buffer {
  if (poolAt + 16 > pool.length) {
    pool = crypto.randomBytes(4096);
    poolAt = 0;
  }
  const id = pool.subarray(poolAt, poolAt + 16);
  poolAt += 16;
  id[6] = (id[6]! & 0x0f) | 0x40;
  id[8] = (id[8]! & 0x3f) | 0x80;
  return id;
}

function uuidText(hex: string): string {
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20)}`;
}

export interface Encodable {
  readonly type: string;
  readonly seq?: number;
  readonly flags?: number;
  readonly payloadType?: number;
  readonly payload: Uint8Array;
  readonly createdDate?: number;
  /** 32 hex digits without hyphens; random when absent. */
  readonly messageId?: string;
  /** The service's own messages: 112 has no payload type, and 'nul' pads the type with NULs. */
  readonly headerLength?: 116 | 112;
  readonly padding?: 'space' | 'nul';
  readonly digest?: Uint8Array;
}

export function encode(message: Encodable): Buffer {
  const { payload } = message;
  const headerLength = message.headerLength ?? HEADER;
  const frame = Buffer.allocUnsafe(headerLength + 4 + payload.length);
  frame.writeUInt32BE(headerLength, 0);
  frame.fill(message.padding === 'nul' ? 0 : 0x20, 4, 36);
  frame.write(message.type, 4, 'latin1');
  frame.writeUInt32BE(1, 36);
  writeUint64(frame, message.createdDate ?? Date.now(), 40);
  writeUint64(frame, message.seq ?? 0, 48);
  writeUint64(frame, message.flags ?? 0, 56);
  const id = message.messageId === undefined ? uuidBytes() : Buffer.from(message.messageId, 'hex');
  // The halves of the UUID change places on the wire.
  id.copy(frame, 64, 8, 16);
  id.copy(frame, 72, 0, 8);
  frame.set(message.digest ?? sha256(payload), 80);
  if (headerLength === HEADER) frame.writeUInt32BE(message.payloadType ?? 0, 112);
  frame.writeUInt32BE(payload.length, headerLength);
  frame.set(payload, headerLength + 4);
  return frame;
}

/** Undefined when the bytes are no AgentMessage; lengths are checked against what is there. */
export function decode(frame: Buffer): AgentMessage | undefined {
  if (frame.length < 116) return undefined;
  const headerLength = frame.readUInt32BE(0);
  if (headerLength < 112 || headerLength + 4 > frame.length) return undefined;
  return {
    headerLength,
    type: typeName(frame),
    schemaVersion: frame.readUInt32BE(36),
    createdDate: readUint64(frame, 40),
    seq: readUint64(frame, 48),
    flags: readUint64(frame, 56),
    messageId: uuidText(frame.toString('hex', 72, 80) + frame.toString('hex', 64, 72)),
    digest: frame.subarray(80, 112),
    payloadType: headerLength >= 116 ? frame.readUInt32BE(112) : 0,
    payloadLength: frame.readUInt32BE(headerLength),
    payload: frame.subarray(headerLength + 4),
  };
}

/** The type field without its padding: NULs first, then white space. */
export function typeName(frame: Buffer): string {
  return frame
    .toString('latin1', 4, 36)
    .replace(/^\0+|\0+$/g, '')
    .trim();
}

export function messageIdOf(frame: Buffer): string {
  return uuidText(frame.toString('hex', 72, 80) + frame.toString('hex', 64, 72));
}

export function encodeAck(type: string, messageId: string, seq: number): Buffer {
  const json = `{"AcknowledgedMessageType":"${type}","AcknowledgedMessageId":"${messageId}","AcknowledgedMessageSequenceNumber":${seq},"IsSequentialMessage":true}`;
  return encode({ type: 'acknowledge', flags: 3, payload: Buffer.from(json, 'latin1') });
}

export function uint32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

function writeUint64(frame: Buffer, value: number, at: number): void {
  frame.writeUInt32BE(Math.floor(value / 2 ** 32), at);
  frame.writeUInt32BE(value >>> 0, at + 4);
}

function readUint64(frame: Buffer, at: number): number {
  return frame.readUInt32BE(at) * 2 ** 32 + frame.readUInt32BE(at + 4);
}
