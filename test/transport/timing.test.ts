import { describe, expect, it } from 'vitest';
import { deadline, untilAborted, within } from '../../src/transport/deadline.ts';
import { systemClock } from '../../src/transport/clock.ts';
import { WakeTimer } from '../../src/transport/wake-timer.ts';
import { ManualClock, settled } from '../support/manual-clock.ts';

const never = new AbortController().signal;
const late = (): Error => new Error('too late');

describe('WakeTimer', () => {
  it('wakes when it is due', () => {
    const clock = new ManualClock();
    let wakes = 0;
    const timer = new WakeTimer(clock, () => (wakes += 1));
    timer.armFor(clock.now() + 100);
    clock.advance(99);
    expect(wakes).toBe(0);
    clock.advance(1);
    expect(wakes).toBe(1);
  });

  it('keeps an earlier wake when a later one is asked for', () => {
    const clock = new ManualClock();
    const wakes: number[] = [];
    const timer = new WakeTimer(clock, () => wakes.push(clock.now()));
    timer.armFor(1100);
    timer.armFor(1500);
    clock.advance(1000);
    expect(wakes).toEqual([1100]);
  });

  it('moves forward when an earlier wake is asked for, with one timer', () => {
    const clock = new ManualClock();
    const wakes: number[] = [];
    const timer = new WakeTimer(clock, () => wakes.push(clock.now()));
    timer.armFor(1500);
    timer.armFor(1100);
    expect(clock.pendingTimers).toBe(1);
    clock.advance(1000);
    expect(wakes).toEqual([1100]);
  });

  it('can be armed from within its wake', () => {
    const clock = new ManualClock();
    const wakes: number[] = [];
    const timer: WakeTimer = new WakeTimer(clock, () => {
      wakes.push(clock.now());
      if (wakes.length < 3) timer.armFor(clock.now() + 10);
    });
    timer.armFor(1010);
    clock.advance(1000);
    expect(wakes).toEqual([1010, 1020, 1030]);
  });

  it('does not wait for what is past', () => {
    const clock = new ManualClock();
    let wakes = 0;
    new WakeTimer(clock, () => (wakes += 1)).armFor(0);
    clock.advance(0);
    expect(wakes).toBe(1);
  });

  it('asked for nothing does nothing', () => {
    const clock = new ManualClock();
    new WakeTimer(clock, () => undefined).armFor(undefined);
    expect(clock.pendingTimers).toBe(0);
  });

  it('leaves no timer once it is cancelled', () => {
    const clock = new ManualClock();
    const timer = new WakeTimer(clock, () => undefined);
    timer.armFor(5000);
    timer.cancel();
    expect(clock.pendingTimers).toBe(0);
  });
});

describe('deadline', () => {
  it('aborts with its reason when the time is up', () => {
    const clock = new ManualClock();
    const limit = deadline(never, 50, clock, late);
    clock.advance(50);
    expect(limit.signal.reason).toEqual(new Error('too late'));
  });

  it('aborts with the reason of its parent', () => {
    const parent = new AbortController();
    const limit = deadline(parent.signal, 50, new ManualClock(), late);
    parent.abort(new Error('over'));
    expect(limit.signal.reason).toEqual(new Error('over'));
  });

  it('is aborted from the start when its parent is', () => {
    const parent = AbortSignal.abort(new Error('over'));
    expect(deadline(parent, 50, new ManualClock(), late).signal.reason).toEqual(new Error('over'));
  });

  it('disposed of leaves no timer and no listener', () => {
    const clock = new ManualClock();
    const parent = new AbortController();
    const limit = deadline(parent.signal, 50, clock, late);
    limit.dispose();
    parent.abort();
    expect([clock.pendingTimers, limit.signal.aborted]).toEqual([0, false]);
  });
});

describe('untilAborted', () => {
  it('gives what the work gives', async () => {
    await expect(untilAborted(Promise.resolve(7), never)).resolves.toBe(7);
    await expect(untilAborted(Promise.reject(new Error('no')), never)).rejects.toThrow('no');
  });

  it('makes an error of whatever the work rejects with', async () => {
    // A dependency may do this; the point is what becomes of it.
    // eslint-disable-next-line @typescript-eslint/prefer-promise-reject-errors
    await expect(untilAborted(Promise.reject('text'), never)).rejects.toEqual(new Error('text'));
  });

  it('rejects at once when the signal aborts, even if the work never ends', async () => {
    const controller = new AbortController();
    const waiting = untilAborted(new Promise(() => undefined), controller.signal);
    controller.abort(new Error('enough'));
    await expect(waiting).rejects.toThrow('enough');
  });

  it('rejects with an error even if the signal has another reason', async () => {
    await expect(
      untilAborted(new Promise(() => undefined), AbortSignal.abort('text')),
    ).rejects.toThrow('aborted');
  });

  it('gives a result that comes too late to the one who can undo it', async () => {
    const controller = new AbortController();
    const discarded: number[] = [];
    let finish: (value: number) => void = () => undefined;
    const work = new Promise<number>((resolve) => (finish = resolve));
    const waiting = untilAborted(work, controller.signal, (value) => discarded.push(value));
    controller.abort(new Error('enough'));
    finish(7);
    await expect(waiting).rejects.toThrow('enough');
    await settled();
    expect(discarded).toEqual([7]);
  });

  it('gives a result in time to nobody else', async () => {
    const controller = new AbortController();
    const discarded: number[] = [];
    const work = untilAborted(Promise.resolve(7), controller.signal, (n) => discarded.push(n));
    await work;
    controller.abort();
    await settled();
    expect(discarded).toEqual([]);
  });
});

describe('within', () => {
  it('aborts the signal that the work is given', async () => {
    const clock = new ManualClock();
    let seen: AbortSignal | undefined;
    const work = within(never, 100, clock, late, (signal) => {
      seen = signal;
      return new Promise(() => undefined);
    });
    clock.advance(100);
    await expect(work).rejects.toThrow('too late');
    expect(seen?.aborted).toBe(true);
  });

  it('leaves no timer when the work is done', async () => {
    const clock = new ManualClock();
    await within(never, 100, clock, late, () => Promise.resolve(1));
    expect(clock.pendingTimers).toBe(0);
  });

  it('leaves no timer when the work fails', async () => {
    const clock = new ManualClock();
    const work = within(never, 100, clock, late, () => Promise.reject(new Error('no')));
    await expect(work).rejects.toThrow('no');
    expect(clock.pendingTimers).toBe(0);
  });
});

describe('systemClock', () => {
  it('runs a timer and can cancel one', async () => {
    const fired: string[] = [];
    const cancel = systemClock.setTimer(() => fired.push('cancelled'), 0);
    cancel();
    await new Promise<void>((resolve) => {
      systemClock.setTimer(() => {
        fired.push('kept');
        resolve();
      }, 1);
    });
    expect(fired).toEqual(['kept']);
  });

  it('does not take a month for no time at all', async () => {
    let hasFired = false;
    const cancel = systemClock.setTimer(() => {
      hasFired = true;
    }, 31 * 86_400_000);
    await new Promise((resolve) => setTimeout(resolve, 5));
    cancel();
    expect(hasFired).toBe(false);
  });

  it('has a monotonic and a wall time', () => {
    const before = systemClock.now();
    expect(systemClock.now()).toBeGreaterThanOrEqual(before);
    expect(Math.abs(systemClock.wallNow() - Date.now())).toBeLessThan(1000);
  });
});
