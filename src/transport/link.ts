import type { Instant } from '../protocol/session.ts';
import type { Clock } from './clock.ts';
import { Liveness, type Verdict } from './liveness.ts';
import type { ChannelSocket, ChannelSocketEvents, SocketEnd } from './socket.ts';

export interface LinkEvents {
  message(data: Uint8Array): void;
  text(text: string): void;
  /** What was written has left: there is room for more. */
  drained(): void;
  /** The socket has ended by itself; the link is over. */
  lost(end: SocketEnd): void;
}

export interface LinkOptions {
  readonly clock: Clock;
  readonly keepaliveMs: number;
  readonly events: LinkEvents;
}

/**
 * Unsent bytes above which nothing more is read: acknowledgements of what a peer sends must not pile
 * up because it does not read them. Well above what the send window and its resends can make.
 */
const maxUnsentBytes = 8 * 1024 * 1024;

/** A peer that takes none of those bytes for this long is gone. */
const stuckLimitMs = 60_000;

/** A connection that held this long was a working one, even if there was nothing to say. */
const provenAfterMs = 10_000;

/**
 * One socket of a channel, from its dialling to its end: watches for life and guards the channel against callbacks of a socket that it has already replaced.
 */
export class Link {
  readonly #options: LinkOptions;
  #liveness: Liveness | undefined;
  #socket: ChannelSocket | undefined;
  #isOver = false;
  #earlyEnd: SocketEnd | undefined;
  #isPaused = false;
  #isHeldBack = false;
  #upAt = 0;
  #hasProgressed = false;
  #leastUnsent = 0;
  #leastUnsentAt = 0;

  constructor(options: LinkOptions) {
    this.#options = options;
  }

  /** To be given to the one who dials. Tells nothing before `attach` and after `close` or `destroy`. */
  get socketEvents(): ChannelSocketEvents {
    const { events, clock } = this.#options;
    const hears = (): boolean => {
      if (this.#socket === undefined || this.#isOver) return false;
      this.#liveness?.heard(clock.now());
      return true;
    };
    return {
      onMessage: (data) => {
        if (!hears()) return;
        events.message(data);
        this.#holdBackIfStuck();
      },
      onText: (text) => {
        if (!hears()) return;
        events.text(text);
        this.#holdBackIfStuck();
      },
      onActivity: () => {
        hears();
      },
      onDrain: () => {
        if (this.#socket === undefined || this.#isOver) return;
        this.#isHeldBack = false;
        this.#applyReading();
        events.drained();
      },
      onEnd: (end) => {
        if (this.#isOver) return;
        this.#earlyEnd ??= end;
        if (this.#socket !== undefined) this.#lose(end);
      },
    };
  }

  /** The socket is connected. It stays paused until `setPaused(false)`. */
  attach(socket: ChannelSocket, at: Instant): void {
    this.#socket = socket;
    this.#liveness = new Liveness({ keepaliveMs: this.#options.keepaliveMs }, at);
    this.#upAt = at.now;
    this.#isPaused = true;
  }

  /** Tells of an end that came before `attach`. */
  checkEnd(): void {
    if (this.#earlyEnd !== undefined && !this.#isOver) this.#lose(this.#earlyEnd);
  }

  transmit(frame: Uint8Array): void {
    if (!this.#isOver) this.#socket?.sendBinary(frame);
  }

  transmitText(text: string): void {
    if (!this.#isOver) this.#socket?.sendText(text);
  }

  flush(): void {
    if (!this.#isOver) this.#socket?.flush();
  }

  /** Bytes that were transmitted but have not left the process. */
  get unsentBytes(): number {
    return this.#socket?.bufferedBytes ?? 0;
  }

  setPaused(isPaused: boolean): void {
    if (this.#isPaused === isPaused) return;
    this.#isPaused = isPaused;
    // The silence so far was our own doing.
    if (!isPaused) this.#liveness?.heard(this.#options.clock.now());
    this.#applyReading();
  }

  /** Something suggests that the connection may be dead: asks at once. */
  probe(at: Instant): void {
    if (!this.#isReading) return;
    this.#liveness?.probe(at.now);
    this.#socket?.ping();
  }

  /** Probes if the process seems to have stood still since the last look. */
  probeAfterSleep(at: Instant): void {
    if (this.#liveness?.suspectSleep(at) === true) this.probe(at);
  }

  /** When to call `look`. */
  get lookAt(): number | undefined {
    return this.#isOver ? undefined : this.#liveness?.lookAt;
  }

  look(at: Instant, isWaiting: boolean): Verdict {
    if (this.#liveness === undefined || at.now < this.#liveness.lookAt) return 'alive';
    const verdict = this.#liveness.look(at, { isReading: this.#isReading, isWaiting });
    if (verdict === 'ping') this.#socket?.ping();
    return this.#isStuck(at.now) ? 'dead' : verdict;
  }

  /** The peer did something that only a working channel does. */
  noteProgress(): void {
    this.#hasProgressed = true;
  }

  /** Whether the connection has worked, so that its loss is a new one. */
  isProven(now: number): boolean {
    return this.#hasProgressed || now - this.#upAt >= provenAfterMs;
  }

  /** Says goodbye, after what was transmitted: acknowledgements that the agent may wait for. */
  close(code: number): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#socket?.close(code);
  }

  destroy(): void {
    this.#isOver = true;
    this.#socket?.destroy();
  }

  get #isReading(): boolean {
    return !this.#isPaused && !this.#isHeldBack;
  }

  #lose(end: SocketEnd): void {
    this.destroy();
    this.#options.events.lost(end);
  }

  #applyReading(): void {
    if (this.#isOver) return;
    if (this.#isReading) this.#socket?.resume();
    else this.#socket?.pause();
  }

  #holdBackIfStuck(): void {
    if (this.#isOver || this.#isHeldBack || this.unsentBytes < maxUnsentBytes) return;
    this.#socket?.flush();
    this.#isHeldBack = true;
    this.#leastUnsent = this.unsentBytes;
    this.#leastUnsentAt = this.#options.clock.now();
    this.#applyReading();
  }

  #isStuck(now: number): boolean {
    if (!this.#isHeldBack) return false;
    if (this.unsentBytes < this.#leastUnsent) {
      this.#leastUnsent = this.unsentBytes;
      this.#leastUnsentAt = now;
    }
    return now - this.#leastUnsentAt >= stuckLimitMs;
  }
}
