import { randomBytes } from 'node:crypto';
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { Acknowledger } from '../../src/protocol/acknowledger.ts';
import { fixedMessageId, RandomMessageIds } from '../../src/protocol/uuid.ts';
import { naiveDecode, naiveEncode, sha256Hex } from '../support/naive-codec.ts';
import vectors from '../vectors/messages.json' with { type: 'json' };

interface AcknowledgeContent {
  readonly AcknowledgedMessageType: string;
  readonly AcknowledgedMessageId: string;
  readonly AcknowledgedMessageSequenceNumber: number;
  readonly IsSequentialMessage: boolean;
}

const received = (seq: number, messageId: string): Uint8Array =>
  naiveEncode({ messageType: 'output_stream_data', seq, messageId, payloadType: 1, payload: 'x' });

const ours = vectors.messages.filter(
  ({ messageType, from }) => messageType === 'acknowledge' && from === 'client',
);

it.each(ours)('writes $name', (vector) => {
  const content = JSON.parse(
    Buffer.from(vector.payload, 'hex').toString('utf8'),
  ) as AcknowledgeContent;
  const seq = content.AcknowledgedMessageSequenceNumber;
  const message = received(seq, content.AcknowledgedMessageId);
  const acknowledger = new Acknowledger(fixedMessageId(vector.messageId));
  const frame = acknowledger.encode(message, seq, vector.createdAt);
  expect(Buffer.from(frame).toString('hex')).toBe(vector.hex);
});

it('has vectors to compare with', () => {
  expect(ours.length).toBeGreaterThan(0);
});

it('writes what the naive decoder reads, number after number', () => {
  const acknowledger = new Acknowledger(new RandomMessageIds(randomBytes));
  const anySeq = fc.oneof(
    fc.maxSafeNat(),
    fc.nat(20),
    fc.constantFrom(9, 10, 2 ** 32, 2 ** 53 - 1),
  );
  fc.assert(
    fc.property(anySeq, fc.uuid(), fc.integer({ min: 1 }), (seq, id, createdAt) => {
      const frame = acknowledger.encode(received(seq, id), seq, createdAt);
      const decoded = naiveDecode(frame)!;
      expect(decoded).toMatchObject({
        headerLength: 116,
        messageType: 'acknowledge',
        createdAt: BigInt(createdAt),
        seq: 0n,
        flags: 3n,
        payloadType: 0,
        digest: sha256Hex(decoded.payload),
      });
      expect(decoded.messageId).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-4/);
      expect(Buffer.from(frame).readUInt32BE(116)).toBe(decoded.payload.length);
      expect(JSON.parse(Buffer.from(decoded.payload).toString())).toEqual({
        AcknowledgedMessageType: 'output_stream_data',
        AcknowledgedMessageId: id,
        AcknowledgedMessageSequenceNumber: seq,
        IsSequentialMessage: true,
      });
    }),
    { numRuns: 500 },
  );
});

it('remembers the last one', () => {
  const acknowledger = new Acknowledger(new RandomMessageIds(randomBytes));
  expect(acknowledger.last).toBeUndefined();
  const id = '00112233-4455-4677-8899-aabbccddeeff';
  acknowledger.encode(received(9, id), 9, 1);
  const frame = Buffer.from(acknowledger.encode(received(10, id), 10, 1));
  expect(frame.equals(acknowledger.last!)).toBe(true);
});

it('never writes a zero or fractional date', () => {
  const acknowledger = new Acknowledger(new RandomMessageIds(randomBytes));
  const id = '00112233-4455-4677-8899-aabbccddeeff';
  const written = [0, -5, 1.75].map(
    (createdAt) => naiveDecode(acknowledger.encode(received(1, id), 1, createdAt))?.createdAt,
  );
  expect(written).toEqual([1n, 1n, 1n]);
});
