import { describe, expect, it } from 'vitest';
import { Liveness, type Verdict } from '../../src/transport/liveness.ts';

const reading = { isReading: true, isWaiting: false };
const waiting = { isReading: true, isWaiting: true };
const paused = { isReading: false, isWaiting: true };

/** Looks whenever a look is due, until something other than 'alive' comes or the time is up. */
function watch(
  liveness: Liveness,
  from: number,
  until: number,
  state = reading,
): { verdict: Verdict; now: number } {
  let now = from;
  while (liveness.lookAt <= until) {
    now = Math.max(now, liveness.lookAt);
    const verdict = liveness.look({ now, wallNow: now }, state);
    if (verdict !== 'alive') return { verdict, now };
  }
  return { verdict: 'alive', now: until };
}

function make(keepaliveMs = 30_000): Liveness {
  return new Liveness({ keepaliveMs }, { now: 0, wallNow: 0 });
}

describe('an idle connection', () => {
  it('is pinged after the keep-alive interval', () => {
    expect(watch(make(), 0, 100_000)).toEqual({ verdict: 'ping', now: 30_000 });
  });

  it('is pinged again only an interval later', () => {
    const liveness = make();
    watch(liveness, 0, 100_000);
    liveness.heard(30_000);
    expect(watch(liveness, 30_000, 100_000)).toEqual({ verdict: 'ping', now: 60_000 });
  });

  it('is dead after two and a half intervals of silence', () => {
    const liveness = make();
    watch(liveness, 0, 30_000);
    watch(liveness, 30_000, 60_000);
    expect(watch(liveness, 60_000, 100_000)).toEqual({ verdict: 'dead', now: 80_000 });
  });

  it('is never dead while something is heard', () => {
    const liveness = make();
    for (let now = 0; now < 3_600_000; now = liveness.lookAt) {
      expect(liveness.look({ now, wallNow: now }, reading)).not.toBe('dead');
      liveness.heard(now);
    }
  });

  it('is looked at often enough for a short interval', () => {
    expect(watch(make(500), 0, 10_000)).toEqual({ verdict: 'ping', now: 500 });
  });
});

describe('a connection with unacknowledged data', () => {
  it('is probed after ten silent seconds and dead after ten more', () => {
    const liveness = make();
    expect(watch(liveness, 0, 100_000, waiting)).toEqual({ verdict: 'ping', now: 10_000 });
    expect(watch(liveness, 10_000, 100_000, waiting)).toEqual({ verdict: 'dead', now: 20_000 });
  });

  it('lives on when the probe is answered', () => {
    const liveness = make();
    watch(liveness, 0, 10_000, waiting);
    liveness.heard(10_100);
    expect(watch(liveness, 10_100, 30_000, waiting).verdict).toBe('ping');
  });
});

describe('a connection that we do not read', () => {
  it('is neither pinged nor dead', () => {
    expect(watch(make(), 0, 3_600_000, paused).verdict).toBe('alive');
  });

  it('has its whole time again once it is read', () => {
    const liveness = make();
    watch(liveness, 0, 600_000, paused);
    expect(watch(liveness, 600_000, 700_000).verdict).toBe('ping');
  });
});

describe('a sleep', () => {
  it('is seen by a wall clock that ran ahead, and answered with a ping', () => {
    const liveness = make();
    expect(liveness.look({ now: 10_000, wallNow: 3_610_000 }, reading)).toBe('ping');
  });

  it('leaves the connection ten seconds to answer', () => {
    const liveness = make();
    liveness.look({ now: 10_000, wallNow: 3_610_000 }, reading);
    expect(liveness.lookAt).toBe(20_000);
    expect(liveness.look({ now: 20_000, wallNow: 3_620_000 }, reading)).toBe('dead');
  });

  it('is seen by a look that comes much too late, and does not count as silence', () => {
    const liveness = make();
    expect(liveness.look({ now: 3_600_000, wallNow: 3_600_000 }, reading)).toBe('ping');
  });

  it('is not suspected when the wall clock is set back', () => {
    const liveness = make();
    expect(liveness.suspectSleep({ now: 10_000, wallNow: -3_600_000 })).toBe(false);
  });

  it('is suspected once for one jump', () => {
    const liveness = make();
    const at = { now: 1000, wallNow: 60_000 };
    expect([liveness.suspectSleep(at), liveness.suspectSleep(at)]).toEqual([true, false]);
  });

  it('is not suspected for a jump of a few seconds', () => {
    expect(make().suspectSleep({ now: 1000, wallNow: 5500 })).toBe(false);
  });
});

describe('a probe', () => {
  it('is given ten seconds', () => {
    const liveness = make();
    liveness.probe(1000);
    expect(watch(liveness, 1000, 100_000)).toEqual({ verdict: 'dead', now: 11_000 });
  });

  it('asked for again does not get more time', () => {
    const liveness = make();
    liveness.probe(1000);
    liveness.probe(6000);
    expect(watch(liveness, 6000, 100_000)).toEqual({ verdict: 'dead', now: 11_000 });
  });

  it('is answered by anything', () => {
    const liveness = make();
    liveness.probe(1000);
    liveness.heard(2000);
    expect(watch(liveness, 2000, 12_000).verdict).toBe('alive');
  });
});
