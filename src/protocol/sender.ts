/**
 * The outgoing half of a session: numbers stream messages, remembers them until they are
 * acknowledged, and says what may go out when. It knows nothing of handshakes; what it hands out is
 * to be transmitted at once.
 */
import { encodeStreamMessage } from './codec.ts';
import {
  CLOSE_TOO_BIG,
  MAX_PROBES,
  MAX_TOO_BIG_CLOSES,
  PAYLOAD_OFFSET,
  PAYLOAD_TYPE,
  SMALL_PAYLOAD_BYTES,
  STREAM_FLAGS,
} from './constants.ts';
import { FramePool } from './frame-pool.ts';
import type { Instant } from './output.ts';
import { Pacer } from './pacer.ts';
import { PayloadSize } from './payload-size.ts';
import { SendWindow } from './send-window.ts';
import type { MessageIdSource } from './uuid.ts';

export interface SenderOptions {
  readonly maxPayloadBytes: number;
  readonly maxInFlightBytes: number;
  readonly maxInFlightMessages: number;
  readonly messagesPerSecond: number;
}

/** What keeps data from going out: nothing, time, or some input (an acknowledgement, a socket). */
export type SendObstacle = 'nothing' | 'pacing' | 'input';

export class Sender {
  readonly #options: SenderOptions;
  readonly #ids: MessageIdSource;
  readonly #frames: FramePool;
  readonly #window: SendWindow;
  readonly #payloadSize: PayloadSize;
  readonly #pacer: Pacer;
  #nextSeq = 0;
  #isUp = false;
  #tooBigCloses = 0;

  constructor(options: SenderOptions, ids: MessageIdSource) {
    this.#options = options;
    this.#ids = ids;
    this.#frames = new FramePool(PAYLOAD_OFFSET + options.maxPayloadBytes);
    this.#window = new SendWindow((frame) => {
      this.#frames.give(frame);
    });
    this.#payloadSize = new PayloadSize(options.maxPayloadBytes);
    this.#pacer = new Pacer(options.messagesPerSecond);
  }

  get unackedMessages(): number {
    return this.#window.messages;
  }

  get unackedBytes(): number {
    return this.#window.bytes;
  }

  get resendAfterMs(): number {
    return this.#window.resendAfterMs;
  }

  /** The number the next message will have. */
  get nextSeq(): number {
    return this.#nextSeq;
  }

  /** Everything unacknowledged is due again, in order. */
  socketOpened(): void {
    this.#isUp = true;
    this.#window.requeueAll();
  }

  /** False when the service has refused the size of what must be sent again: replay cannot help. */
  socketLost(closeCode: number | undefined): boolean {
    this.#isUp = false;
    const { hasLarge } = this.#window;
    this.#payloadSize.socketLost(closeCode, hasLarge);
    if (closeCode === CLOSE_TOO_BIG && hasLarge) this.#tooBigCloses += 1;
    return this.#tooBigCloses < MAX_TOO_BIG_CLOSES;
  }

  /**
   * Remembers a message, then gives its frame if there is a socket to send it on. Handshake and flags
   * do not wait for pacing but count towards it.
   */
  add(payloadType: number, payload: Uint8Array, at: Instant): Uint8Array | undefined {
    const seq = this.#nextSeq;
    this.#nextSeq += 1;
    if (payloadType === PAYLOAD_TYPE.output) this.#payloadSize.sent(payload.length);
    const frame = encodeStreamMessage(
      {
        messageType: 'input_stream_data',
        seq,
        flags: STREAM_FLAGS,
        createdAt: at.wallNow,
        payloadType,
        payload,
      },
      this.#ids,
      (size) => this.#frames.take(size),
    );
    const entry = this.#window.add(seq, frame, payload.length);
    if (!this.#isUp) return undefined;
    this.#pacer.take(at.now);
    this.#window.markSent(entry, at.now);
    return frame;
  }

  /** False when the number is unknown, or was acknowledged before. */
  acknowledge(seq: number, now: number): boolean {
    if (!this.#window.acknowledge(seq, now)) return false;
    this.#payloadSize.acknowledged();
    this.#tooBigCloses = 0;
    return true;
  }

  /** The next message to be sent again, if one is due and pacing allows; call until undefined. */
  takeDue(now: number): Uint8Array | undefined {
    if (!this.#pacer.isReady(now)) return undefined;
    const frame = this.#window.sendNext(now);
    if (frame !== undefined) this.#pacer.take(now);
    return frame;
  }

  /** Makes due what has waited for its acknowledgement for too long. */
  expire(now: number): void {
    this.#window.expire(now);
  }

  /** When `expire` or `takeDue` has something to do. */
  get dueAt(): number | undefined {
    return this.#window.hasQueued ? this.#pacer.readyAt() : this.#window.resendAt();
  }

  /** When pacing lets data through. */
  get paceAt(): number {
    return this.#pacer.readyAt();
  }

  /** What keeps new data from going out now. */
  obstacle(now: number): SendObstacle {
    if (!this.#isUp || this.#window.hasQueued || this.roomBytes === 0) return 'input';
    return this.#pacer.isReady(now) ? 'nothing' : 'pacing';
  }

  /** Room in the window for one payload: a whole one or none, so that sizes do not dwindle. */
  get roomBytes(): number {
    const { messages, bytes, wantsProbe } = this.#window;
    const { maxInFlightBytes, maxInFlightMessages } = this.#options;
    const limit = this.#payloadSize.limit(messages);
    if (messages === 0) return Math.min(limit, maxInFlightBytes);
    if (messages < maxInFlightMessages && bytes + limit <= maxInFlightBytes) return limit;
    const mayProbe = wantsProbe && messages < maxInFlightMessages + MAX_PROBES;
    return mayProbe ? Math.min(limit, SMALL_PAYLOAD_BYTES) : 0;
  }

  /** The agent ignores duplicates and has shown that it processes data; see SendWindow. */
  presumeSilentArrival(): void {
    this.#window.presumeSilentArrival();
  }
}
