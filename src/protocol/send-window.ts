/**
 * Stream messages that are sent and not yet acknowledged, and the decision which of them to send
 * again. Every entry is either queued (to go out on the present socket as soon as pacing allows) or
 * in flight. Nothing is ever given up: a missing acknowledgement usually means that the destination
 * does not read.
 *
 * Two things make a message go out again on a live socket. A message sent clearly later was
 * acknowledged: then this one was lost. Or nothing was acknowledged for a while: then the
 * oldest message and the one that waits longest are sent, with the delay doubling each time. Both
 * look at the head of a list only, so that the cost does not depend on how much is in flight.
 */
import {
  MAX_RTO_MS,
  MAX_TIMER_BURST,
  MIN_REORDER_WINDOW_MS,
  SENDINGS_UNTIL_PRESUMED,
  SILENT_EXPIRIES,
  SMALL_PAYLOAD_BYTES,
} from './constants.ts';
import { MessageList, type SendEntry } from './message-list.ts';
import { RttEstimator } from './rtt.ts';

export class SendWindow {
  /** In order of sequence numbers, because that is the order of insertion. */
  readonly #entries = new Map<number, SendEntry>();
  readonly #queued = new MessageList();
  readonly #inFlight = new MessageList();
  readonly #rtt = new RttEstimator();
  #bytes = 0;
  #largeMessages = 0;
  /** When the latest-sent message that is known to have arrived was first sent on this socket. */
  #newestArrivedSentAt = Number.NEGATIVE_INFINITY;
  /** When the resend timer was last restarted, by an acknowledgement or by its own expiry. */
  #timerRestartedAt = Number.NEGATIVE_INFINITY;
  #expiries = 0;
  #timerBurst = 1;
  #presumesSilentArrival = false;
  #wantsProbe = false;
  readonly #onForgotten: (frame: Uint8Array) => void;

  /** `onForgotten` is told of each frame that will not be sent again. */
  constructor(onForgotten: (frame: Uint8Array) => void = ignore) {
    this.#onForgotten = onForgotten;
  }

  get messages(): number {
    return this.#entries.size;
  }

  get bytes(): number {
    return this.#bytes;
  }

  /** Whether a payload is unacknowledged that is larger than what passes everywhere. */
  get hasLarge(): boolean {
    return this.#largeMessages > 0;
  }

  get hasQueued(): boolean {
    return this.#queued.head !== undefined;
  }

  get resendAfterMs(): number {
    return this.#rtt.resendAfterMs;
  }

  /** Whether only a new message can show if those in flight have arrived; see below. */
  get wantsProbe(): boolean {
    return this.#wantsProbe;
  }

  /** Remembers a message; it is queued until `sendNext` or `markSent` says that it went out. */
  add(seq: number, frame: Uint8Array, payloadBytes: number): SendEntry {
    const entry: SendEntry = {
      seq,
      frame,
      payloadBytes,
      transmissions: 0,
      transmissionsOnSocket: 0,
      firstSentAt: 0,
      lastSentAt: 0,
      orderedAt: 0,
      list: undefined,
      previous: undefined,
      next: undefined,
    };
    this.#entries.set(seq, entry);
    this.#bytes += payloadBytes;
    if (payloadBytes > SMALL_PAYLOAD_BYTES) this.#largeMessages += 1;
    this.#queued.append(entry);
    this.#wantsProbe = false;
    return entry;
  }

  /** The bytes of the first queued message, which is from now on in flight. */
  sendNext(now: number): Uint8Array | undefined {
    const entry = this.#queued.head;
    if (entry === undefined) return undefined;
    this.markSent(entry, now);
    return entry.frame;
  }

  markSent(entry: SendEntry, now: number): void {
    entry.transmissions += 1;
    entry.transmissionsOnSocket += 1;
    if (entry.transmissionsOnSocket === 1) entry.firstSentAt = now;
    entry.lastSentAt = now;
    entry.orderedAt = now;
    this.#inFlight.append(entry);
  }

  /** Forgets an acknowledged message and queues those it proves lost. False if there is none. */
  acknowledge(seq: number, now: number): boolean {
    const entry = this.#entries.get(seq);
    if (entry === undefined) return false;
    this.#forget(entry);
    if (entry.transmissions === 1 && entry.transmissionsOnSocket === 1) {
      this.#rtt.sample(Math.max(0, now - entry.firstSentAt));
      this.#timerBurst = 1;
    } else {
      // The resend seems to have helped; others may be lost with it.
      this.#timerBurst = Math.min(MAX_TIMER_BURST, this.#timerBurst * 2);
    }
    this.#timerRestartedAt = now;
    this.#expiries = 0;
    this.#wantsProbe = false;
    // The first sending, not the last: the acknowledgement may be late rather than of the resend.
    if (entry.transmissionsOnSocket > 0 && entry.firstSentAt > this.#newestArrivedSentAt) {
      this.#newestArrivedSentAt = entry.firstSentAt;
      this.#queueOvertaken(now);
    }
    return true;
  }

  /** When to resend for lack of acknowledgements. */
  resendAt(): number | undefined {
    const head = this.#inFlight.head;
    if (head === undefined) return undefined;
    const delay = Math.min(MAX_RTO_MS, this.#rtt.resendAfterMs * 2 ** this.#expiries);
    return Math.max(head.orderedAt, this.#timerRestartedAt) + delay;
  }

  /** Queues what the resend timer says is due. */
  expire(now: number): void {
    const resendAt = this.resendAt();
    if (resendAt === undefined || now < resendAt) return;
    const sentBefore = now - this.#rtt.resendAfterMs;
    // The one that was sent first is what a receiver with a full buffer waits for; the one that has
    // waited longest may be lost behind a first one that is never acknowledged again.
    const [oldest] = this.#entries.values();
    if (oldest?.list === this.#inFlight) this.#queued.append(oldest);
    for (let count = 0; count < this.#timerBurst; count += 1) {
      const head = this.#inFlight.head;
      if (head === undefined || head.orderedAt > sentBefore) break;
      this.#queued.append(head);
    }
    this.#timerRestartedAt = now;
    // Beyond this the delay is at its bound whatever the estimate.
    this.#expiries = Math.min(this.#expiries + 1, 8);
    this.#wantsProbe = this.#presumesSilentArrival && this.#expiries >= SILENT_EXPIRIES;
  }

  /**
   * For agents that ignore duplicates: an acknowledgement lost with a socket never comes again, and
   * such messages would fill the window for good. Once the agent is known to process data, one that
   * it ignores again and again while it acknowledges later ones has arrived before. The oldest may
   * instead be the one the agent cannot process yet, so that one is never presumed. When the window
   * is full of such messages there is nothing later to be acknowledged: `wantsProbe` asks for it.
   */
  presumeSilentArrival(): void {
    this.#presumesSilentArrival = true;
    // What was sent before proves nothing: the agent could not process it then.
    for (const entry of this.#entries.values()) entry.transmissionsOnSocket = 0;
  }

  /** A new socket: everything unacknowledged is queued again, in order. Linear, once per socket. */
  requeueAll(): void {
    for (const entry of this.#entries.values()) {
      entry.transmissionsOnSocket = 0;
      this.#queued.append(entry);
    }
    this.#expiries = 0;
    this.#timerBurst = 1;
  }

  /** Each look at the head either queues it or puts it off by a round trip, so this ends. */
  #queueOvertaken(now: number): void {
    const smoothed = this.#rtt.smoothedMs ?? 0;
    const sentBefore = this.#newestArrivedSentAt - Math.max(MIN_REORDER_WINDOW_MS, smoothed / 4);
    for (;;) {
      const head = this.#inFlight.head;
      if (head === undefined || head.orderedAt >= sentBefore) return;
      if (now - head.lastSentAt >= this.#patienceMs(head)) {
        if (this.#isPresumedArrived(head)) this.#forget(head);
        else this.#queued.append(head);
      } else {
        head.orderedAt = Math.max(now, sentBefore);
        this.#inFlight.append(head);
      }
    }
  }

  /** Old agents never acknowledge some duplicates; resending one each round trip would be a flood. */
  #patienceMs(entry: SendEntry): number {
    if (entry.transmissionsOnSocket < 2) return 0;
    const doublings = Math.min(entry.transmissionsOnSocket - 2, 8);
    return Math.min(MAX_RTO_MS, this.#rtt.resendAfterMs * 2 ** doublings);
  }

  #isPresumedArrived(entry: SendEntry): boolean {
    if (!this.#presumesSilentArrival) return false;
    if (entry.transmissionsOnSocket < SENDINGS_UNTIL_PRESUMED) return false;
    const [oldestSeq] = this.#entries.keys();
    return entry.seq !== oldestSeq;
  }

  #forget(entry: SendEntry): void {
    this.#entries.delete(entry.seq);
    this.#bytes -= entry.payloadBytes;
    if (entry.payloadBytes > SMALL_PAYLOAD_BYTES) this.#largeMessages -= 1;
    entry.list?.remove(entry);
    this.#onForgotten(entry.frame);
  }
}

function ignore(): void {
  // The frame is left to the garbage collector.
}
