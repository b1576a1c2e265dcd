import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { compareVersions, isVersion } from '../../src/protocol/agent-version.ts';
import { resumeDelayMs } from '../../src/protocol/backoff.ts';
import { Pacer } from '../../src/protocol/pacer.ts';
import { RttEstimator } from '../../src/protocol/rtt.ts';

describe('RttEstimator', () => {
  it('starts at 300 ms and takes the first sample whole', () => {
    const rtt = new RttEstimator();
    expect(rtt.resendAfterMs).toBe(300);
    expect(rtt.smoothedMs).toBeUndefined();
    rtt.sample(400);
    expect(rtt.smoothedMs).toBe(400);
    expect(rtt.resendAfterMs).toBe(400 + 4 * 200);
  });

  it('smooths as the peers do', () => {
    const rtt = new RttEstimator();
    rtt.sample(400);
    rtt.sample(480);
    expect(rtt.smoothedMs).toBe(410);
    expect(rtt.resendAfterMs).toBe(410 + 4 * (0.75 * 200 + 0.25 * 80));
  });

  it('settles above the round trip and stays within 250 ms and 5 s', () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 20_000 }), (roundTripMs) => {
        const rtt = new RttEstimator();
        for (let i = 0; i < 100; i += 1) {
          rtt.sample(roundTripMs);
          expect(rtt.resendAfterMs).toBeGreaterThanOrEqual(250);
          expect(rtt.resendAfterMs).toBeLessThanOrEqual(5000);
        }
        const expected = Math.min(5000, Math.max(250, roundTripMs + 10));
        expect(rtt.resendAfterMs).toBeCloseTo(expected, 3);
      }),
    );
  });
});

describe('Pacer', () => {
  it('never lets more through than rate and burst allow, nor much less', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 5000 }), fc.nat({ max: 1000 }), (rate, start) => {
        const pacer = new Pacer(rate);
        const times: number[] = [];
        let now = start;
        while (now < start + 2000) {
          while (pacer.isReady(now)) {
            pacer.take(now);
            times.push(now);
          }
          const readyAt = pacer.readyAt();
          expect(readyAt).toBeGreaterThan(now);
          now = readyAt;
          expect(pacer.isReady(now)).toBe(true);
        }
        const burst = Math.max(1, rate * 0.05);
        expect(times.length).toBeLessThanOrEqual(rate * 2 + burst + 1e-3);
        expect(times.length).toBeGreaterThan(rate * 2 - burst - 5);
      }),
      { numRuns: 30 },
    );
  });

  it('keeps any one second under a thousand at the default rate', () => {
    const pacer = new Pacer(950);
    const times: number[] = [];
    for (let now = 0; now < 5000; now += 0.5) {
      // Idle moments fill the bucket again.
      if (now % 1300 < 200) continue;
      while (pacer.isReady(now)) {
        pacer.take(now);
        times.push(now);
      }
    }
    for (const [index, time] of times.entries()) {
      const next = times[index + 1000];
      if (next !== undefined) expect(next - time).toBeGreaterThan(1000);
    }
  });

  it('lets those through that do not ask, and makes the others wait for them', () => {
    const pacer = new Pacer(100);
    for (let i = 0; i < 8; i += 1) pacer.take(0);
    expect(pacer.isReady(0)).toBe(false);
    expect(pacer.readyAt()).toBe(70);
  });

  it('does not pace at an infinite rate, and ignores a clock that steps back', () => {
    const pacer = new Pacer(Number.POSITIVE_INFINITY);
    for (let i = 0; i < 100; i += 1) pacer.take(i);
    expect(pacer.isReady(50)).toBe(true);
    expect(pacer.readyAt()).toBeLessThanOrEqual(99);
  });
});

describe('resumeDelayMs', () => {
  it('is nothing at first', () => {
    expect(resumeDelayMs(0, 0.99)).toBe(0);
    expect(resumeDelayMs(-1, 0.99)).toBe(0);
  });

  it('is full jitter under a ceiling that doubles to 15 s', () => {
    const ceilings = [1, 2, 3, 4, 5, 6, 7, 1e9].map((attempt) => resumeDelayMs(attempt, 1));
    expect(ceilings).toEqual([500, 1000, 2000, 4000, 8000, 15_000, 15_000, 15_000]);
    expect(resumeDelayMs(3, 0)).toBe(0);
    expect(resumeDelayMs(3, 0.5)).toBe(1000);
  });
});

describe('compareVersions', () => {
  const ordered = ['2.3.722', '2.3.722.1', '3.0.196.0', '3.0.1000.0', '3.1.0', '3.10.0', '10'];
  it('orders number by number', () => {
    for (const [i, left] of ordered.entries()) {
      for (const [j, right] of ordered.entries()) {
        expect(Math.sign(compareVersions(left, right)), `${left} ${right}`).toBe(Math.sign(i - j));
      }
    }
  });

  it('takes missing numbers as zero', () => {
    expect(compareVersions('3.1', '3.1.0.0')).toBe(0);
  });

  it('is for dotted numbers only', () => {
    for (const text of ['1', '1.2.764.0', '3.3.0']) expect(isVersion(text)).toBe(true);
    for (const text of ['', '3.', '.3', '3..1', 'v3', '3.1-beta', '-1', '1e3', '3.1 ']) {
      expect(isVersion(text)).toBe(false);
    }
    expect(isVersion('9'.repeat(10))).toBe(false);
    expect(isVersion('1.1.1.1.1.1.1.1.1')).toBe(false);
  });
});
