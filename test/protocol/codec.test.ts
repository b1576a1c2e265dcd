import { randomBytes } from 'node:crypto';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { decodeMessage, encodeStreamMessage, isIntact } from '../../src/protocol/codec.ts';
import type { Message, StreamMessage } from '../../src/protocol/message.ts';
import {
  fixedMessageId,
  MESSAGE_ID_TEXT_LENGTH,
  RandomMessageIds,
  writeMessageIdText,
} from '../../src/protocol/uuid.ts';
import { naiveDecode, naiveEncode, sha256Hex } from '../support/naive-codec.ts';
import vectors from '../vectors/messages.json' with { type: 'json' };

const bytesOf = (hex: string): Uint8Array => new Uint8Array(Buffer.from(hex, 'hex'));
const hexOf = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');

function streamMessage(message: Message): StreamMessage {
  if (message.kind !== 'stream') throw new Error(`a ${message.kind} message`);
  return message;
}

const anyStreamMessage = fc.record({
  messageType: fc.constantFrom('input_stream_data', 'output_stream_data'),
  seq: fc.oneof(fc.maxSafeNat(), fc.constantFrom(0, 0xffff_ffff, 0x1_0000_0000)),
  flags: fc.maxSafeNat(),
  createdAt: fc.integer({ min: 1, max: Number.MAX_SAFE_INTEGER }),
  payloadType: fc.nat({ max: 0xffff_ffff }),
  payload: fc.uint8Array({ maxLength: 300 }),
});

describe('captured and composed messages', () => {
  for (const vector of vectors.messages) {
    it(`reads ${vector.name}`, () => {
      const message = decodeMessage(bytesOf(vector.hex));
      switch (vector.messageType) {
        case 'input_stream_data':
        case 'output_stream_data': {
          const { seq, payloadType, payload } = vector;
          const stream = streamMessage(message);
          expect(stream).toMatchObject({
            kind: 'stream',
            messageType: vector.messageType,
            seq,
            payloadType,
          });
          expect(hexOf(stream.payload)).toBe(payload);
          expect(isIntact(stream)).toBe(vector.digestOk);
          break;
        }
        case 'acknowledge':
          expect(message.kind).toBe('acknowledge');
          expect(message).toSatisfy(isIntact);
          break;
        case 'channel_closed':
          expect(message.kind === 'channel-closed' && hexOf(message.payload)).toBe(vector.payload);
          break;
        default:
          expect(message).toEqual({ kind: 'other', messageType: vector.messageType });
      }
    });
  }

  const streams = vectors.messages.filter((v) => v.messageType.endsWith('_stream_data'));
  for (const vector of streams) {
    it(`writes ${vector.name}`, () => {
      const frame = encodeStreamMessage(
        {
          messageType: vector.messageType as StreamMessage['messageType'],
          seq: vector.seq,
          flags: vector.flags,
          createdAt: vector.createdAt,
          payloadType: vector.payloadType ?? 0,
          payload: bytesOf(vector.payload),
        },
        fixedMessageId(vector.messageId),
      );
      expect(hexOf(frame)).toBe(vector.hex);
    });
  }
});

describe('encodeStreamMessage', () => {
  it('is undone by decodeMessage', () => {
    fc.assert(
      fc.property(anyStreamMessage, fc.uuid(), (fields, id) => {
        const message = streamMessage(
          decodeMessage(encodeStreamMessage(fields, fixedMessageId(id))),
        );
        const { messageType, seq, payloadType } = fields;
        expect(message).toMatchObject({ kind: 'stream', messageType, seq, payloadType });
        expect([...message.payload]).toEqual([...fields.payload]);
        expect(isIntact(message)).toBe(true);
      }),
    );
  });

  it('is read alike by the naive decoder', () => {
    fc.assert(
      fc.property(anyStreamMessage, fc.uuid(), (fields, id) => {
        const naive = naiveDecode(encodeStreamMessage(fields, fixedMessageId(id)));
        expect(naive).toEqual({
          headerLength: 116,
          messageType: fields.messageType,
          createdAt: BigInt(fields.createdAt),
          seq: BigInt(fields.seq),
          flags: BigInt(fields.flags),
          messageId: id,
          digest: sha256Hex(fields.payload),
          payloadType: fields.payloadType,
          payload: fields.payload,
        });
      }),
    );
  });

  it('copies the payload', () => {
    const payload = new Uint8Array([1, 2, 3]);
    const fields = { seq: 1, flags: 0, createdAt: 1, payloadType: 1, payload } as const;
    const frame = encodeStreamMessage(
      { messageType: 'input_stream_data', ...fields },
      new RandomMessageIds(randomBytes),
    );
    payload.fill(9);
    expect([...frame.subarray(120)]).toEqual([1, 2, 3]);
  });

  it('never writes a zero or fractional date', () => {
    const fields = { seq: 1, flags: 0, payloadType: 1, payload: new Uint8Array(1) } as const;
    const ids = new RandomMessageIds(randomBytes);
    for (const [createdAt, written] of [
      [0, 1n],
      [-5, 1n],
      [1.75, 1n],
      [1_700_000_000_000.5, 1_700_000_000_000n],
    ] as const) {
      const frame = encodeStreamMessage(
        { messageType: 'input_stream_data', createdAt, ...fields },
        ids,
      );
      expect(naiveDecode(frame)?.createdAt).toBe(written);
    }
  });
});

describe('decodeMessage', () => {
  const valid = naiveEncode({
    messageType: 'output_stream_data',
    seq: 7,
    payloadType: 1,
    payload: 'payload bytes',
  });

  /** The decoder's answer in the naive one's terms. */
  function expectAgreement(bytes: Uint8Array): void {
    const message = decodeMessage(bytes);
    const naive = naiveDecode(bytes);
    switch (message.kind) {
      case 'publication':
        // Identified by the type alone, whatever the rest looks like.
        expect(Buffer.from(bytes.subarray(4, 36)).toString()).toMatch(/(start|pause)_publication/);
        break;
      case 'malformed': {
        const isStream = /^(in|out)put_stream_data$/.test(naive?.messageType ?? '');
        const isUnusable =
          naive === undefined ||
          naive.messageType === '' ||
          (isStream &&
            (naive.headerLength < 116 ||
              naive.seq < 0n ||
              naive.seq > BigInt(Number.MAX_SAFE_INTEGER)));
        expect(isUnusable, message.reason).toBe(true);
        break;
      }
      case 'stream':
        expect(naive).toMatchObject({
          messageType: message.messageType,
          seq: BigInt(message.seq),
          payloadType: message.payloadType,
        });
        expect(message.frame).toBe(bytes);
        expect(hexOf(message.payload)).toBe(hexOf(naive!.payload));
        expect(isIntact(message)).toBe(
          message.payload.length === 0 || sha256Hex(message.payload) === naive?.digest,
        );
        break;
      case 'acknowledge':
      case 'channel-closed':
        expect(naive?.messageType).toBe(message.kind.replace('-', '_'));
        expect(hexOf(message.payload)).toBe(hexOf(naive!.payload));
        break;
      case 'other':
        expect(naive?.messageType).toBe(message.messageType);
    }
  }

  it('agrees with the naive decoder on any bytes', () => {
    fc.assert(fc.property(fc.uint8Array({ maxLength: 200 }), expectAgreement));
  });

  it('agrees with the naive decoder on mutated messages', () => {
    const mutations = fc.array(fc.tuple(fc.nat({ max: 250 }), fc.nat({ max: 255 })), {
      maxLength: 6,
    });
    const base = fc.record({
      messageType: fc.constantFrom(
        'output_stream_data',
        'input_stream_data',
        'acknowledge',
        'channel_closed',
        'start_publication',
        'pause_publication',
        'agent_session_state',
        '',
      ),
      seq: fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }),
      payloadType: fc.nat({ max: 12 }),
      headerLength: fc.constantFrom(0, 100, 112, 114, 116, 118, 140, 5000, 0xffff_ffff),
      payload: fc.uint8Array({ maxLength: 100 }),
      pad: fc.constantFrom(' ', '\0'),
    });
    fc.assert(
      fc.property(base, mutations, (fields, changes) => {
        const bytes = naiveEncode(fields);
        for (const [offset, value] of changes) if (offset < bytes.length) bytes[offset] = value;
        expectAgreement(bytes);
      }),
      { numRuns: 500 },
    );
  });

  it('reads every truncation as a malformed or a damaged message', () => {
    for (let length = 0; length < valid.length; length += 1) {
      const message = decodeMessage(valid.subarray(0, length));
      if (length < 120) expect(message.kind, `${length} bytes`).toBe('malformed');
      else if (length > 120) expect(isIntact(streamMessage(message))).toBe(false);
      else expect(streamMessage(message).payload.length).toBe(0);
    }
  });

  it('reads trailing bytes as payload, which the digest then denies', () => {
    const message = streamMessage(decodeMessage(new Uint8Array([...valid, 0])));
    expect(message.payload.length).toBe(14);
    expect(isIntact(message)).toBe(false);
  });

  it('reads the payload after a header that is longer than usual', () => {
    const long = new Uint8Array([
      ...valid.subarray(0, 116),
      1, 2, 3, 4, 5, 6, 7, 8,
      ...valid.subarray(116),
    ]); // prettier-ignore
    new DataView(long.buffer).setUint32(0, 124);
    expect(isIntact(streamMessage(decodeMessage(long)))).toBe(true);
  });

  it('does not copy the payload', () => {
    const message = streamMessage(decodeMessage(valid));
    expect(message.payload.buffer).toBe(valid.buffer);
  });

  it('does not use the PayloadLength field', () => {
    const lying = naiveEncode({
      messageType: 'output_stream_data',
      payload: 'abc',
      payloadType: 1,
      payloadLength: 0xffff_ffff,
    });
    expect(streamMessage(decodeMessage(lying)).payload.length).toBe(3);
  });

  it('knows a publication message by its type alone', () => {
    const bytes = naiveEncode({ messageType: 'pause_publication', headerLength: 5000, pad: '\0' });
    expect(decodeMessage(bytes.subarray(0, 36))).toEqual({ kind: 'publication', paused: true });
    const start = naiveEncode({ messageType: 'start_publication', digest: new Uint8Array(32) });
    expect(decodeMessage(start)).toEqual({ kind: 'publication', paused: false });
  });

  it('needs a whole message type', () => {
    const bytes = naiveEncode({ messageType: 'start_publication' });
    expect(decodeMessage(bytes.subarray(0, 35)).kind).toBe('malformed');
  });

  const refused: [string, Parameters<typeof naiveEncode>[0], string][] = [
    ['no type', { messageType: '' }, 'no message type'],
    ['a type of padding', { messageType: ' \0 ', pad: '\0' }, 'no message type'],
    [
      'a header shorter than its fixed fields',
      { messageType: 'acknowledge', headerLength: 111 },
      'header too short',
    ],
    [
      'a header longer than the message',
      { messageType: 'acknowledge', headerLength: 5000 },
      'header longer than the message',
    ],
    [
      'a header length that overflows 32 bits',
      { messageType: 'acknowledge', headerLength: 0xffff_ffff },
      'header longer than the message',
    ],
    [
      'stream data without a payload type',
      { messageType: 'output_stream_data', headerLength: 112 },
      'stream message without payload type',
    ],
    [
      'a negative sequence number',
      { messageType: 'output_stream_data', seq: -1 },
      'sequence number out of range',
    ],
    [
      'a sequence number beyond the exact integers',
      { messageType: 'output_stream_data', seq: 2n ** 53n },
      'sequence number out of range',
    ],
  ];
  for (const [what, fields, reason] of refused) {
    it(`refuses ${what}`, () => {
      expect(decodeMessage(naiveEncode(fields))).toEqual({ kind: 'malformed', reason });
    });
  }

  it('accepts the largest exact sequence number', () => {
    const bytes = naiveEncode({
      messageType: 'output_stream_data',
      seq: Number.MAX_SAFE_INTEGER,
    });
    expect(streamMessage(decodeMessage(bytes)).seq).toBe(Number.MAX_SAFE_INTEGER);
  });
});

describe('RandomMessageIds', () => {
  it('makes distinct version 4 ids, asking for randomness in bulk', () => {
    let calls = 0;
    const ids = new RandomMessageIds((size) => {
      calls += 1;
      return randomBytes(size);
    });
    const seen = new Set<string>();
    for (let i = 0; i < 600; i += 1) {
      const id = new Uint8Array(16);
      ids.write(id, 0);
      const text = new Uint8Array(MESSAGE_ID_TEXT_LENGTH);
      writeMessageIdText(text, 0, id, 0);
      seen.add(Buffer.from(text).toString());
    }
    expect(seen.size).toBe(600);
    for (const id of seen)
      expect(id).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
    expect(calls).toBe(3);
  });
});
