import { describe, expect, it } from 'vitest';
import { planFor, runSchedule } from '../support/simulated-link.ts';
import { soakCore } from '../support/soak-core.ts';

// A short slice of what scripts/soak runs at length; a failure names its seed.
const SCHEDULES = 300;

describe('a session over a bad network', () => {
  it('delivers everything once and in order, within its bounds', () => {
    const summary = soakCore(SCHEDULES, 1);
    // The weather is bad enough to matter.
    expect(summary.dropped).toBeGreaterThan(SCHEDULES);
    expect(summary.sockets).toBeGreaterThan(2 * SCHEDULES);
    expect(summary.resent).toBeGreaterThan(SCHEDULES);
  });

  it('is the same run for the same seed', () => {
    expect(runSchedule(7)).toEqual(runSchedule(7));
    expect(planFor(7)).not.toEqual(planFor(8));
  });
});
