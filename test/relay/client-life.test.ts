import { describe, expect, it } from 'vitest';
import { ClientLife, type Departure } from '../../src/relay/client-life.ts';
import type { Reader } from '../../src/relay/reader.ts';
import { ManualClock } from '../support/manual-clock.ts';

function make(options: { isTerminal?: boolean; parent?: number } = {}) {
  const clock = new ManualClock();
  const world = {
    clock,
    reader: 'present' as Reader,
    isHeldBack: false,
    isSending: false,
    parent: options.parent ?? 4321,
    looks: 0,
    departures: [] as Departure[],
  };
  const life = new ClientLife({
    clock,
    reader: () => {
      world.looks += 1;
      return world.reader;
    },
    isInputHeldBack: () => world.isHeldBack,
    isSending: () => world.isSending,
    parentPid: () => world.parent,
    isTerminal: options.isTerminal ?? false,
    onGone: (departure) => world.departures.push(departure),
  });
  return { life, world, clock };
}

const left: Departure = { kind: 'left' };
const hangup: Departure = { kind: 'signal', name: 'SIGHUP' };

describe('the end of input', () => {
  it('is the end when the reader is gone', () => {
    const { life, world } = make();
    world.reader = 'gone';
    life.inputEnded();
    expect(world.departures).toEqual([left]);
  });

  it('is the end as soon as the reader goes', () => {
    const { life, world, clock } = make();
    life.inputEnded();
    clock.advance(1000);
    world.reader = 'gone';
    clock.advance(100);
    expect(world.departures).toEqual([left]);
  });

  it('is the end half a second later when nobody knows about the reader', () => {
    const { life, world, clock } = make();
    world.reader = 'unknown';
    life.inputEnded();
    clock.advance(400);
    expect(world.departures).toEqual([]);
    clock.advance(100);
    expect(world.departures).toEqual([left]);
  });

  it('is put off by output when nobody knows about the reader', () => {
    const { life, world, clock } = make();
    world.reader = 'unknown';
    life.inputEnded();
    for (let count = 0; count < 20; count += 1) {
      clock.advance(400);
      life.heard();
    }
    expect(world.departures).toEqual([]);
    clock.advance(600);
    expect(world.departures).toEqual([left]);
  });

  it('leaves a present reader a minute of silence', () => {
    const { life, world, clock } = make();
    life.inputEnded();
    clock.advance(59_900);
    expect(world.departures).toEqual([]);
    clock.advance(100);
    expect(world.departures).toEqual([left]);
  });

  it('is put off while bytes are on their way, and a present reader has its minute then', () => {
    const { life, world, clock } = make();
    world.isSending = true;
    life.inputEnded();
    clock.advance(600_000);
    world.isSending = false;
    clock.advance(59_900);
    expect(world.departures).toEqual([]);
    clock.advance(100);
    expect(world.departures).toEqual([left]);
  });

  it('is not put off by what is sent after all input has arrived', () => {
    const { life, world, clock } = make();
    life.inputEnded();
    clock.advance(100);
    world.isSending = true;
    clock.advance(59_900);
    expect(world.departures).toEqual([left]);
  });

  it.each(['gone', 'unknown'] as const)(
    'is not put off by bytes on their way when the reader is %s',
    (reader) => {
      const { life, world, clock } = make();
      world.isSending = true;
      world.reader = reader;
      life.inputEnded();
      clock.advance(500);
      expect(world.departures).toEqual([left]);
    },
  );

  it('is told once', () => {
    const { life, world, clock } = make();
    world.reader = 'gone';
    life.inputEnded();
    life.inputEnded();
    life.outputBroken();
    life.signal('SIGTERM');
    clock.advance(100_000);
    expect([world.departures, clock.pendingTimers]).toEqual([[left], 0]);
  });
});

describe('input that is held back', () => {
  it('is no reason to leave while the parent lives, even if the reader is out of sight', () => {
    const { life, world, clock } = make();
    world.reader = 'gone';
    world.isHeldBack = true;
    life.inputArrived();
    clock.advance(60_000);
    expect(world.departures).toEqual([]);
  });

  it('is no reason to leave while the reader lives, even if the parent is another', () => {
    const { life, world, clock } = make();
    world.isHeldBack = true;
    life.inputArrived();
    world.parent = 1;
    clock.advance(60_000);
    expect(world.departures).toEqual([]);
  });

  it('does not hide that parent and reader are gone', () => {
    const { life, world, clock } = make();
    world.isHeldBack = true;
    life.inputArrived();
    clock.advance(5000);
    world.parent = 1;
    world.reader = 'gone';
    clock.advance(500);
    expect(world.departures).toEqual([left]);
  });

  it('is looked at twice a second, however often input arrives', () => {
    const { life, world, clock } = make();
    world.parent = 1;
    world.isHeldBack = true;
    for (let ms = 0; ms < 10_000; ms += 10) {
      life.inputArrived();
      clock.advance(10);
    }
    expect(world.looks).toBe(20);
  });

  it('is not looked at once it flows again', () => {
    const { life, clock } = make();
    life.inputArrived();
    clock.advance(500);
    expect(clock.pendingTimers).toBe(0);
  });
});

it('a broken output is the end', () => {
  const { life, world } = make();
  life.outputBroken();
  expect(world.departures).toEqual([left]);
});

describe('SIGTERM', () => {
  it('is the end at once', () => {
    const { life, world } = make();
    life.signal('SIGTERM');
    expect(world.departures).toEqual([{ kind: 'signal', name: 'SIGTERM' }]);
  });
});

describe('SIGINT', () => {
  it('is meant for ssh', () => {
    const { life, world, clock } = make();
    life.signal('SIGINT');
    clock.advance(60_000);
    expect(world.departures).toEqual([]);
  });

  it('is meant for us on a terminal of our own', () => {
    const { life, world } = make({ isTerminal: true });
    life.signal('SIGINT');
    expect(world.departures).toEqual([{ kind: 'signal', name: 'SIGINT' }]);
  });
});

describe('SIGHUP', () => {
  it('before the end of input is the end with it', () => {
    const { life, world, clock } = make();
    life.signal('SIGHUP');
    clock.advance(1);
    life.inputEnded();
    expect(world.departures).toEqual([hangup]);
  });

  it('after the end of input is the end at once', () => {
    const { life, world } = make();
    life.inputEnded();
    life.signal('SIGHUP');
    expect(world.departures).toEqual([hangup]);
  });

  it('is ignored while the parent lives and the input is open, as under nohup', () => {
    const { life, world, clock } = make();
    life.signal('SIGHUP');
    clock.advance(3_600_000);
    expect(world.departures).toEqual([]);
  });

  it('can be ignored again and again', () => {
    const { life, world, clock } = make();
    for (let count = 0; count < 5; count += 1) {
      life.signal('SIGHUP');
      life.signal('SIGHUP');
      clock.advance(2000);
    }
    expect([world.departures, clock.pendingTimers]).toEqual([[], 0]);
  });

  it('is the end a second later when the parent is gone, although something holds the input open', () => {
    const { life, world, clock } = make();
    life.signal('SIGHUP');
    world.parent = 1;
    clock.advance(999);
    expect(world.departures).toEqual([]);
    clock.advance(1);
    expect(world.departures).toEqual([hangup]);
  });

  it('is the end when the parent was init from the start', () => {
    const { life, world, clock } = make({ parent: 1 });
    life.signal('SIGHUP');
    clock.advance(1000);
    expect(world.departures).toEqual([hangup]);
  });

  it('on a terminal of our own is the end at once', () => {
    const { life, world } = make({ isTerminal: true });
    life.signal('SIGHUP');
    expect(world.departures).toEqual([hangup]);
  });
});

it('nothing is told after it was disposed of, and no timer is left', () => {
  const { life, world, clock } = make();
  life.inputArrived();
  life.signal('SIGHUP');
  life.dispose();
  expect(clock.pendingTimers).toBe(0);
  life.signal('SIGTERM');
  life.signal('SIGHUP');
  life.inputArrived();
  life.inputEnded();
  clock.advance(100_000);
  expect([world.departures, clock.pendingTimers]).toEqual([[], 0]);
});
