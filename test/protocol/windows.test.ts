import fc from 'fast-check';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { MessageList } from '../../src/protocol/message-list.ts';
import { ReceiveWindow } from '../../src/protocol/receive-window.ts';
import { SendWindow } from '../../src/protocol/send-window.ts';

const frameOf = (seq: number): Uint8Array => Uint8Array.of(seq >> 8, seq);
const seqOf = (frame: Uint8Array): number => ((frame[0] ?? 0) << 8) | (frame[1] ?? 0);

function drain(window: SendWindow, now: number): number[] {
  const sent: number[] = [];
  for (let frame = window.sendNext(now); frame !== undefined; frame = window.sendNext(now)) {
    sent.push(seqOf(frame));
  }
  return sent;
}

describe('SendWindow', () => {
  type Step =
    | { kind: 'send'; bytes: number }
    | { kind: 'acknowledge'; which: number }
    | { kind: 'wait'; ms: number }
    | { kind: 'expire' }
    | { kind: 'replace socket' }
    | { kind: 'drain' };

  const step: fc.Arbitrary<Step> = fc.oneof(
    {
      weight: 4,
      arbitrary: fc.record({ kind: fc.constant('send'), bytes: fc.integer({ min: 1, max: 3000 }) }),
    },
    { weight: 4, arbitrary: fc.record({ kind: fc.constant('acknowledge'), which: fc.nat() }) },
    { weight: 2, arbitrary: fc.record({ kind: fc.constant('wait'), ms: fc.nat({ max: 400 }) }) },
    { weight: 1, arbitrary: fc.constantFrom<Step>({ kind: 'expire' }, { kind: 'replace socket' }) },
    { weight: 2, arbitrary: fc.constant<Step>({ kind: 'drain' }) },
  );

  it('keeps exactly what is unacknowledged, and can always send all of it again in order', () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 120 }), (steps) => {
        const window = new SendWindow();
        const unacked = new Map<number, number>();
        let nextSeq = 0;
        let now = 0;
        for (const action of steps) {
          switch (action.kind) {
            case 'send':
              window.markSent(window.add(nextSeq, frameOf(nextSeq), action.bytes), now);
              unacked.set(nextSeq, action.bytes);
              nextSeq += 1;
              break;
            case 'acknowledge': {
              const seq = action.which % (nextSeq + 2);
              expect(window.acknowledge(seq, now)).toBe(unacked.delete(seq));
              break;
            }
            case 'wait':
              now += action.ms;
              break;
            case 'expire': {
              const resendAt = window.resendAt();
              if (resendAt === undefined) break;
              now = Math.max(now, resendAt);
              window.expire(now);
              expect(window.hasQueued).toBe(true);
              expect(window.resendAt() ?? Number.POSITIVE_INFINITY).toBeGreaterThan(now);
              break;
            }
            case 'replace socket':
              window.requeueAll();
              expect(window.resendAt()).toBeUndefined();
              expect(window.hasQueued).toBe(unacked.size > 0);
              break;
            case 'drain':
              for (const seq of drain(window, now)) expect(unacked.has(seq)).toBe(true);
              expect(window.hasQueued).toBe(false);
          }
          expect(window.messages).toBe(unacked.size);
          expect(window.bytes).toBe([...unacked.values()].reduce((sum, bytes) => sum + bytes, 0));
          expect(window.hasLarge).toBe([...unacked.values()].some((bytes) => bytes > 1024));
          // Whatever is unacknowledged is either about to be sent or has a deadline.
          expect(window.hasQueued || window.resendAt() !== undefined).toBe(unacked.size > 0);
        }
        window.requeueAll();
        expect(drain(window, now)).toEqual([...unacked.keys()].sort((a, b) => a - b));
      }),
    );
  });

  it('resends a lost message as soon as the next one is acknowledged, and only that', () => {
    fc.assert(
      fc.property(fc.array(fc.boolean(), { minLength: 5, maxLength: 100 }), (losses) => {
        const window = new SendWindow();
        const resent: number[] = [];
        for (const [seq, isLost] of losses.entries()) {
          const now = seq * 100;
          window.markSent(window.add(seq, frameOf(seq), 1), now);
          if (isLost) continue;
          window.acknowledge(seq, now + 40);
          const overtaken = drain(window, now + 40);
          resent.push(...overtaken);
          for (const again of overtaken) window.acknowledge(again, now + 80);
        }
        const lastArrived = losses.lastIndexOf(false);
        const lost = [...losses.keys()].filter((seq) => losses[seq] && seq < lastArrived);
        expect(resent).toEqual(lost);
      }),
    );
  });

  /** `count` messages, so many ms apart from time 0 on. */
  function filled(count: number, spacingMs: number): SendWindow {
    const window = new SendWindow();
    for (let seq = 0; seq < count; seq += 1) {
      window.markSent(window.add(seq, frameOf(seq), 1), seq * spacingMs);
    }
    return window;
  }

  /** Lets the resend timer expire; what was resent. */
  function silence(window: SendWindow): { at: number; sent: number[] } {
    const at = window.resendAt() ?? Number.NaN;
    window.expire(at);
    return { at, sent: drain(window, at) };
  }

  it('starts the resend timer anew with every acknowledgement', () => {
    const window = filled(3, 0);
    window.acknowledge(0, 290);
    expect(window.resendAt()).toBe(290 + window.resendAfterMs);
    expect(window.acknowledge(0, 400)).toBe(false);
    expect(window.resendAt()).toBe(290 + window.resendAfterMs);
  });

  it('forgets the doubled delays of a silence when it ends', () => {
    const window = filled(20, 0);
    for (let round = 0; round < 4; round += 1) silence(window);
    window.markSent(window.add(20, frameOf(20), 1), 10_000);
    window.acknowledge(20, 10_020);
    drain(window, 10_020);
    expect(window.resendAfterMs).toBe(250);
    expect(window.resendAt()).toBe(10_020 + 250);
  });

  it('resends in a silence the oldest each time, and one of the others in turn', () => {
    const window = filled(5, 0);
    const rounds = [1, 2, 3, 4].map(() => silence(window).sent);
    expect(rounds).toEqual([
      [0, 1],
      [0, 2],
      [0, 3],
      [0, 4],
    ]);
  });

  it('does not take a late acknowledgement for one of the resend, and the rest for lost', () => {
    const window = filled(10, 30);
    const { at, sent } = silence(window);
    expect(sent).toContain(0);
    window.acknowledge(0, at + 1);
    expect(drain(window, at + 1)).toEqual([]);
  });

  it('allows for some reordering before it takes a message for lost', () => {
    const close = filled(2, 9);
    close.acknowledge(1, 20);
    expect(drain(close, 20)).toEqual([]);
    const apart = filled(2, 11);
    apart.acknowledge(1, 22);
    expect(drain(apart, 22)).toEqual([0]);
    const slow = filled(2, 90);
    slow.acknowledge(1, 490);
    expect(drain(slow, 490)).toEqual([]);
  });

  it('takes no round-trip sample over two sockets', () => {
    const window = filled(1, 0);
    window.requeueAll();
    window.acknowledge(0, 100_000);
    expect(window.resendAfterMs).toBe(300);
  });

  it('presumes nothing from what was sent before the agent was ready', () => {
    const window = filled(2, 0);
    let now = 0;
    /** A message that is acknowledged at once, long after the last. */
    const overtake = (seq: number): number[] => {
      now += 6000;
      window.markSent(window.add(seq, frameOf(seq), 1), now);
      window.acknowledge(seq, now + 20);
      return drain(window, now + 20);
    };
    for (let seq = 2; seq < 10; seq += 1) expect(overtake(seq)).toEqual([0, 1]);
    window.presumeSilentArrival();
    for (let seq = 10; seq < 14; seq += 1) expect(overtake(seq)).toEqual([0, 1]);
    expect(overtake(14)).toEqual([0]);
    expect(window.messages).toBe(1);
  });

  it('tolerates a clock that stands still or steps back', () => {
    const window = new SendWindow();
    for (let seq = 0; seq < 10; seq += 1) {
      window.markSent(window.add(seq, frameOf(seq), 1), 1000 - seq * 100);
    }
    for (const seq of [9, 0, 5]) window.acknowledge(seq, 0);
    window.expire(-5);
    expect(window.messages).toBe(7);
  });

  it('has nothing to send when empty', () => {
    const window = new SendWindow();
    expect(window.sendNext(0)).toBeUndefined();
    window.expire(1e9);
    expect(window.hasQueued).toBe(false);
  });
});

describe('the cost of windows', () => {
  afterEach(() => {
    vi.restoreAllMocks();
  });

  /** Operations on the structures inside, per message. */
  function operationsPerMessage(count: number, run: (count: number) => void): number {
    const spies = [
      vi.spyOn(MessageList.prototype, 'append'),
      vi.spyOn(MessageList.prototype, 'remove'),
      vi.spyOn(Map.prototype, 'get'),
      vi.spyOn(Map.prototype, 'has'),
      vi.spyOn(Map.prototype, 'set'),
      vi.spyOn(Map.prototype, 'delete'),
      vi.spyOn(Map.prototype, 'keys'),
      vi.spyOn(Map.prototype, 'values'),
    ];
    run(count);
    const operations = spies.reduce((sum, spy) => sum + spy.mock.calls.length, 0);
    vi.restoreAllMocks();
    return operations / count;
  }

  function fill(count: number, spacingMs: number): SendWindow {
    const window = new SendWindow();
    for (let seq = 0; seq < count; seq += 1) {
      window.markSent(window.add(seq, frameOf(seq), 1), seq * spacingMs);
    }
    return window;
  }

  const sending: Record<string, (count: number) => void> = {
    'acknowledgements in order': (count) => {
      const window = fill(count, 1);
      for (let seq = 0; seq < count; seq += 1) window.acknowledge(seq, count + seq);
    },
    'acknowledgements in reverse': (count) => {
      const window = fill(count, 1);
      for (let seq = count - 1; seq >= 0; seq -= 1) {
        window.acknowledge(seq, 2 * count - seq);
        drain(window, 2 * count - seq);
      }
    },
    'acknowledgements of every other message, which shows the rest as lost': (count) => {
      const window = fill(count, 1);
      for (let seq = 1; seq < count; seq += 2) {
        window.acknowledge(seq, count + seq);
        drain(window, count + seq);
      }
    },
    'one message that is never acknowledged': (count) => {
      const window = new SendWindow();
      for (let seq = 0; seq < count; seq += 1) {
        window.markSent(window.add(seq, frameOf(seq), 1), seq * 5);
        if (seq > 10) window.acknowledge(seq - 10, seq * 5);
        drain(window, seq * 5);
      }
    },
    'silence, then a new socket': (count) => {
      const window = fill(count, 0);
      for (let round = 0; round < 20; round += 1) {
        window.expire(window.resendAt() ?? 0);
        drain(window, round * 5000);
      }
      window.requeueAll();
      drain(window, 1e6);
    },
  };

  const receiving: Record<string, (count: number) => void> = {
    'early messages in reverse': (count) => {
      const window = new ReceiveWindow();
      for (let seq = count - 1; seq >= 0; seq -= 1) place(window, seq);
      while (window.takeNext() !== undefined);
      expect(window.expectedSeq).toBe(count);
    },
    'a gap that stays': (count) => {
      const window = new ReceiveWindow();
      for (let seq = 1; seq < count; seq += 1) {
        place(window, seq);
        place(window, seq);
      }
    },
  };

  for (const [what, run] of Object.entries({ ...sending, ...receiving })) {
    it(`per message does not depend on how many there are: ${what}`, () => {
      const few = operationsPerMessage(200, run);
      const many = operationsPerMessage(8000, run);
      expect(few).toBeGreaterThan(0);
      expect(many).toBeLessThan(Math.max(12, few * 1.2));
    });
  }
});

function place(window: ReceiveWindow, seq: number, bytes = 1) {
  return window.place({ seq, payloadType: 1, payload: new Uint8Array(bytes).fill(seq) });
}

describe('ReceiveWindow', () => {
  it('yields every message once and in order, whatever the order of arrival', () => {
    const arrivals = fc
      .nat({ max: 60 })
      .chain((count) =>
        fc.tuple(
          fc.shuffledSubarray([...Array(count).keys()], { minLength: count }),
          fc.array(fc.nat({ max: Math.max(0, count - 1) }), { maxLength: 60 }),
        ),
      );
    fc.assert(
      fc.property(arrivals, ([order, repeats]) => {
        const window = new ReceiveWindow();
        const yielded: number[] = [];
        const seen = new Set<number>();
        const arrive = (seq: number): void => {
          const isNew = !seen.has(seq);
          seen.add(seq);
          const isNext = seq === yielded.length;
          const placement = place(window, seq);
          expect(placement).toBe(isNew ? (isNext ? 'next' : 'early') : 'duplicate');
          if (placement !== 'next') return;
          yielded.push(seq);
          for (let m = window.takeNext(); m !== undefined; m = window.takeNext()) {
            yielded.push(m.seq);
          }
          expect(window.hasGap).toBe(window.earlyMessages > 0);
        };
        for (const [index, seq] of order.entries()) {
          arrive(seq);
          const repeat = repeats[index];
          if (repeat !== undefined && seen.has(repeat)) arrive(repeat);
        }
        expect(yielded).toEqual([...order.keys()]);
        expect(window).toMatchObject({ earlyMessages: 0, earlyBytes: 0, hasGap: false });
      }),
    );
  });

  it('stays within its bounds and always accepts the expected message', () => {
    const limits = { maxEarlyMessages: 4, maxEarlyBytes: 20 };
    const arrivals = fc.array(fc.tuple(fc.nat({ max: 30 }), fc.nat({ max: 12 })), {
      maxLength: 200,
    });
    fc.assert(
      fc.property(arrivals, (messages) => {
        const window = new ReceiveWindow(limits);
        for (const [seq, bytes] of messages) {
          const expected = window.expectedSeq;
          const placement = place(window, seq, bytes);
          if (seq === expected) expect(placement).toBe('next');
          expect(window.earlyMessages).toBeLessThanOrEqual(4);
          expect(window.earlyBytes).toBeLessThanOrEqual(20);
          if (placement === 'next') while (window.takeNext() !== undefined);
        }
      }),
    );
  });

  it('refuses beyond the count and beyond the bytes', () => {
    const window = new ReceiveWindow({ maxEarlyMessages: 2, maxEarlyBytes: 10 });
    expect(place(window, 5, 8)).toBe('early');
    expect(place(window, 6, 3)).toBe('refused');
    expect(place(window, 6, 2)).toBe('early');
    expect(place(window, 7, 0)).toBe('refused');
    expect(place(window, 6, 99)).toBe('duplicate');
  });

  it('copies early payloads, also out of a Buffer', () => {
    const window = new ReceiveWindow();
    const bytes = Buffer.from('early');
    window.place({ seq: 1, payloadType: 1, payload: bytes });
    bytes.fill(0);
    place(window, 0);
    expect(new TextDecoder().decode(window.takeNext()?.payload)).toBe('early');
  });
});
