import fc from 'fast-check';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { Pacer } from '../../src/protocol/pacer.ts';
import { ReceiveWindow } from '../../src/protocol/receive-window.ts';
import { SendWindow } from '../../src/protocol/send-window.ts';
import { MODERN_AGENT } from '../support/model-agent.ts';
import { planFor, runSchedule, ScheduleFailure, type Plan } from '../support/simulated-link.ts';
import { soakCore } from '../support/soak-core.ts';

// A short slice of what scripts/soak --core runs at length; a failure names its seed.
const SCHEDULES = 150;

const anyPlan: fc.Arbitrary<Plan> = fc.record({
  weather: fc.record({
    drop: fc.double({ min: 0, max: 0.3, noNaN: true }),
    duplicate: fc.double({ min: 0, max: 0.3, noNaN: true }),
    corrupt: fc.constantFrom(0, 0.003),
    delayMs: fc.nat({ max: 300 }),
    jitterMs: fc.nat({ max: 300 }),
    reorders: fc.boolean(),
    cutEveryMs: fc.constantFrom(0, 300, 2000),
    closeCode: fc.constantFrom(undefined, 1000, 1006),
    downMs: fc.nat({ max: 3000 }),
    stalls: fc.boolean(),
    untilMs: fc.nat({ max: 8000 }),
  }),
  traits: fc.record({
    agentVersion: fc.constant(MODERN_AGENT.agentVersion),
    properties: fc.constant(MODERN_AGENT.properties),
    dialMs: fc.nat({ max: 3000 }),
    dropsEarlyData: fc.constant(false),
    ignoresDuplicates: fc.constant(false),
    repeatsRequest: fc.boolean(),
    earlyCapacity: fc.constantFrom(3, 100_000),
  }),
  toAgentBytes: fc.nat({ max: 30_000 }),
  toClientBytes: fc.nat({ max: 10_000 }),
  isInteractive: fc.boolean(),
  maxPayloadBytes: fc.integer({ min: 50, max: 20_000 }),
  maxInFlightBytes: fc.integer({ min: 2000, max: 100_000 }),
  maxInFlightMessages: fc.integer({ min: 1, max: 500 }),
  messagesPerSecond: fc.constantFrom(50, 950, Number.POSITIVE_INFINITY),
});

describe('a session over a bad network', () => {
  it('delivers everything once and in order, within its bounds', () => {
    const summary = soakCore(SCHEDULES, 1);
    // The weather is bad enough to matter.
    expect(summary.dropped).toBeGreaterThan(SCHEDULES);
    expect(summary.sockets).toBeGreaterThan(2 * SCHEDULES);
    expect(summary.resent).toBeGreaterThan(SCHEDULES);
  });

  it('does so whatever the weather, the agent and the bounds', () => {
    fc.assert(
      fc.property(anyPlan, fc.nat(), (plan, seed) => {
        runSchedule(seed, plan);
      }),
      { numRuns: 60 },
    );
  });
});

describe('the simulation', () => {
  afterEach(() => {
    vi.restoreAllMocks();
  });

  it('is the same run for the same seed', () => {
    expect(runSchedule(7)).toEqual(runSchedule(7));
    expect(planFor(7)).not.toEqual(planFor(8));
  });

  /** Runs schedules until one fails, as one must when the core is broken. */
  function firstFailure(): unknown {
    try {
      soakCore(SCHEDULES, 1);
    } catch (error) {
      return error;
    }
    return undefined;
  }

  it('notices when nothing is sent again after a new socket', () => {
    vi.spyOn(SendWindow.prototype, 'requeueAll').mockReturnValue();
    vi.spyOn(SendWindow.prototype, 'resendAt').mockReturnValue(undefined);
    expect(firstFailure()).toBeInstanceOf(ScheduleFailure);
  });

  it('notices when early messages are taken for the next ones', () => {
    vi.spyOn(ReceiveWindow.prototype, 'place').mockReturnValue('next');
    expect(firstFailure()).toBeInstanceOf(ScheduleFailure);
  });

  it('notices when the pace is exceeded', () => {
    vi.spyOn(Pacer.prototype, 'isReady').mockReturnValue(true);
    expect(firstFailure()).toMatchObject({ message: expect.stringContaining('pace') as string });
  });

  it('notices a wake that does nothing', () => {
    vi.spyOn(SendWindow.prototype, 'expire').mockReturnValue();
    expect(firstFailure()).toMatchObject({
      message: expect.stringContaining('no progress') as string,
    });
  });
});
