import type { ControlPlane, SessionGrant } from '../aws/control-plane.ts';
import { BridgeError } from '../errors.ts';
import type { Logger } from '../logger.ts';
import { compareVersions, isVersion } from '../protocol/agent-version.ts';
import { Session, type Instant, type Output, type SessionOptions } from '../protocol/session.ts';
import type { ChannelConsumer, ChannelEnd, PayloadSource } from './channel.ts';
import type { Clock } from './clock.ts';
import { connectSocket, hostOf } from './connect-socket.ts';
import { Link } from './link.ts';
import { closedWhileOpening, describeEnd, openingTooSlow } from './opening-errors.ts';
import { resumeSession } from './resume.ts';
import type { ChannelSocket, ChannelSocketEvents, OpenSocket, SocketEnd } from './socket.ts';
import { terminateByCall } from './terminate-call.ts';
import { WakeTimer } from './wake-timer.ts';

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

type State =
  | { readonly kind: 'connecting' }
  | { readonly kind: 'up'; readonly link: Link }
  | { readonly kind: 'ended' };

/** A stretch of time without a connection that works, however many sockets it takes. */
interface Outage {
  readonly since: number;
  attemptsMade: number;
  isAnnounced: boolean;
}

interface Opened {
  readonly socket: ChannelSocket;
  readonly tokenValue: string;
  readonly streamUrl: string;
}

type Purpose =
  | { readonly kind: 'relaying' }
  /** Sending what was read before saying goodbye, until a deadline. */
  | { readonly kind: 'flushing'; readonly until: number }
  /** TerminateSession is sent; waiting for its acknowledgement, until a deadline. */
  | { readonly kind: 'terminating'; readonly until: number };

/** Bytes on their way to the kernel above which the source is left waiting. */
const maxUnsentBytes = 1024 * 1024;

/** Least time without an acknowledgement after which nobody should wait for one. */
const minStallMs = 60_000;

/** When to stop waiting for the acknowledgement of our last bytes, and of TerminateSession. */
const flushLimitMs = 500;
const terminateLimitMs = 500;

/** Agents before this one acknowledge TerminateSession and do nothing (amazon-ssm-agent release notes). */
const firstAgentThatTerminates = '2.3.756.0';

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
  readonly #timer: WakeTimer;
  #resolveEnded: (end: ChannelEnd) => void = unset;
  #resolveReleased: () => void = unset;
  #state: State = { kind: 'connecting' };
  #purpose: Purpose = { kind: 'relaying' };
  #isOpened = false;
  #openingAttempts = 0;
  #outage: Outage | undefined;
  #streamUrl: string;
  #agentVersion = '';
  #sourceMayHaveMore = true;
  #isPaused = false;
  #acknowledgedAt: number;

  constructor(options: DataChannelOptions) {
    this.#options = options;
    this.#session = new Session(options.session);
    this.#acknowledgedAt = options.clock.now();
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
    if (this.#isEnded()) return;
    const { tokenValue, streamUrl } = this.#options.grant;
    this.#arm();
    this.#connect(async (events, signal) => ({
      socket: await connectSocket(this.#options, streamUrl, events, signal),
      tokenValue,
      streamUrl,
    }));
  }

  /** The source has bytes (again). */
  sourceReady(): void {
    this.#sourceMayHaveMore = true;
    if (this.#state.kind !== 'up') return;
    const at = this.#instant();
    this.#state.link.probeAfterSleep(at);
    this.#pump(at);
    this.#arm();
  }

  /** Stops reading the socket, so that the peer is held back by TCP. */
  pauseReceiving(): void {
    // While the session is being ended, the acknowledgements we wait for must come in.
    if (this.#purpose.kind === 'relaying') this.#setPaused(true);
  }

  resumeReceiving(): void {
    this.#setPaused(false);
  }

  /** Bytes are unsent or unacknowledged, and the last acknowledgement is no longer ago than an outage may last. */
  get isSending(): boolean {
    const { clock, resumeTimeoutMs } = this.#options;
    const stalledMs = clock.now() - this.#acknowledgedAt;
    if (stalledMs > Math.max(resumeTimeoutMs, minStallMs)) return false;
    return this.#sourceMayHaveMore || this.#session.unackedMessages > 0;
  }

  /** Checks the connection at once, because something suggests that it may be dead. */
  probe(): void {
    if (this.#state.kind !== 'up') return;
    this.#state.link.probe(this.#instant());
    this.#arm();
  }

  /**
   * Ends the session: sends what the source still has, then the TerminateSession flag, then, if that
   * is not confirmed in time, calls the API. Idempotent.
   */
  terminate(): void {
    if (this.#purpose.kind !== 'relaying' || this.#isEnded()) return;
    if (this.#state.kind !== 'up' || !this.#isOpened) {
      this.#end({ kind: 'terminated' }, { terminateByCall: true });
      return;
    }
    const at = this.#instant();
    this.#purpose = { kind: 'flushing', until: at.now + flushLimitMs };
    this.#setPaused(false);
    this.#pump(at);
    this.#advanceEnding(at);
    this.#arm();
  }

  // --- connecting -------------------------------------------------------------------------------

  #connect(
    dial: (events: ChannelSocketEvents, signal: AbortSignal) => Promise<Opened>,
    onUp?: () => void,
  ): void {
    const { clock, keepaliveMs, logger } = this.#options;
    const link: Link = new Link({
      clock,
      keepaliveMs,
      events: {
        message: (data) => {
          const at = this.#instant();
          this.#received(link, this.#session.unackedMessages, this.#session.receive(data, at), at);
        },
        text: (text) => {
          const at = this.#instant();
          const unacked = this.#session.unackedMessages;
          this.#received(link, unacked, this.#session.receiveText(text, at), at);
        },
        drained: () => {
          this.#pump(this.#instant());
          this.#arm();
        },
        lost: (end) => {
          this.#lost(link, end);
        },
      },
    });
    dial(link.socketEvents, this.#abort.signal).then(
      ({ socket, tokenValue, streamUrl }) => {
        if (this.#isEnded()) {
          socket.destroy();
          return;
        }
        logger.debug({ host: hostOf(streamUrl) }, 'data channel connected');
        this.#streamUrl = streamUrl;
        this.#up(link, socket, tokenValue);
        onUp?.();
        link.checkEnd();
      },
      (error: unknown) => {
        this.#fail(error);
      },
    );
  }

  #up(link: Link, socket: ChannelSocket, tokenValue: string): void {
    const at = this.#instant();
    link.attach(socket, at);
    this.#state = { kind: 'up', link };
    const requestId = this.#options.newRequestId();
    this.#applyAll(this.#session.socketOpened({ tokenValue, requestId }, at));
    link.setPaused(this.#isPaused);
    this.#afterInput(at);
  }

  #received(link: Link, unackedBefore: number, outputs: readonly Output[], at: Instant): void {
    if (this.#session.unackedMessages < unackedBefore) {
      this.#acknowledgedAt = at.now;
      link.noteProgress();
    }
    this.#applyAll(outputs);
    this.#afterInput(at);
  }

  #lost(link: Link, end: SocketEnd): void {
    const at = this.#instant();
    const code = end.kind === 'closed' ? end.code : undefined;
    const error = end.kind === 'error' ? end.error.code : undefined;
    this.#options.logger.info({ code, error }, 'socket lost');
    this.#state = { kind: 'connecting' };
    this.#applyAll(this.#session.socketLost(code, at));
    if (this.#isEnded()) return;
    if (this.#purpose.kind !== 'relaying') {
      this.#end({ kind: 'terminated' }, { terminateByCall: true });
      return;
    }
    this.#openingAttempts += 1;
    if (!this.#isOpened && this.#openingAttempts >= maxOpeningAttempts) {
      this.#fail(closedWhileOpening(end));
      return;
    }
    // A service that takes every connection and drops it at once is one outage, with one time limit.
    if (this.#outage === undefined || link.isProven(at.now)) {
      this.#outage = { since: at.now, attemptsMade: 0, isAnnounced: false };
    }
    this.#resume(end, this.#outage);
    this.#arm();
  }

  #resume(end: SocketEnd, outage: Outage): void {
    const { clock, consumer, grant, resumeTimeoutMs, logger } = this.#options;
    if (resumeTimeoutMs === 0) {
      this.#fail(
        new BridgeError('session.lost', `the connection was lost (${describeEnd(end)})`, {
          hint: 'allow it to be resumed with --resume-timeout',
        }),
      );
      return;
    }
    let isBackToAnnounce = false;
    const request = {
      sessionId: grant.sessionId,
      streamUrl: this.#streamUrl,
      attemptsMade: outage.attemptsMade,
      until: outage.since + resumeTimeoutMs,
      onRetry: (error: BridgeError) => {
        if (outage.isAnnounced) return;
        outage.isAnnounced = true;
        isBackToAnnounce = true;
        const seconds = Math.ceil(resumeTimeoutMs / 1000);
        consumer.notice(
          `connection lost (${describeEnd(end)}), trying to resume for up to ${seconds} s: ${error.message}`,
        );
      },
    };
    this.#connect(
      async (events, signal) => {
        const resumed = await resumeSession(this.#options, request, events, signal);
        outage.attemptsMade = resumed.attemptsMade;
        return resumed;
      },
      () => {
        const afterMs = Math.round(clock.now() - outage.since);
        logger.info({ afterMs }, 'session resumed');
        if (isBackToAnnounce) {
          consumer.notice(`connection resumed after ${Math.round(afterMs / 1000)} s`);
        }
      },
    );
  }

  // --- the core's outputs -----------------------------------------------------------------------

  #applyAll(outputs: readonly Output[]): void {
    for (const output of outputs) {
      if (this.#isEnded()) return;
      this.#apply(output);
    }
  }

  #apply(output: Output): void {
    const { consumer, logger } = this.#options;
    switch (output.kind) {
      case 'transmit':
        if (this.#state.kind === 'up') this.#state.link.transmit(output.frame);
        return;
      case 'transmit-text':
        if (this.#state.kind === 'up') this.#state.link.transmitText(output.text);
        return;
      case 'deliver':
        if (this.#state.kind === 'up') this.#state.link.noteProgress();
        consumer.deliver(output.payload);
        return;
      case 'opened':
        this.#isOpened = true;
        this.#agentVersion = output.agentVersion;
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
        this.#end({ kind: 'terminated' }, { terminateByCall: !this.#heedsTerminate() });
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
    if (this.#state.kind !== 'up') return;
    const { link } = this.#state;
    // Not from within applyAll: losing the socket feeds the core again.
    queueMicrotask(() => {
      if (!this.#isCurrent(link)) return;
      // Our direction is in order: what is queued spares the agent from sending all of it again.
      link.close(1000);
      this.#lost(link, { kind: 'closed', code: 1006, reason });
    });
  }

  /** Gives up on a socket that has not ended by itself. */
  #drop(link: Link, reason: string): void {
    link.destroy();
    this.#lost(link, { kind: 'closed', code: 1006, reason });
  }

  #afterInput(at: Instant): void {
    this.#pump(at);
    this.#advanceEnding(at);
    this.#arm();
  }

  // --- sending ----------------------------------------------------------------------------------

  #pump(at: Instant): void {
    const { source } = this.#options;
    while (this.#state.kind === 'up' && this.#sourceMayHaveMore) {
      if (this.#state.link.unsentBytes >= maxUnsentBytes) break;
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

  #setPaused(isPaused: boolean): void {
    this.#isPaused = isPaused;
    if (this.#state.kind === 'up') this.#state.link.setPaused(isPaused);
  }

  // --- time -------------------------------------------------------------------------------------

  #arm(): void {
    if (!this.#isEnded()) this.#timer.armFor(this.#nextDeadline());
  }

  #nextDeadline(): number | undefined {
    let next = Number.POSITIVE_INFINITY;
    if (!this.#isOpened) next = this.#options.openBy;
    if (this.#purpose.kind !== 'relaying') next = Math.min(next, this.#purpose.until);
    if (this.#state.kind === 'up') {
      next = Math.min(next, this.#session.nextWakeAt() ?? next, this.#state.link.lookAt ?? next);
    }
    return next === Number.POSITIVE_INFINITY ? undefined : next;
  }

  #wake(): void {
    const at = this.#instant();
    if (!this.#isOpened && at.now >= this.#options.openBy) {
      this.#fail(openingTooSlow(this.#session.phase, this.#state.kind === 'up'));
      return;
    }
    this.#look(at);
    if (this.#state.kind === 'up') this.#applyAll(this.#session.wake(at));
    this.#afterInput(at);
  }

  #look(at: Instant): void {
    if (this.#state.kind !== 'up') return;
    const { link } = this.#state;
    const verdict = link.look(at, this.#session.unackedMessages > 0);
    if (verdict === 'dead') this.#drop(link, 'no sign of life');
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
      if (this.#state.kind === 'up') this.#state.link.flush();
    } else if (this.#purpose.kind === 'terminating' && at.now >= this.#purpose.until) {
      this.#end({ kind: 'terminated' }, { terminateByCall: true });
    }
  }

  #heedsTerminate(): boolean {
    const version = this.#agentVersion;
    return isVersion(version) && compareVersions(version, firstAgentThatTerminates) >= 0;
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
    const state = this.#state;
    if (state.kind === 'ended') return;
    this.#state = { kind: 'ended' };
    this.#timer.cancel();
    this.#abort.abort(new BridgeError('session.lost', 'the channel has ended'));
    if (state.kind === 'up') state.link.close(1000);
    this.#options.logger.info({ end: end.kind }, 'data channel ended');
    this.#resolveEnded(end);
    if (how.terminateByCall) {
      void terminateByCall(this.#options, this.#options.grant.sessionId).then(
        this.#resolveReleased,
      );
    } else {
      this.#resolveReleased();
    }
  }

  #isEnded(): boolean {
    return this.#state.kind === 'ended';
  }

  #isCurrent(link: Link): boolean {
    return this.#state.kind === 'up' && this.#state.link === link;
  }

  #instant(): Instant {
    const { clock } = this.#options;
    return { now: clock.now(), wallNow: clock.wallNow() };
  }
}

function unset(): void {
  // Replaced by the promise's resolver in the constructor.
}
