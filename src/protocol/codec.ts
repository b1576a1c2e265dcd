/**
 * The binary envelope. Encoding writes into memory that the caller provides; decoding is a total function over
 * any bytes, checks every length against what is there, and copies nothing.
 */
import { hash } from 'node:crypto';
import {
  allocate,
  readLatin1,
  readSafeI64,
  readU32,
  writeLatin1,
  writeU32,
  writeU64,
} from './bytes.ts';
import {
  ACKNOWLEDGE_FLAGS,
  DIGEST_SIZE,
  HEADER_LENGTH,
  MESSAGE_TYPE_SIZE,
  OFFSET,
  PAYLOAD_LENGTH_SIZE,
  PAYLOAD_OFFSET,
  PAYLOAD_TYPE,
  SCHEMA_VERSION,
  SHORT_HEADER_LENGTH,
} from './constants.ts';
import type { Message, OutgoingStreamMessage, StreamMessage } from './message.ts';
import type { MessageIdSource } from './uuid.ts';

/** Gives memory of exactly the size asked for; what it holds does not matter. */
export type Allocate = (size: number) => Uint8Array;

function padded(messageType: string): string {
  return messageType.padEnd(MESSAGE_TYPE_SIZE, ' ');
}
/** What all headers of a type begin with: copying it is cheaper than writing three fields. */
function headerStart(messageType: string): Uint8Array {
  const start = new Uint8Array(OFFSET.createdDate);
  writeU32(start, OFFSET.headerLength, HEADER_LENGTH);
  for (let index = 0; index < MESSAGE_TYPE_SIZE; index += 1) {
    start[OFFSET.messageType + index] = padded(messageType).charCodeAt(index);
  }
  writeU32(start, OFFSET.schemaVersion, SCHEMA_VERSION);
  return start;
}
const HEADER_START = {
  input_stream_data: headerStart('input_stream_data'),
  output_stream_data: headerStart('output_stream_data'),
  acknowledge: headerStart('acknowledge'),
} as const;

export function encodeStreamMessage(
  message: OutgoingStreamMessage,
  ids: MessageIdSource,
  take: Allocate = allocate,
): Uint8Array {
  const frame = take(PAYLOAD_OFFSET + message.payload.length);
  frame.set(message.payload, PAYLOAD_OFFSET);
  writeHeader(frame, HEADER_START[message.messageType], message, digestOf(message.payload), ids);
  return frame;
}

/**
 * What comes before the payload of an acknowledgement, payload length included; date, id and digest
 * are left 0.
 */
export function acknowledgeHead(payloadLength: number): Uint8Array {
  const head = new Uint8Array(PAYLOAD_OFFSET);
  head.set(HEADER_START.acknowledge);
  writeU64(head, OFFSET.flags, ACKNOWLEDGE_FLAGS);
  writeU32(head, OFFSET.payloadType, PAYLOAD_TYPE.none);
  writeU32(head, HEADER_LENGTH, payloadLength);
  return head;
}

function writeHeader(
  frame: Uint8Array,
  start: Uint8Array,
  fields: Pick<OutgoingStreamMessage, 'createdAt' | 'seq' | 'flags' | 'payloadType'>,
  digest: string,
  ids: MessageIdSource,
): void {
  frame.set(start);
  writeCreatedDate(frame, fields.createdAt);
  writeU64(frame, OFFSET.sequenceNumber, fields.seq);
  writeU64(frame, OFFSET.flags, fields.flags);
  ids.write(frame, OFFSET.messageId);
  writeLatin1(frame, OFFSET.payloadDigest, digest);
  writeU32(frame, OFFSET.payloadType, fields.payloadType);
  writeU32(frame, HEADER_LENGTH, frame.length - PAYLOAD_OFFSET);
}

/** `createdAt` is in Unix milliseconds. Peers refuse a zero date. */
export function writeCreatedDate(frame: Uint8Array, createdAt: number): void {
  writeU64(frame, OFFSET.createdDate, Math.max(1, Math.floor(createdAt)));
}

/**
 * The message in `frame`, or `malformed` with the reason. PayloadLength is not used: peers do not
 * use it either, and one WebSocket message is one envelope.
 */
export function decodeMessage(frame: Uint8Array): Message {
  if (frame.length < OFFSET.schemaVersion) return malformed('shorter than a message type');
  const messageType = trimType(readLatin1(frame, OFFSET.messageType, OFFSET.schemaVersion));
  switch (messageType) {
    case 'start_publication':
      return { kind: 'publication', paused: false };
    case 'pause_publication':
      return { kind: 'publication', paused: true };
    case '':
      return malformed('no message type');
  }
  const headerLength = readU32(frame, OFFSET.headerLength);
  if (headerLength < SHORT_HEADER_LENGTH) return malformed('header too short');
  const payloadOffset = headerLength + PAYLOAD_LENGTH_SIZE;
  if (payloadOffset > frame.length) return malformed('header longer than the message');
  const payload = frame.subarray(payloadOffset);
  switch (messageType) {
    case 'output_stream_data':
    case 'input_stream_data': {
      if (headerLength < HEADER_LENGTH) return malformed('stream message without payload type');
      const seq = readSafeI64(frame, OFFSET.sequenceNumber);
      if (seq === undefined) return malformed('sequence number out of range');
      return {
        kind: 'stream',
        messageType,
        seq,
        payloadType: readU32(frame, OFFSET.payloadType),
        payload,
        frame,
      };
    }
    case 'acknowledge':
      return { kind: 'acknowledge', payload, frame };
    case 'channel_closed':
      return { kind: 'channel-closed', payload };
    default:
      return { kind: 'other', messageType };
  }
}

/** Whether the payload is the one the sender made its digest from. Empty payloads carry none. */
export function isIntact({ payload, frame }: Pick<StreamMessage, 'payload' | 'frame'>): boolean {
  return payload.length === 0 || digestOf(payload) === readDigest(frame);
}

function readDigest(frame: Uint8Array): string {
  return readLatin1(frame, OFFSET.payloadDigest, OFFSET.payloadDigest + DIGEST_SIZE);
}

/** SHA-256 as text of one character per byte: three times cheaper than a hash object and its buffer. */
export function digestOf(payload: Uint8Array): string {
  return hash('sha256', payload, 'binary');
}

const KNOWN_TYPES: ReadonlyMap<string, string> = new Map(
  ['output_stream_data', 'acknowledge'].map((name) => [padded(name), name]),
);

/** Types are padded with spaces by agent and plugin, with NULs by the service. */
function trimType(text: string): string {
  return KNOWN_TYPES.get(text) ?? text.replace(/^[\0\s]+|[\0\s]+$/g, '');
}

function malformed(reason: string): Message {
  return { kind: 'malformed', reason };
}
