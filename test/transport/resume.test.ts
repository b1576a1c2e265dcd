import { expect, it } from 'vitest';
import { BridgeError, type ErrorCode } from '../../src/errors.ts';
import { silentLogger } from '../../src/logger.ts';
import {
  resumeSession,
  type ResumeRequest,
  type ResumeSupplies,
} from '../../src/transport/resume.ts';
import type { ChannelSocketEvents } from '../../src/transport/socket.ts';
import { ManualClock, settled } from '../support/manual-clock.ts';
import { MemorySocket } from './harness.ts';

const events: ChannelSocketEvents = {
  onMessage: () => undefined,
  onText: () => undefined,
  onActivity: () => undefined,
  onDrain: () => undefined,
  onEnd: () => undefined,
};

interface Attempt {
  readonly call?: ErrorCode | 'gone' | 'hang' | 'bug';
  readonly dial?: ErrorCode | 'hang';
}

/** Runs one resume against a service that does as the script says, then gives grants. */
function run(script: readonly Attempt[], changes: Partial<ResumeRequest> = {}) {
  const clock = new ManualClock();
  const controller = new AbortController();
  const seen = {
    callsAt: [] as number[],
    retries: [] as string[],
    sockets: [] as MemorySocket[],
    urls: [] as string[],
    error: undefined as unknown,
    attemptsMade: undefined as number | undefined,
    tokenValue: undefined as string | undefined,
  };
  const startedAt = clock.now();
  const supplies: ResumeSupplies = {
    clock,
    logger: silentLogger,
    random: () => 0.999,
    controlPlane: {
      signUpgrade: (url) => {
        seen.urls.push(url);
        return Promise.resolve({});
      },
      resumeSession: () => {
        const { call } = script[seen.callsAt.length] ?? {};
        seen.callsAt.push(clock.now() - startedAt);
        if (call === 'hang') return new Promise(() => undefined);
        if (call === 'gone') return Promise.resolve(undefined);
        if (call === 'bug') return Promise.reject(new TypeError('a bug'));
        if (call !== undefined) return Promise.reject(new BridgeError(call, 'the call failed'));
        const count = seen.callsAt.length;
        return Promise.resolve({ tokenValue: `t${count}`, streamUrl: `wss://new.test/${count}` });
      },
    },
    openSocket: (request) => {
      const { dial } = script[seen.callsAt.length - 1] ?? {};
      if (dial === 'hang') return new Promise(() => undefined);
      if (dial !== undefined) return Promise.reject(new BridgeError(dial, 'the dial failed'));
      const socket = new MemorySocket(request.url, events);
      seen.sockets.push(socket);
      return Promise.resolve(socket);
    },
  };
  const request: ResumeRequest = {
    sessionId: 's',
    streamUrl: 'wss://old.test/',
    attemptsMade: 0,
    until: startedAt + 60_000,
    onRetry: (error) => seen.retries.push(error.code),
    ...changes,
  };
  resumeSession(supplies, request, events, controller.signal).then(
    (resumed) => {
      seen.attemptsMade = resumed.attemptsMade;
      seen.tokenValue = resumed.tokenValue;
    },
    (error: unknown) => {
      seen.error = error;
    },
  );
  return { clock, controller, seen };
}

function codeOf(error: unknown): string | undefined {
  return error instanceof BridgeError ? error.code : undefined;
}

it('asks at once and takes what it is given', async () => {
  const { seen } = run([]);
  await settled();
  expect([seen.callsAt, seen.tokenValue, seen.urls, seen.attemptsMade]).toEqual([
    [0],
    't1',
    ['wss://new.test/1'],
    1,
  ]);
});

it('waits longer after each failure, fifteen seconds at most', async () => {
  const script = Array.from({ length: 8 }, () => ({ call: 'network.unreachable' }) as const);
  const { clock, seen } = run(script, { until: 200_000 });
  await clock.pass(120_000);
  const delays = seen.callsAt.slice(1).map((at, index) => at - (seen.callsAt[index] ?? 0));
  expect(delays.map((ms) => Math.round(ms / 100) / 10)).toEqual([0.5, 1, 2, 4, 8, 15, 15, 15]);
});

it('waits before the first attempt when others were made before', async () => {
  const { clock, seen } = run([], { attemptsMade: 3 });
  await clock.pass(10_000);
  expect([seen.callsAt.map(Math.round), seen.attemptsMade]).toEqual([[1998], 4]);
});

it('gets a new token for each attempt', async () => {
  const { clock, seen } = run([{ dial: 'network.unreachable' }]);
  await clock.pass(5000);
  expect([seen.tokenValue, seen.urls]).toEqual(['t2', ['wss://new.test/1', 'wss://new.test/2']]);
});

it('tells of each failure that another attempt follows', async () => {
  const { clock, seen } = run([{ call: 'api.throttled' }, { dial: 'network.timeout' }]);
  await clock.pass(5000);
  expect(seen.retries).toEqual(['api.throttled', 'network.timeout']);
});

it.each([
  'network.unreachable',
  'network.tls',
  'network.refused',
  'api.throttled',
  'api.failed',
  'credentials.expired',
  'credentials.missing',
  'target.not-connected',
] as const)('tries again after %s', async (call) => {
  const { clock, seen } = run([{ call }]);
  await clock.pass(5000);
  expect([seen.error, seen.tokenValue]).toEqual([undefined, 't2']);
});

it.each(['access.denied', 'protocol.malformed', 'usage.config', 'internal'] as const)(
  'gives up at once after %s',
  async (call) => {
    const { clock, seen } = run([{ call }]);
    await clock.pass(5000);
    expect([codeOf(seen.error), seen.callsAt, seen.retries]).toEqual([call, [0], []]);
  },
);

it('gives up at once on an error that nobody foresaw', async () => {
  const { clock, seen } = run([{ call: 'bug' }]);
  await clock.pass(5000);
  expect([codeOf(seen.error), seen.callsAt]).toEqual(['internal', [0]]);
});

it('says that the session is gone when the service gives no grant', async () => {
  const { clock, seen } = run([{ call: 'gone' }]);
  await clock.pass(5000);
  expect([codeOf(seen.error), seen.callsAt]).toEqual(['session.gone', [0]]);
});

it('tries a refused upgrade twice more', async () => {
  const refused = { dial: 'access.websocket' } as const;
  const { clock, seen } = run([refused, refused, refused]);
  await clock.pass(30_000);
  expect([codeOf(seen.error), seen.callsAt.length]).toEqual(['access.websocket', 3]);
});

it('gives a call that hangs fifteen seconds', async () => {
  const { clock, seen } = run([{ call: 'hang' }]);
  await clock.pass(20_000);
  expect([seen.retries, seen.callsAt.map(Math.round)]).toEqual([['network.timeout'], [0, 15_500]]);
});

it('is over when its time is up, whatever it is doing', async () => {
  for (const script of [[{ call: 'hang' }], [{ dial: 'hang' }]] as const) {
    const { clock, seen } = run(script, { until: 1000 + 4000 });
    await clock.pass(3999);
    expect(seen.error).toBeUndefined();
    await clock.pass(1);
    expect(codeOf(seen.error)).toBe('session.lost');
  }
});

it('is over when its time is up while it waits, and names the last failure', async () => {
  const script = Array.from({ length: 20 }, () => ({ call: 'network.unreachable' }) as const);
  const { clock, seen } = run(script, { until: 1000 + 4000 });
  await clock.pass(4000);
  expect([codeOf(seen.error), (seen.error as BridgeError).message]).toEqual([
    'session.lost',
    'the connection was lost and could not be resumed: the call failed',
  ]);
});

it('stops with the reason it is aborted with, at once, and asks nothing more', async () => {
  const { clock, controller, seen } = run([{ call: 'network.unreachable' }]);
  await settled();
  controller.abort(new BridgeError('session.lost', 'the channel has ended'));
  await settled();
  expect([codeOf(seen.error), clock.pendingTimers]).toEqual(['session.lost', 0]);
  await clock.pass(60_000);
  expect(seen.callsAt).toEqual([0]);
});

it.each(Array.from({ length: 12 }, (_, steps) => steps))(
  'hands over or destroys a socket that comes when it is aborted, %i steps before or after',
  async (steps) => {
    const { controller, seen } = run([]);
    while (seen.sockets.length === 0) await Promise.resolve();
    for (let count = 0; count < steps; count += 1) await Promise.resolve();
    controller.abort(new Error('over'));
    await settled();
    expect(seen.sockets[0]!.isDestroyed).toBe(seen.tokenValue === undefined);
  },
);
