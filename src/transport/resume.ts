import type { ControlPlane } from '../aws/control-plane.ts';
import { BridgeError } from '../errors.ts';
import type { Logger } from '../logger.ts';
import { resumeDelayMs } from '../protocol/backoff.ts';
import type { Clock } from './clock.ts';
import { connectSocket, type SocketSupplies } from './connect-socket.ts';
import { within } from './deadline.ts';
import type { ChannelSocket, ChannelSocketEvents } from './socket.ts';

/** Time for one ResumeSession call, the SDK's own retries included. */
const callLimitMs = 15_000;

/** A refused upgrade is retried with fresh signatures this often before it is believed. */
const maxRefusals = 3;

export interface ResumeSupplies extends SocketSupplies {
  readonly controlPlane: Pick<ControlPlane, 'signUpgrade' | 'resumeSession'>;
  readonly clock: Clock;
  readonly logger: Logger;
  /** Uniform in [0, 1). */
  readonly random: () => number;
}

export interface ResumeRequest {
  readonly sessionId: string;
  /** Used when the service returns no new URL. */
  readonly streamUrl: string;
  /** Attempts made since the connection last worked: the first is made at once, later ones wait. */
  readonly attemptsMade: number;
  /** When to give up, monotonic ms. */
  readonly until: number;
  /** Told after each failed attempt that will be followed by another. */
  readonly onRetry: (error: BridgeError) => void;
}

export interface Resumed {
  readonly socket: ChannelSocket;
  readonly tokenValue: string;
  readonly streamUrl: string;
  readonly attemptsMade: number;
}

/**
 * Gets a new token and a new socket for a session whose connection was lost. The first attempt is
 * made at once, later ones with growing, jittered delays until `until`.
 *
 * Rejects with session.gone when the service says the session is over, with access.denied when
 * ResumeSession is refused, and with session.lost when time is up.
 */
export function resumeSession(
  supplies: ResumeSupplies,
  request: ResumeRequest,
  events: ChannelSocketEvents,
  signal: AbortSignal,
): Promise<Resumed> {
  let latest: BridgeError | undefined;
  const outOfTime = (): BridgeError => gaveUp(latest);
  const work = (limited: AbortSignal): Promise<Resumed> =>
    tryUntilResumed(supplies, request, events, limited, (failure) => {
      latest = failure;
    });
  const discard = (late: Resumed): void => {
    late.socket.destroy();
  };
  const leftMs = Math.max(0, request.until - supplies.clock.now());
  return within(signal, leftMs, supplies.clock, outOfTime, work, discard);
}

async function tryUntilResumed(
  supplies: ResumeSupplies,
  request: ResumeRequest,
  events: ChannelSocketEvents,
  signal: AbortSignal,
  onFailure: (failure: BridgeError) => void,
): Promise<Resumed> {
  const { clock, logger, random } = supplies;
  let refusals = 0;
  for (let attempt = request.attemptsMade; ; attempt += 1) {
    const delayMs = resumeDelayMs(attempt, random());
    if (delayMs > 0) await pause(clock, delayMs, signal);
    try {
      return {
        ...(await attemptResume(supplies, request, events, signal)),
        attemptsMade: attempt + 1,
      };
    } catch (error) {
      signal.throwIfAborted();
      const failure = asBridgeError(error);
      onFailure(failure);
      if (failure.code === 'access.websocket') refusals += 1;
      if (isFinal(failure) || refusals >= maxRefusals) throw failure;
      logger.info({ attempt, code: failure.code }, 'resume attempt failed');
      request.onRetry(failure);
    }
  }
}

async function attemptResume(
  supplies: ResumeSupplies,
  request: ResumeRequest,
  events: ChannelSocketEvents,
  signal: AbortSignal,
): Promise<Omit<Resumed, 'attemptsMade'>> {
  const grant = await within(signal, callLimitMs, supplies.clock, slowCall, (limited) =>
    supplies.controlPlane.resumeSession(request.sessionId, limited),
  );
  if (grant === undefined) {
    throw new BridgeError('session.gone', 'the session is over: the service no longer knows it', {
      hint: 'it was terminated or reached its idle or maximum duration; connect again',
    });
  }
  const streamUrl = grant.streamUrl ?? request.streamUrl;
  const socket = await connectSocket(supplies, streamUrl, events, signal);
  return { socket, tokenValue: grant.tokenValue, streamUrl };
}

function slowCall(): BridgeError {
  return new BridgeError(
    'network.timeout',
    `ResumeSession did not answer within ${callLimitMs / 1000} s`,
  );
}

/** Trying again cannot help: everything else (network, expired credentials, throttling) may pass. */
function isFinal(error: BridgeError): boolean {
  return (
    error.code === 'session.gone' ||
    error.code === 'access.denied' ||
    error.code.startsWith('usage.') ||
    error.code.startsWith('protocol.') ||
    error.code === 'internal'
  );
}

function gaveUp(cause: BridgeError | undefined): BridgeError {
  const why = cause === undefined ? ' in time' : `: ${cause.message}`;
  return new BridgeError('session.lost', `the connection was lost and could not be resumed${why}`, {
    hint: cause?.hint ?? 'check the network and connect again',
    cause,
  });
}

function asBridgeError(error: unknown): BridgeError {
  if (error instanceof BridgeError) return error;
  return new BridgeError('internal', 'resuming failed unexpectedly', { cause: error });
}

function pause(clock: Clock, ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const onAbort = (): void => {
      cancel();
      reject(signal.reason instanceof Error ? signal.reason : new Error('aborted'));
    };
    const cancel = clock.setTimer(() => {
      signal.removeEventListener('abort', onAbort);
      resolve();
    }, ms);
    signal.addEventListener('abort', onAbort, { once: true });
  });
}
