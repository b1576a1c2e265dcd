import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { SmuxReader } from '../../src/protocol/smux-frame.ts';
import {
  CONNECT_TO_PORT_ERROR,
  MuxSession,
  defaultMuxLimits,
  type MuxLimits,
  type MuxOutput,
} from '../../src/protocol/smux.ts';
import { FIN, NOP, PSH, SYN, frame, parseFrames, summarise } from './smux-oracle.ts';

const vectors = JSON.parse(
  readFileSync(new URL('../vectors/smux.json', import.meta.url), 'utf8'),
  // The file is ours and its shape is fixed.
) as {
  frames: Record<string, string>;
  clientPayloadsBase64: string[];
  agentPayloadsBase64: string[];
};

function mux(limits: Partial<MuxLimits> = {}): MuxSession {
  return new MuxSession({ ...defaultMuxLimits, ...limits }, 0);
}

function pullAll(session: MuxSession, maxBytes = 16_384, now = 0): Buffer {
  const payloads: Buffer[] = [];
  for (;;) {
    const { payload } = session.pull(maxBytes, now);
    if (payload === undefined) return Buffer.concat(payloads);
    expect(payload.length).toBeGreaterThan(0);
    expect(payload.length).toBeLessThanOrEqual(maxBytes);
    payloads.push(Buffer.from(payload));
  }
}

function open(session: MuxSession): number {
  const streamId = session.openStream();
  if (streamId === undefined) throw new Error('no stream');
  return streamId;
}

/** Received bytes per stream, and the other outputs in order. */
function collect(outputs: readonly MuxOutput[]): {
  data: Map<number, Buffer>;
  others: MuxOutput[];
} {
  const data = new Map<number, Buffer>();
  const others: MuxOutput[] = [];
  for (const output of outputs) {
    if (output.kind !== 'data') others.push(output);
    else {
      const before = data.get(output.streamId) ?? Buffer.alloc(0);
      data.set(output.streamId, Buffer.concat([before, output.bytes]));
    }
  }
  return { data, others };
}

describe('the captured session', () => {
  const agentBytes = Buffer.concat(
    vectors.agentPayloadsBase64.map((text) => Buffer.from(text, 'base64')),
  );
  const clientBytes = Buffer.concat(
    vectors.clientPayloadsBase64.map((text) => Buffer.from(text, 'base64')),
  );

  it('delivers the greeting and the answer of the destination', () => {
    const session = mux();
    expect(open(session)).toBe(3);
    const outputs = session.receive(agentBytes, 0);
    const body = Buffer.from(Array.from({ length: 3000 }, (_, i) => i & 255));
    const received = collect(outputs).data.get(3) ?? Buffer.alloc(0);
    expect(received.subarray(0, 4).toString()).toBe('SSH-');
    expect(received.subarray(-3009).equals(Buffer.concat([Buffer.from('got 3004\n'), body]))).toBe(
      true,
    );
  });

  it('sends byte for byte what the official client sent', () => {
    const session = mux();
    const streamId = open(session);
    const sent = Buffer.concat(
      parseFrames(clientBytes)
        .frames.filter((each) => each.command === PSH)
        .map((each) => each.data),
    );
    const parts = [pullAll(session)];
    session.write(streamId, sent);
    parts.push(pullAll(session));
    session.abandonStream(streamId);
    parts.push(pullAll(session));
    expect(Buffer.concat(parts).toString('hex')).toBe(clientBytes.toString('hex'));
  });

  it('writes the frames of the vectors', () => {
    const session = mux({ keepAliveMs: 10 });
    const streamId = open(session);
    expect(pullAll(session).toString('hex')).toBe(vectors.frames['syn3']);
    session.write(streamId, Buffer.from('hello\n'));
    expect(pullAll(session).toString('hex')).toBe(vectors.frames['psh3hello']);
    session.abandonStream(streamId);
    expect(pullAll(session).toString('hex')).toBe(vectors.frames['fin3']);
    session.wake(10);
    expect(pullAll(session).toString('hex')).toBe(vectors.frames['nop']);
  });
});

describe('opening', () => {
  it('numbers streams 3, 5, 7 and never again', () => {
    const session = mux();
    expect([open(session), open(session)]).toEqual([3, 5]);
    session.abandonStream(3);
    pullAll(session);
    expect(open(session)).toBe(7);
  });

  it('announces a stream before it has data', () => {
    const session = mux();
    open(session);
    expect(pullAll(session)).toEqual(frame(SYN, 3));
  });

  it('refuses one stream more than allowed, until one has gone', () => {
    const session = mux({ maxStreams: 2 });
    open(session);
    open(session);
    pullAll(session);
    expect(session.openStream()).toBeUndefined();
    session.abandonStream(3);
    pullAll(session);
    expect(session.openStream()).toBe(7);
  });

  it('stops when the ids are used up', () => {
    const session = mux({ maxStreamId: 5 });
    expect([session.openStream(), session.openStream(), session.openStream()]).toEqual([
      3,
      5,
      undefined,
    ]);
  });

  it('sends nothing for a stream given up before it was announced', () => {
    const session = mux();
    open(session);
    session.write(3, Buffer.from('x'));
    session.abandonStream(3);
    expect(pullAll(session)).toHaveLength(0);
    expect(session.streamCount).toBe(0);
  });
});

describe('closing', () => {
  it('answers the FIN of the agent with one FIN and drops what waited', () => {
    const session = mux();
    open(session);
    pullAll(session);
    session.write(3, Buffer.from('late'));
    const outputs = session.receive(frame(FIN, 3), 0);
    expect(outputs).toEqual([{ kind: 'finished', streamId: 3, refused: false }]);
    expect(pullAll(session)).toEqual(frame(FIN, 3));
    expect(session.receive(frame(FIN, 3), 0)).toEqual([]);
    expect(pullAll(session)).toHaveLength(0);
    expect(session.streamCount).toBe(0);
  });

  it('holds back FIN after a local half-close while the agent still answers', () => {
    const session = mux({ halfCloseGraceMs: 100 });
    open(session);
    session.write(3, Buffer.from('request'));
    session.endStream(3, 0);
    expect(summarise(parseFrames(pullAll(session, 16_384, 50)).frames).get(3)?.shape).toBe('SD');
    expect(session.nextWakeAt()).toBe(150);
    expect(collect(session.receive(frame(PSH, 3, Buffer.from('answer')), 140)).data.get(3)).toEqual(
      Buffer.from('answer'),
    );
    expect(session.wake(200)).toEqual([]);
    expect(session.nextWakeAt()).toBe(240);
    expect(session.wake(240)).toEqual([{ kind: 'expired', streamId: 3 }]);
    expect(pullAll(session)).toEqual(frame(FIN, 3));
    expect(session.nextWakeAt()).toBeUndefined();
  });

  it('starts the grace time only when the last byte has gone', () => {
    const session = mux({ halfCloseGraceMs: 100 });
    open(session);
    session.write(3, Buffer.alloc(1000));
    session.endStream(3, 0);
    expect(session.nextWakeAt()).toBeUndefined();
    pullAll(session, 100, 777);
    expect(session.nextWakeAt()).toBe(877);
  });

  it('discards data that arrives after its own FIN', () => {
    const session = mux();
    open(session);
    pullAll(session);
    session.abandonStream(3);
    expect(session.receive(frame(PSH, 3, Buffer.from('x')), 0)).toEqual([]);
    pullAll(session);
    expect(session.receive(frame(PSH, 3, Buffer.from('x')), 0)).toEqual([]);
    expect(session.wantsReceivingPaused).toBe(false);
  });

  it('names a refused destination by the FIN after the flag', () => {
    const session = mux();
    open(session);
    open(session);
    pullAll(session);
    session.receive(frame(PSH, 5, Buffer.from('x')), 0);
    session.receiveFlag(CONNECT_TO_PORT_ERROR);
    const outputs = session.receive(Buffer.concat([frame(FIN, 5), frame(FIN, 3)]), 0);
    expect(outputs).toEqual([
      { kind: 'finished', streamId: 5, refused: false },
      { kind: 'finished', streamId: 3, refused: true },
    ]);
  });

  it('does not blame a later stream for an earlier flag', () => {
    const session = mux();
    open(session);
    pullAll(session);
    session.receiveFlag(CONNECT_TO_PORT_ERROR);
    session.receive(frame(FIN, 3), 0);
    open(session);
    pullAll(session);
    expect(session.receive(frame(FIN, 5), 0)).toEqual([
      { kind: 'finished', streamId: 5, refused: false },
    ]);
  });
});

describe('a stream that is gone', () => {
  it('takes no more, whatever it is told', () => {
    const session = mux();
    open(session);
    pullAll(session);
    session.abandonStream(3);
    pullAll(session);
    expect(session.write(3, Buffer.from('x'))).toBe(true);
    session.endStream(3, 0);
    session.abandonStream(3);
    session.consumed(3, 1);
    expect(pullAll(session)).toHaveLength(0);
    expect(session.nextWakeAt()).toBeUndefined();
  });

  it('sends one FIN when it is given up twice before that', () => {
    const session = mux();
    open(session);
    pullAll(session);
    session.abandonStream(3);
    session.abandonStream(3);
    expect(pullAll(session)).toEqual(frame(FIN, 3));
  });

  it('is closed by the agent although it was half-closed already', () => {
    const session = mux();
    open(session);
    pullAll(session);
    session.endStream(3, 0);
    session.endStream(3, 5);
    expect(session.receive(frame(FIN, 3), 10)).toMatchObject([{ kind: 'finished' }]);
    expect(session.nextWakeAt()).toBeUndefined();
  });
});

describe('fairness', () => {
  it('lets a keystroke overtake every bulk stream but the payload under way', () => {
    const session = mux();
    for (let i = 0; i < 3; i += 1) session.write(open(session), Buffer.alloc(200_000));
    const interactive = open(session);
    for (let i = 0; i < 4; i += 1) session.pull(16_384, 0);
    session.write(interactive, Buffer.from('k'));
    const next = Buffer.from(session.pull(16_384, 0).payload ?? []);
    expect(parseFrames(next).frames.map((each) => each.streamId)).toContain(interactive);
  });

  it('gives streams with a backlog equal shares', () => {
    const session = mux();
    const sent = new Map<number, number>();
    for (let i = 0; i < 5; i += 1) session.write(open(session), Buffer.alloc(100_000));
    for (let i = 0; i < 10; i += 1) {
      const payload = Buffer.from(session.pull(16_384, 0).payload ?? []);
      for (const { streamId, data } of parseFrames(payload).frames) {
        sent.set(streamId, (sent.get(streamId) ?? 0) + data.length);
      }
    }
    const counts = [...sent.values()];
    expect(counts).toHaveLength(5);
    expect(Math.max(...counts) - Math.min(...counts)).toBeLessThanOrEqual(2 * 16_384);
  });

  it('does not let a chatty stream starve a bulk stream', () => {
    const session = mux();
    const bulk = open(session);
    session.write(bulk, Buffer.alloc(100_000));
    const chatty = open(session);
    let bulkBytes = 0;
    for (let i = 0; i < 10; i += 1) {
      session.write(chatty, Buffer.alloc(4096));
      const payload = Buffer.from(session.pull(1024, 0).payload ?? []);
      for (const { streamId, data } of parseFrames(payload).frames) {
        if (streamId === bulk) bulkBytes += data.length;
      }
    }
    expect(bulkBytes).toBeGreaterThan(3000);
  });

  it('fills a payload with one frame when one stream sends', () => {
    const session = mux();
    session.write(open(session), Buffer.alloc(100_000));
    const first = Buffer.from(session.pull(16_384, 0).payload ?? []);
    expect(first).toHaveLength(16_384);
    expect(parseFrames(first).frames).toHaveLength(2);
  });
});

describe('limits', () => {
  it('asks a writer to wait and tells it when there is room', () => {
    const session = mux({ maxQueuedBytes: 1000, minQueuedBytes: 10 });
    open(session);
    expect(session.write(3, Buffer.alloc(999))).toBe(true);
    expect(session.write(3, Buffer.alloc(1))).toBe(false);
    expect(() => session.write(3, Buffer.alloc(1))).toThrow(/before it was writable/);
    const outputs: MuxOutput[] = [];
    for (;;) {
      const pulled = session.pull(400, 0);
      if (pulled.payload === undefined) break;
      outputs.push(...pulled.outputs);
    }
    expect(outputs).toEqual([{ kind: 'writable', streamId: 3 }]);
    expect(session.write(3, Buffer.alloc(1))).toBe(true);
  });

  it('counts the pieces of a queue as well as its bytes', () => {
    const session = mux({ maxQueuedChunks: 4 });
    open(session);
    const answers = [1, 2, 3, 4].map(() => session.write(3, Buffer.alloc(1)));
    expect(answers).toEqual([true, true, true, false]);
  });

  it('shares the total out among the streams, down to the least', () => {
    const session = mux({ maxTotalQueuedBytes: 100, minQueuedBytes: 10, maxQueuedBytes: 1000 });
    for (let i = 0; i < 20; i += 1) open(session);
    expect(session.write(3, Buffer.alloc(9))).toBe(true);
    expect(session.write(3, Buffer.alloc(1))).toBe(false);
  });

  it('pauses receiving while one reader is behind', () => {
    const session = mux({ maxStreamUnreadBytes: 100 });
    open(session);
    session.receive(frame(PSH, 3, Buffer.alloc(99)), 0);
    expect(session.wantsReceivingPaused).toBe(false);
    session.receive(frame(PSH, 3, Buffer.alloc(1)), 0);
    expect(session.wantsReceivingPaused).toBe(true);
    session.consumed(3, 1);
    expect(session.wantsReceivingPaused).toBe(false);
  });

  it('pauses receiving while all readers together are behind', () => {
    const session = mux({ maxTotalUnreadBytes: 100 });
    open(session);
    open(session);
    session.receive(frame(PSH, 3, Buffer.alloc(50)), 0);
    session.receive(frame(PSH, 5, Buffer.alloc(50)), 0);
    expect(session.wantsReceivingPaused).toBe(true);
    session.abandonStream(3);
    expect(session.wantsReceivingPaused).toBe(false);
  });

  it('still counts unread bytes after the stream has finished', () => {
    const session = mux({ maxStreamUnreadBytes: 10 });
    open(session);
    session.receive(Buffer.concat([frame(PSH, 3, Buffer.alloc(10)), frame(FIN, 3)]), 0);
    pullAll(session);
    expect(session.wantsReceivingPaused).toBe(true);
    session.consumed(3, 10);
    expect(session.wantsReceivingPaused).toBe(false);
  });

  it.each([
    ['an unknown command', Buffer.from('0104000003000000', 'hex')],
    ['another version', Buffer.from('0200000003000000', 'hex')],
    ['a SYN with a length', Buffer.from('0100010003000000', 'hex')],
    ['a FIN with a length', Buffer.from('0101010003000000', 'hex')],
  ])('fails on %s and ignores the rest', (_, bytes) => {
    const session = mux();
    open(session);
    const outputs = session.receive(Buffer.concat([bytes, frame(FIN, 3)]), 0);
    expect(outputs).toMatchObject([{ kind: 'failed', error: { code: 'protocol.malformed' } }]);
    expect(session.receive(frame(FIN, 3), 0)).toEqual([]);
    expect(session.openStream()).toBeUndefined();
    expect(session.pull(100, 0).payload).toBeUndefined();
    expect(session.nextWakeAt()).toBeUndefined();
  });

  it('ignores frames for streams it never opened', () => {
    const session = mux();
    const bytes = Buffer.concat([frame(SYN, 8), frame(PSH, 8, Buffer.alloc(9)), frame(FIN, 8)]);
    expect(session.receive(bytes, 0)).toEqual([]);
    expect(pullAll(session)).toHaveLength(0);
  });

  it('ignores a PSH frame without data', () => {
    const session = mux();
    open(session);
    expect(session.receive(frame(PSH, 3), 0)).toEqual([]);
    expect(session.receive(frame(FIN, 3), 0)).toHaveLength(1);
  });
});

describe('keep-alive', () => {
  it('is silent unless the agent needs it', () => {
    expect(mux().nextWakeAt()).toBeUndefined();
  });

  it('sends one NOP per interval', () => {
    const session = mux({ keepAliveMs: 10 });
    session.wake(9);
    expect(pullAll(session)).toHaveLength(0);
    session.wake(10);
    session.wake(11);
    expect(session.pull(0, 11).payload).toBeUndefined();
    expect(pullAll(session)).toEqual(frame(NOP, 0));
    expect(session.nextWakeAt()).toBe(20);
  });
});

describe('odd input', () => {
  it('gives keep-alive frames in the smallest payloads too, none of them torn by another', () => {
    const session = mux({ keepAliveMs: 10 });
    session.wake(10);
    const first = Buffer.from(session.pull(5, 10).payload ?? []);
    session.wake(20);
    const rest = pullAll(session, 3);
    expect(Buffer.concat([first, rest])).toEqual(Buffer.concat([frame(NOP, 0), frame(NOP, 0)]));
  });

  it('takes no other flag for a refused destination', () => {
    const session = mux();
    open(session);
    pullAll(session);
    session.receiveFlag(2);
    expect(session.receive(frame(FIN, 3), 0)).toMatchObject([{ refused: false }]);
  });

  it('sends nothing for a write of nothing', () => {
    const session = mux();
    open(session);
    pullAll(session);
    expect(session.write(3, Buffer.alloc(0))).toBe(true);
    expect(pullAll(session)).toHaveLength(0);
  });
});

describe('properties', () => {
  const anyFrames = fc.array(
    fc.oneof(
      fc.record({
        command: fc.constant(PSH),
        streamId: fc.constantFrom(3, 5, 7, 9),
        data: fc.uint8Array({ maxLength: 300 }),
      }),
      fc.record({
        command: fc.constantFrom(SYN, FIN, NOP),
        streamId: fc.constantFrom(3, 5, 7, 9),
        data: fc.constant(new Uint8Array(0)),
      }),
    ),
    { maxLength: 30 },
  );

  it('gives the same outputs however the input is cut', () => {
    fc.assert(
      fc.property(
        anyFrames,
        fc.array(fc.integer({ min: 1, max: 50 }), { minLength: 1 }),
        (frames, cuts) => {
          const bytes = Buffer.concat(frames.map((f) => frame(f.command, f.streamId, f.data)));
          const whole = mux();
          const cut = mux();
          for (let i = 0; i < 3; i += 1) {
            open(whole);
            open(cut);
          }
          const pieces: MuxOutput[] = [];
          for (let at = 0, turn = 0; at < bytes.length; turn += 1) {
            const size = cuts[turn % cuts.length] ?? 1;
            pieces.push(...cut.receive(bytes.subarray(at, at + size), 0));
            at += size;
          }
          expect(collect(pieces)).toEqual(collect(whole.receive(bytes, 0)));
        },
      ),
    );
  });

  it('answers any bytes with outputs or one failure', () => {
    fc.assert(
      fc.property(fc.array(fc.uint8Array({ maxLength: 64 })), (payloads) => {
        const session = mux();
        open(session);
        const failures = payloads
          .flatMap((payload) => session.receive(payload, 0))
          .filter((output) => output.kind === 'failed');
        expect(failures.length).toBeLessThanOrEqual(1);
      }),
    );
  });

  it('agrees with the naive reader on what streams carry', () => {
    fc.assert(
      fc.property(anyFrames, (frames) => {
        const bytes = Buffer.concat(frames.map((f) => frame(f.command, f.streamId, f.data)));
        const events = new SmuxReader().feed(bytes);
        const seen = events.map((event) =>
          event.kind === 'data' ? frame(PSH, event.streamId, event.bytes) : event.kind,
        );
        const expected = parseFrames(bytes)
          .frames.filter((each) => each.command !== PSH || each.data.length > 0)
          .map((each) =>
            each.command === PSH
              ? frame(PSH, each.streamId, each.data)
              : (['syn', 'fin', '', 'nop'][each.command] ?? ''),
          );
        expect(seen).toEqual(expected);
      }),
    );
  });

  it('carries every stream whole and in order through payloads of any size', () => {
    const step = fc.oneof(
      fc.record({ kind: fc.constant('open' as const) }),
      fc.record({
        kind: fc.constant('write' as const),
        pick: fc.nat(),
        bytes: fc.uint8Array({ minLength: 1, maxLength: 3000 }),
      }),
      fc.record({ kind: fc.constant('finish' as const), pick: fc.nat() }),
      fc.record({
        kind: fc.constant('pull' as const),
        maxBytes: fc.oneof(fc.integer({ min: 1, max: 60 }), fc.integer({ min: 1, max: 20_000 })),
      }),
    );
    fc.assert(
      fc.property(fc.array(step, { maxLength: 120 }), (steps) => {
        const session = mux({ halfCloseGraceMs: 0 });
        const written = new Map<number, Buffer[]>();
        const blocked = new Set<number>();
        const ended = new Set<number>();
        const wire: Buffer[] = [];
        const pull = (maxBytes: number): boolean => {
          const { payload, outputs } = session.pull(maxBytes, 0);
          for (const output of outputs) {
            if (output.kind === 'writable') blocked.delete(output.streamId);
          }
          if (payload === undefined) return false;
          expect(payload.length).toBeLessThanOrEqual(maxBytes);
          wire.push(Buffer.from(payload));
          return true;
        };
        for (const each of steps) {
          const ids = [...written.keys()].filter((id) => !ended.has(id) && !blocked.has(id));
          if (each.kind === 'open') written.set(open(session), []);
          else if (each.kind === 'pull') pull(each.maxBytes);
          else {
            const id = ids[each.pick % Math.max(1, ids.length)];
            if (id === undefined) continue;
            if (each.kind === 'finish') {
              session.endStream(id, 0);
              ended.add(id);
            } else {
              written.get(id)?.push(Buffer.from(each.bytes));
              if (!session.write(id, each.bytes)) blocked.add(id);
            }
          }
        }
        while (pull(1000));
        session.wake(0);
        while (pull(1000));
        const { frames, rest } = parseFrames(Buffer.concat(wire));
        expect(rest).toHaveLength(0);
        const streams = summarise(frames);
        expect([...streams.keys()].sort((a, b) => a - b)).toEqual([...written.keys()]);
        for (const [id, parts] of written) {
          const sent = Buffer.concat(parts);
          const shape = `S${sent.length > 0 ? 'D' : ''}${ended.has(id) ? 'F' : ''}`;
          expect(streams.get(id)).toEqual({ shape, data: sent });
        }
        expect(frames.every((each) => each.data.length <= 32_768)).toBe(true);
      }),
      { numRuns: 300 },
    );
  });
});
