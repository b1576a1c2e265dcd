import type { ControlPlane, SessionGrant } from '../aws/control-plane.ts';
import { BridgeError } from '../errors.ts';
import type { Logger } from '../logger.ts';
import { Session, type Instant, type Output, type SessionOptions } from '../protocol/session.ts';
import type { Clock } from './clock.ts';
import { connectSocket, hostOf } from './connect-socket.ts';
import { within } from './deadline.ts';
import { Liveness } from './liveness.ts';
import { Outbox } from './outbox.ts';
import { resumeSession } from './resume.ts';
import type { ChannelSocket, ChannelSocketEvents, OpenSocket, SocketEnd } from './socket.ts';
import { WakeTimer } from './wake-timer.ts';

/** Where the channel takes its bytes from. */
export interface PayloadSource {
  /**
   * The next bytes to send, at least one and at most `maxBytes`; undefined when there are none now.
   * The view is copied before `pull` is called again.
   */
  pull(maxBytes: number): Uint8Array | undefined;
}

/** What the channel tells its user. Bytes given to `deliver` may be kept without copying. */
export interface ChannelConsumer {
  opened(info: ChannelInfo): void;
  deliver(payload: Uint8Array): void;
  /** The agent's Flag message, such as ConnectToPortError (3). */
  flag(value: number): void;
  /** pause_publication or start_publication: the agent's side of the channel went away or came back. */
  publication(isPaused: boolean): void;
  /** One line worth telling the person who waits. */
  notice(text: string): void;
}

export type ChannelInfo = Omit<Extract<Output, { kind: 'opened' }>, 'kind'>;

export type ChannelEnd =
  /** channel_closed from the service; `output` is its reason, empty for a normal end. */
  | { readonly kind: 'remote-closed'; readonly output: string; readonly isIncomplete: boolean }
  /** We ended the session and it was confirmed, or nothing more can be done about it. */
  | { readonly kind: 'terminated' }
  | { readonly kind: 'failed'; readonly error: BridgeError };

export interface DataChannelOptions {
  readonly grant: SessionGrant;
  readonly session: SessionOptions;
  readonly source: PayloadSource;
  readonly consumer: ChannelConsumer;
  readonly controlPlane: Pick<ControlPlane, 'signUpgrade' | 'resumeSession' | 'terminateSession'>;
  readonly openSocket: OpenSocket;
  readonly clock: Clock;
  readonly logger: Logger;
  /** Uniform in [0, 1). */
  readonly random: () => number;
  readonly newRequestId: () => string;
  /** When to give up opening the channel, monotonic ms. */
  readonly openBy: number;
  /** How long a lost connection is tried again, ms. */
  readonly resumeTimeoutMs: number;
  readonly keepaliveMs: number;
}

type Link =
  | { readonly kind: 'connecting' }
  | { readonly kind: 'up'; readonly socket: ChannelSocket; readonly liveness: Liveness }
  | { readonly kind: 'ended' };

type Purpose =
  | { readonly kind: 'relaying' }
  /** Sending what was read before saying goodbye, until a deadline. */
  | { readonly kind: 'flushing'; readonly until: number }
  /** TerminateSession is sent; waiting for its acknowledgement, until a deadline. */
  | { readonly kind: 'terminating'; readonly until: number };

/** Bytes in the socket above which the source is left waiting. */
const maxBufferedBytes = 1024 * 1024;

/** When to stop waiting for the acknowledgement of our last bytes, and of TerminateSession. */
const flushLimitMs = 500;
const terminateLimitMs = 500;
const terminateCallLimitMs = 2_000;

/** Reconnects before the handshake is complete, after which opening has failed. */
const maxOpeningAttempts = 3;

/**
 * The reliable byte stream of one session. Drives the protocol core over sockets that come and go,
 * and ends the remote session when it ends itself.
 */
export class DataChannel {
  /** Settles once, when the channel is over for whatever reason; never rejects. */
  readonly ended: Promise<ChannelEnd>;
  /** Settles after `ended`, when the socket is closed and the remote session was dealt with. */
  readonly released: Promise<void>;

  readonly #options: DataChannelOptions;
  readonly #session: Session;
  readonly #abort = new AbortController();
  #resolveEnded: (end: ChannelEnd) => void = unset;
  #resolveReleased: () => void = unset;
  #link: Link = { kind: 'connecting' };
  #purpose: Purpose = { kind: 'relaying' };
  #isOpened = false;
  #openingAttempts = 0;
  #streamUrl: string;
  #sourceMayHaveMore = true;
  #isPaused = false;
  readonly #outbox = new Outbox((messages) => {
    if (this.#link.kind === 'up') this.#link.socket.sendBinary(messages);
  });
  readonly #timer: WakeTimer;

  constructor(options: DataChannelOptions) {
    this.#options = options;
    this.#session = new Session(options.session);
    this.#streamUrl = options.grant.streamUrl;
    this.#timer = new WakeTimer(options.clock, () => {
      this.#wake();
    });
    this.ended = new Promise((resolve) => {
      this.#resolveEnded = resolve;
    });
    this.released = new Promise((resolve) => {
      this.#resolveReleased = resolve;
    });
  }

  /** Dials. Everything after is told through the consumer and `ended`. */
  start(): void {
    const { grant } = this.#options;
    this.#arm();
    this.#connect(
      async (events, signal) => ({
        socket: await connectSocket(this.#options, grant.streamUrl, events, signal),
        tokenValue: grant.tokenValue,
        streamUrl: grant.streamUrl,
      }),
      undefined,
    );
  }

  /** The source has bytes (again). */
  sourceReady(): void {
    this.#sourceMayHaveMore = true;
    const at = this.#instant();
    if (this.#link.kind === 'up' && this.#link.liveness.suspectSleep(at)) {
      this.#ping(this.#link, at);
    }
    this.#pump(at);
    this.#arm();
  }

  /** Stops reading the socket, so that the peer is held back by TCP. */
  pauseReceiving(): void {
    if (this.#isPaused) return;
    this.#isPaused = true;
    if (this.#link.kind === 'up') this.#link.socket.pause();
  }

  resumeReceiving(): void {
    if (!this.#isPaused) return;
    this.#isPaused = false;
    if (this.#link.kind !== 'up') return;
    this.#link.liveness.heard(this.#options.clock.now());
    this.#link.socket.resume();
  }

  /** Checks the connection at once, because something suggests that it may be dead. */
  probe(): void {
    if (this.#link.kind === 'up') this.#ping(this.#link, this.#instant());
    this.#arm();
  }

  /**
   * Ends the session: sends what the source still has, then the TerminateSession flag, then, if that
   * is not confirmed in time, calls the API. Idempotent.
   */
  terminate(): void {
    if (this.#purpose.kind !== 'relaying' || this.#link.kind === 'ended') return;
    const at = this.#instant();
    // Reading must go on: the acknowledgements we wait for arrive that way.
    this.resumeReceiving();
    if (this.#link.kind !== 'up' || !this.#isOpened) {
      this.#end({ kind: 'terminated' }, { terminateByCall: true });
      return;
    }
    this.#purpose = { kind: 'flushing', until: at.now + flushLimitMs };
    this.#pump(at);
    this.#advanceEnding(at);
    this.#arm();
  }

  // --- connecting -------------------------------------------------------------------------------

  #connect(
    dial: (
      events: ChannelSocketEvents,
      signal: AbortSignal,
    ) => Promise<{ socket: ChannelSocket; tokenValue: string; streamUrl: string }>,
    onUp: (() => void) | undefined,
  ): void {
    const { logger } = this.#options;
    this.#link = { kind: 'connecting' };
    const attachment: { socket?: ChannelSocket } = {};
    const events = this.#socketEvents(attachment);
    dial(events, this.#abort.signal).then(
      ({ socket, tokenValue, streamUrl }) => {
        if (this.#link.kind !== 'connecting') {
          socket.destroy();
          return;
        }
        logger.debug({ host: hostOf(streamUrl) }, 'data channel connected');
        attachment.socket = socket;
        this.#streamUrl = streamUrl;
        this.#socketUp(socket, tokenValue);
        onUp?.();
      },
      (error: unknown) => {
        if (this.#link.kind !== 'connecting') return;
        this.#fail(error);
      },
    );
  }

  #socketEvents(attachment: { socket?: ChannelSocket }): ChannelSocketEvents {
    const ifCurrent = (act: (link: Extract<Link, { kind: 'up' }>) => void): void => {
      const link = this.#link;
      if (link.kind === 'up' && link.socket === attachment.socket) act(link);
    };
    return {
      onMessage: (data) => {
        ifCurrent((link) => {
          const at = this.#instant();
          link.liveness.heard(at.now);
          this.#applyAll(this.#session.receive(data, at));
          this.#afterInput(at);
        });
      },
      onText: (text) => {
        ifCurrent((link) => {
          const at = this.#instant();
          link.liveness.heard(at.now);
          this.#applyAll(this.#session.receiveText(text, at));
          this.#afterInput(at);
        });
      },
      onActivity: () => {
        ifCurrent((link) => {
          link.liveness.heard(this.#options.clock.now());
        });
      },
      onDrain: () => {
        ifCurrent(() => {
          this.#pump(this.#instant());
          this.#arm();
        });
      },
      onEnd: (end) => {
        ifCurrent(() => {
          this.#socketLost(end);
        });
      },
    };
  }

  #socketUp(socket: ChannelSocket, tokenValue: string): void {
    const at = this.#instant();
    const liveness = new Liveness({ keepaliveMs: this.#options.keepaliveMs }, at);
    this.#link = { kind: 'up', socket, liveness };
    const requestId = this.#options.newRequestId();
    this.#applyAll(this.#session.socketOpened({ tokenValue, requestId }, at));
    if (!this.#isPaused) socket.resume();
    this.#afterInput(at);
  }

  #socketLost(end: SocketEnd): void {
    if (this.#link.kind !== 'up') return;
    this.#outbox.discard();
    this.#link.socket.destroy();
    const { clock, logger } = this.#options;
    const at = this.#instant();
    const code = end.kind === 'closed' ? end.code : undefined;
    logger.info({ code, error: end.kind === 'error' ? end.error.code : undefined }, 'socket lost');
    this.#link = { kind: 'connecting' };
    this.#applyAll(this.#session.socketLost(code, at));
    if (this.#isEnded()) return;
    if (this.#purpose.kind !== 'relaying') {
      this.#end({ kind: 'terminated' }, { terminateByCall: true });
      return;
    }
    if (!this.#isOpened && ++this.#openingAttempts >= maxOpeningAttempts) {
      this.#fail(closedWhileOpening(end));
      return;
    }
    this.#resume(end, clock.now());
    this.#arm();
  }

  #resume(end: SocketEnd, lostAt: number): void {
    const { clock, consumer, grant, resumeTimeoutMs, logger } = this.#options;
    let isAnnounced = false;
    this.#connect(
      async (events, signal) =>
        await resumeSession(
          this.#options,
          {
            sessionId: grant.sessionId,
            streamUrl: this.#streamUrl,
            until: lostAt + resumeTimeoutMs,
            onRetry: (error) => {
              if (isAnnounced) return;
              isAnnounced = true;
              const seconds = Math.round(resumeTimeoutMs / 1000);
              consumer.notice(
                `connection lost (${describeEnd(end)}), trying to resume for up to ${seconds} s: ${error.message}`,
              );
            },
          },
          events,
          signal,
        ),
      () => {
        const afterMs = Math.round(clock.now() - lostAt);
        logger.info({ afterMs }, 'session resumed');
        if (isAnnounced)
          consumer.notice(`connection resumed after ${Math.round(afterMs / 1000)} s`);
      },
    );
  }

  // --- the core's outputs -----------------------------------------------------------------------

  #applyAll(outputs: readonly Output[]): void {
    for (const output of outputs) this.#apply(output);
  }

  #apply(output: Output): void {
    const { consumer, logger } = this.#options;
    switch (output.kind) {
      case 'transmit':
        this.#outbox.add(output.frame);
        return;
      case 'transmit-text':
        if (this.#link.kind === 'up') this.#link.socket.sendText(output.text);
        return;
      case 'deliver':
        consumer.deliver(output.payload);
        return;
      case 'opened':
        this.#isOpened = true;
        logger.info({ mode: output.mode, agentVersion: output.agentVersion }, 'data channel open');
        consumer.opened(output);
        return;
      case 'flag':
        consumer.flag(output.value);
        return;
      case 'publication':
        logger.debug({ isPaused: output.paused }, 'publication');
        consumer.publication(output.paused);
        return;
      case 'ignored':
        logger.debug({ reason: output.reason }, 'message ignored');
        return;
      case 'reconnect':
        this.#replaceSocket(output.reason);
        return;
      case 'terminated':
        this.#end({ kind: 'terminated' }, { terminateByCall: false });
        return;
      case 'closed':
        this.#end(
          { kind: 'remote-closed', output: output.output, isIncomplete: output.incomplete },
          { terminateByCall: false },
        );
        return;
      case 'failed':
        this.#fail(output.error);
    }
  }

  #replaceSocket(reason: string): void {
    // Not from within applyAll: losing the socket feeds the core again.
    const link = this.#link;
    queueMicrotask(() => {
      if (link.kind !== 'up' || this.#link !== link) return;
      this.#socketLost({ kind: 'closed', code: 1006, reason });
    });
  }

  #afterInput(at: Instant): void {
    if (this.#isEnded()) return;
    this.#pump(at);
    this.#advanceEnding(at);
    this.#arm();
  }

  // --- sending ----------------------------------------------------------------------------------

  #pump(at: Instant): void {
    const { source } = this.#options;
    while (this.#link.kind === 'up' && this.#sourceMayHaveMore) {
      if (this.#link.socket.bufferedBytes + this.#outbox.bytes >= maxBufferedBytes) break;
      const capacity = this.#session.sendCapacity(at);
      if (capacity === 0) {
        this.#session.noteSendBlocked();
        break;
      }
      const payload = source.pull(capacity);
      if (payload === undefined) {
        this.#sourceMayHaveMore = false;
        break;
      }
      this.#applyAll(this.#session.send(payload, at));
    }
  }

  #ping(link: Extract<Link, { kind: 'up' }>, at: Instant): void {
    if (this.#isPaused) return;
    link.liveness.probe(at.now);
    link.socket.ping();
  }

  // --- time -------------------------------------------------------------------------------------

  #arm(): void {
    if (!this.#isEnded()) this.#timer.armFor(this.#nextDeadline());
  }

  #nextDeadline(): number | undefined {
    let next: number | undefined;
    const consider = (at: number | undefined): void => {
      if (at !== undefined && (next === undefined || at < next)) next = at;
    };
    if (!this.#isOpened) consider(this.#options.openBy);
    if (this.#purpose.kind !== 'relaying') consider(this.#purpose.until);
    if (this.#link.kind === 'up') {
      consider(this.#session.nextWakeAt());
      consider(this.#link.liveness.lookAt);
    }
    return next;
  }

  #wake(): void {
    const at = this.#instant();
    if (!this.#isOpened && at.now >= this.#options.openBy) {
      this.#fail(this.#openingTooSlow());
      return;
    }
    this.#look(at);
    if (this.#link.kind === 'up') {
      this.#applyAll(this.#session.wake(at));
      if (this.#isEnded()) return;
      this.#pump(at);
    }
    this.#advanceEnding(at);
    this.#arm();
  }

  #look(at: Instant): void {
    const link = this.#link;
    if (link.kind !== 'up' || at.now < link.liveness.lookAt) return;
    const verdict = link.liveness.look(at, {
      isReading: !this.#isPaused,
      isWaiting: this.#session.unackedMessages > 0,
    });
    if (verdict === 'ping') link.socket.ping();
    if (verdict === 'dead') {
      this.#socketLost({ kind: 'closed', code: 1006, reason: 'no sign of life' });
    }
  }

  #openingTooSlow(): BridgeError {
    const phase = this.#session.phase;
    if (this.#link.kind !== 'up') {
      return new BridgeError('network.timeout', 'the data channel could not be opened in time', {
        hint: 'check the network and proxy, or raise --connect-timeout',
      });
    }
    return new BridgeError(
      'protocol.handshake',
      phase === 'awaiting-request'
        ? 'the agent did not begin the handshake in time'
        : 'the agent did not complete the handshake in time',
      { hint: 'the node may be overloaded or its SSM Agent stuck; try again or restart the agent' },
    );
  }

  // --- ending -----------------------------------------------------------------------------------

  #advanceEnding(at: Instant): void {
    if (this.#isEnded()) return;
    if (this.#purpose.kind === 'flushing') {
      // A flag overtakes nothing, but agents may drop data that is still buffered when it arrives.
      const isFlushed = !this.#sourceMayHaveMore && this.#session.unackedMessages === 0;
      if (!isFlushed && at.now < this.#purpose.until) return;
      this.#purpose = { kind: 'terminating', until: at.now + terminateLimitMs };
      this.#applyAll(this.#session.terminate(at));
      this.#outbox.flush();
    } else if (this.#purpose.kind === 'terminating' && at.now >= this.#purpose.until) {
      this.#end({ kind: 'terminated' }, { terminateByCall: true });
    }
  }

  #fail(error: unknown): void {
    const failure =
      error instanceof BridgeError
        ? error
        : new BridgeError('internal', 'the data channel failed unexpectedly', { cause: error });
    this.#end(
      { kind: 'failed', error: failure },
      { terminateByCall: failure.code !== 'session.gone' },
    );
  }

  #end(end: ChannelEnd, how: { terminateByCall: boolean }): void {
    const link = this.#link;
    if (link.kind === 'ended') return;
    // What is queued may be acknowledgements that the agent waits for before it lets go.
    this.#outbox.flush();
    this.#outbox.close();
    this.#timer.cancel();
    this.#link = { kind: 'ended' };
    this.#abort.abort(new BridgeError('session.lost', 'the channel has ended'));
    if (link.kind === 'up') link.socket.close(1000);
    this.#options.logger.info({ end: end.kind }, 'data channel ended');
    this.#resolveEnded(end);
    if (how.terminateByCall) void this.#terminateByCall().then(this.#resolveReleased);
    else this.#resolveReleased();
  }

  async #terminateByCall(): Promise<void> {
    const { controlPlane, grant, clock, logger } = this.#options;
    const tooSlow = (): BridgeError =>
      new BridgeError('network.timeout', 'TerminateSession did not answer in time');
    try {
      await within(new AbortController().signal, terminateCallLimitMs, clock, tooSlow, (signal) =>
        controlPlane.terminateSession(grant.sessionId, signal),
      );
      logger.debug({}, 'session terminated by the API');
    } catch (error) {
      // Often not permitted, and then the service ends the session by its idle timeout.
      const code = error instanceof BridgeError ? error.code : 'internal';
      logger.debug({ code }, 'TerminateSession call failed');
    }
  }

  #isEnded(): boolean {
    return this.#link.kind === 'ended';
  }

  #instant(): Instant {
    const { clock } = this.#options;
    return { now: clock.now(), wallNow: clock.wallNow() };
  }
}

function unset(): void {
  // Replaced by the promise's resolver in the constructor.
}

function describeEnd(end: SocketEnd): string {
  if (end.kind === 'error') return end.error.message;
  return end.reason === '' ? `close code ${end.code}` : `close code ${end.code}, ${end.reason}`;
}

function closedWhileOpening(end: SocketEnd): BridgeError {
  return new BridgeError(
    'access.websocket',
    `the service closed the data channel before the handshake (${describeEnd(end)})`,
    { hint: 'check that ssmmessages:OpenDataChannel is allowed and that the clock is right' },
  );
}
