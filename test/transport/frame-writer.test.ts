import fc from 'fast-check';
import { expect, it } from 'vitest';
import type { Writable } from 'node:stream';
import * as ws from 'ws';
import { FrameWriter } from '../../src/transport/frame-writer.ts';
import { turn } from '../support/manual-clock.ts';
import { pattern } from './harness.ts';

// The server's parser shares nothing with what is tested. Its type leaves it out.
const { Receiver } = ws as unknown as { Receiver: new (options: object) => Writable };

/** All that a writer writes for one batch, when each write is done at once. */
function frameBinary(messages: readonly Uint8Array[]): Buffer {
  const written: Buffer[] = [];
  const writer = new FrameWriter((bytes, done) => {
    written.push(Buffer.from(bytes));
    done();
  });
  for (const message of messages) writer.add(message);
  writer.flush();
  return Buffer.concat(written);
}

/** What ws makes of the bytes when they come in pieces of the given sizes. */
function parse(bytes: Uint8Array, cuts: readonly number[] = []): Buffer[] {
  const receiver = new Receiver({ isServer: true, maxPayload: 0 });
  const messages: Buffer[] = [];
  receiver.on('message', (data: Buffer, isBinary: boolean) => {
    if (!isBinary) throw new Error('a text frame');
    messages.push(Buffer.from(data));
  });
  receiver.on('error', (error) => {
    throw error;
  });
  let at = 0;
  for (const cut of [...cuts, bytes.length]) {
    const end = Math.min(bytes.length, Math.max(at, cut));
    receiver.write(Buffer.from(bytes.subarray(at, end)));
    at = end;
  }
  return messages;
}

it.each([0, 1, 2, 3, 4, 5, 125, 126, 127, 1000, 65_535, 65_536, 65_537, 1_000_000])(
  'frames a message of %i bytes as the other side reads it',
  (length) => {
    const message = pattern(length);
    expect(parse(frameBinary([message])).map((got) => got.equals(message))).toEqual([true]);
  },
);

it('frames any batch so that the same messages come out, wherever they lie in memory', () => {
  const message = fc.tuple(fc.nat(7), fc.uint8Array({ maxLength: 600 })).map(([offset, bytes]) => {
    const memory = new Uint8Array(offset + bytes.length);
    memory.set(bytes, offset);
    return memory.subarray(offset);
  });
  fc.assert(
    fc.property(fc.array(message, { maxLength: 12 }), fc.array(fc.nat(4000)), (messages, cuts) => {
      const got = parse(
        frameBinary(messages),
        cuts.sort((a, b) => a - b),
      );
      expect(got.map((bytes) => bytes.toString('hex'))).toEqual(
        messages.map((bytes) => Buffer.from(bytes).toString('hex')),
      );
    }),
    { numRuns: 300 },
  );
});

it('leaves the messages as they were', () => {
  const message = pattern(5000);
  frameBinary([message]);
  expect(Buffer.from(message).equals(pattern(5000))).toBe(true);
});

it('masks each frame with another key', () => {
  const keys = new Set<string>();
  for (let count = 0; count < 3000; count += 1) {
    keys.add(
      frameBinary([new Uint8Array(1)])
        .subarray(2, 6)
        .toString('hex'),
    );
  }
  expect(keys.size).toBeGreaterThan(2990);
});

it('marks every frame as final and binary', () => {
  const frames = frameBinary([new Uint8Array(3), new Uint8Array(4)]);
  expect([frames[0], frames[9], frames.length]).toEqual([0x82, 0x82, 19]);
});

it('makes nothing of nothing', () => {
  expect(frameBinary([]).length).toBe(0);
});

it('frames a batch of any size as the other side reads it', () => {
  const messages = Array.from({ length: 40 }, (_, index) => pattern(1 + ((index * 7919) % 20_000)));
  const got = parse(frameBinary([...messages, pattern(200_000), pattern(3)]));
  expect(got.map((bytes) => bytes.length)).toEqual([
    ...messages.map((bytes) => bytes.length),
    200_000,
    3,
  ]);
  expect(got.slice(0, 40).every((bytes, index) => bytes.equals(messages[index]!))).toBe(true);
});

function recorded(): { writer: FrameWriter; batches: number[][] } {
  const batches: number[][] = [];
  const writer = new FrameWriter((bytes, done) => {
    batches.push(parse(Buffer.from(bytes)).map((message) => message.length));
    done();
  });
  return { writer, batches };
}

it('writes into memory again only when its write is done', () => {
  const written: { readonly bytes: Buffer; readonly done: () => void }[] = [];
  const writer = new FrameWriter((bytes, done) => written.push({ bytes, done }));
  const send = (length: number): void => {
    writer.add(pattern(length));
    writer.flush();
  };
  send(100);
  const [first] = written;
  const before = Buffer.from(first!.bytes);
  send(200);
  expect(first!.bytes.equals(before)).toBe(true);
  expect(written[1]!.bytes.buffer).not.toBe(first!.bytes.buffer);
  first!.done();
  send(300);
  expect(written[2]!.bytes.buffer).toBe(first!.bytes.buffer);
});

it('writes the messages of one turn together and in order', async () => {
  const { writer, batches } = recorded();
  writer.add(pattern(1));
  writer.add(pattern(2));
  expect(batches).toEqual([]);
  await turn();
  expect(batches).toEqual([[1, 2]]);
  writer.add(pattern(3));
  await turn();
  expect(batches).toEqual([[1, 2], [3]]);
});

it('does not wait for the turn to end with 64 KiB', () => {
  const { writer, batches } = recorded();
  for (let count = 0; count < 64; count += 1) writer.add(new Uint8Array(1024));
  // Each with a header of 8 bytes.
  expect([batches.map((batch) => batch.length), writer.bytes]).toEqual([[63], 1032]);
});

it('writes a message of more than that at once, after what was there before', () => {
  const { writer, batches } = recorded();
  writer.add(pattern(1));
  writer.add(new Uint8Array(65_537));
  expect([batches, writer.bytes]).toEqual([[[1], [65_537]], 0]);
});

it('keeps a copy, because what it is given is lent', async () => {
  const written: Buffer[] = [];
  const writer = new FrameWriter((bytes) => written.push(Buffer.from(bytes)));
  const lent = Buffer.from('a');
  writer.add(lent);
  lent.fill('b');
  writer.add(lent);
  await turn();
  expect(parse(Buffer.concat(written)).map(String)).toEqual(['a', 'b']);
});

it('writes on demand, once', async () => {
  const { writer, batches } = recorded();
  writer.add(pattern(1));
  writer.flush();
  writer.flush();
  await turn();
  expect([batches, writer.bytes]).toEqual([[[1]], 0]);
});

it('takes messages that are added while it writes', async () => {
  const seen: number[] = [];
  const writer: FrameWriter = new FrameWriter((bytes, done) => {
    seen.push(parse(Buffer.from(bytes)).length);
    if (seen.length === 1) writer.add(pattern(5));
    done();
  });
  writer.add(pattern(1));
  await turn();
  await turn();
  expect(seen).toEqual([1, 1]);
});

it('forgets what is discarded, and goes on', async () => {
  const { writer, batches } = recorded();
  writer.add(pattern(1));
  writer.discard();
  await turn();
  expect([batches, writer.bytes]).toEqual([[], 0]);
  writer.add(pattern(2));
  await turn();
  expect(batches).toEqual([[2]]);
});
