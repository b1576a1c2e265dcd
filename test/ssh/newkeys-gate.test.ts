import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { gatedSource } from '../../src/ssh/gated-source.ts';
import { NewkeysGate } from '../../src/ssh/newkeys-gate.ts';
import { concat, encodeUint32 } from '../../src/ssh/wire.ts';

const encode = (text: string): Uint8Array => new TextEncoder().encode(text);

function packet(type: number, bodyLength: number): Uint8Array {
  const payload = new Uint8Array(bodyLength).fill(type === 21 ? 20 : 21);
  const length = 2 + payload.length;
  return concat(encodeUint32(length), new Uint8Array([4, type]), payload);
}

/** A client's stream up to and including NEWKEYS, then what is encrypted. */
const sshStream = fc
  .record({
    banner: fc.constantFrom(
      'SSH-2.0-OpenSSH_9.2p1\r\n',
      'SSH-2.0-x\n',
      `SSH-2.0-${'y'.repeat(240)}\r\n`,
    ),
    packets: fc.array(
      fc.record({
        type: fc.integer({ min: 0, max: 255 }).filter((type) => type !== 21),
        bodyLength: fc.oneof(fc.integer({ min: 10, max: 60 }), fc.constantFrom(1400, 34_998)),
      }),
      { maxLength: 6 },
    ),
    newkeysLength: fc.integer({ min: 10, max: 40 }),
    rest: fc.uint8Array({ maxLength: 200 }),
  })
  .map(({ banner, packets, newkeysLength, rest }) => {
    const plain = concat(
      encode(banner),
      ...packets.map(({ type, bodyLength }) => packet(type, bodyLength)),
      packet(21, newkeysLength),
    );
    return { plain, rest, whole: concat(plain, rest) };
  });

const cuts = fc.array(fc.integer({ min: 1, max: 3000 }), { minLength: 1, maxLength: 12 });

function inChunks(bytes: Uint8Array, sizes: readonly number[]): Uint8Array[] {
  const chunks: Uint8Array[] = [];
  for (let offset = 0, index = 0; offset < bytes.length; index++) {
    const size = sizes[index % sizes.length]!;
    chunks.push(bytes.subarray(offset, offset + size));
    offset += size;
  }
  return chunks;
}

describe('NewkeysGate', () => {
  it('lets pass exactly what ends with NEWKEYS, however the stream is cut', () => {
    fc.assert(
      fc.property(sshStream, cuts, ({ plain, whole }, sizes) => {
        const gate = new NewkeysGate();
        let passed = 0;
        for (const chunk of inChunks(whole, sizes)) {
          const count = gate.feed(chunk);
          passed += count;
          if (count < chunk.length) break;
        }
        expect(passed).toBe(plain.length);
        expect(gate.state).toBe('holding');
      }),
    );
  });

  it('opens by itself for a stream that is not SSH, whatever it is', () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 1, maxLength: 400 }), cuts, (bytes, sizes) => {
        fc.pre(
          !encode('SSH-2.0-').every((byte, at) => bytes[at] === undefined || bytes[at] === byte),
        );
        const gate = new NewkeysGate();
        for (const chunk of inChunks(bytes, sizes)) expect(gate.feed(chunk)).toBe(chunk.length);
        expect(gate.state).toBe('open');
      }),
    );
  });

  it.each([
    ['longer than any packet', 35_001],
    ['shorter than any packet', 11],
    ['beyond 31 bits', 0xffffffff],
  ])('opens for a packet length %s', (_what, length) => {
    const gate = new NewkeysGate();
    const bytes = concat(encode('SSH-2.0-x\r\n'), encodeUint32(length), encode('whatever'));
    expect(gate.feed(bytes)).toBe(bytes.length);
    expect(gate.state).toBe('open');
  });

  it('opens for an identification line without an end', () => {
    const gate = new NewkeysGate();
    const bytes = encode(`SSH-2.0-${'x'.repeat(400)}`);
    expect(gate.feed(bytes)).toBe(bytes.length);
    expect(gate.state).toBe('open');
  });

  it('holds what follows until it is released', () => {
    const gate = new NewkeysGate();
    gate.feed(concat(encode('SSH-2.0-x\r\n'), packet(21, 10)));
    expect(gate.feed(encode('secret'))).toBe(0);
    gate.release();
    expect(gate.feed(encode('secret'))).toBe(6);
  });
});

describe('gatedSource', () => {
  it('keeps what it holds back when the source reads more into the same memory', async () => {
    const newkeys = packet(21, 10);
    const memory = Buffer.from(concat(encode('SSH-2.0-x\r\n'), newkeys, encode('encrypted')));
    let release: () => void = () => undefined;
    const pushed = new Promise<void>((resolve) => (release = resolve));
    let isRead = false;
    const source = gatedSource(
      {
        pull: () => {
          if (isRead) return undefined;
          isRead = true;
          return memory.subarray();
        },
      },
      new NewkeysGate(),
      { prepared: Promise.resolve(), atNewkeys: () => pushed, ready: () => undefined },
    );
    await Promise.resolve();
    expect(source.pull(4096)?.length).toBe(memory.length - 'encrypted'.length);
    memory.fill(0);
    release();
    await pushed;
    expect(String(Buffer.from(source.pull(4096) ?? []))).toBe('encrypted');
  });

  function fixture(chunks: Uint8Array[]) {
    let resolvePush: () => void = () => undefined;
    let resolvePrepared: () => void = () => undefined;
    const pushed = new Promise<void>((resolve) => (resolvePush = resolve));
    const prepared = new Promise<void>((resolve) => (resolvePrepared = resolve));
    const events: string[] = [];
    const queue = [...chunks];
    const source = gatedSource(
      {
        pull(maxBytes) {
          const chunk = queue.shift();
          if (chunk === undefined) return undefined;
          if (chunk.length > maxBytes) queue.unshift(chunk.subarray(maxBytes));
          return chunk.subarray(0, maxBytes);
        },
      },
      new NewkeysGate(),
      {
        prepared,
        atNewkeys: () => {
          events.push('newkeys');
          return pushed;
        },
        ready: () => events.push('ready'),
      },
    );
    const drain = (maxBytes: number): Uint8Array => {
      const parts: Uint8Array[] = [];
      for (;;) {
        const bytes = source.pull(maxBytes);
        if (bytes === undefined) return concat(...parts);
        expect(bytes.length).toBeGreaterThan(0);
        expect(bytes.length).toBeLessThanOrEqual(maxBytes);
        parts.push(bytes.slice());
      }
    };
    return { source, drain, events, resolvePush, resolvePrepared };
  }

  it('hands on every byte in order, with a stop after NEWKEYS', async () => {
    await fc.assert(
      fc.asyncProperty(
        sshStream,
        cuts,
        fc.integer({ min: 1, max: 5000 }),
        async ({ plain, whole }, sizes, maxBytes) => {
          const { drain, events, resolvePush, resolvePrepared } = fixture(inChunks(whole, sizes));
          expect(drain(maxBytes)).toHaveLength(0);
          resolvePrepared();
          await Promise.resolve();
          const before = drain(maxBytes);
          expect(Buffer.compare(before, plain)).toBe(0);
          expect(events).toEqual(['ready', 'newkeys']);
          resolvePush();
          await Promise.resolve();
          await Promise.resolve();
          expect(events).toEqual(['ready', 'newkeys', 'ready']);
          const after = drain(maxBytes);
          expect(Buffer.compare(concat(before, after), whole)).toBe(0);
        },
      ),
      { numRuns: 60 },
    );
  });
});
