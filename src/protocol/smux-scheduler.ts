/**
 * What waits to be sent, stream by stream, and whose turn it is.
 *
 * Round robin in two rings, as in FQ-CoDel (RFC 8290, section 4): a stream that had
 * nothing to send goes first, once, and joins the others behind it afterwards. So one keystroke
 * waits for no more than the payload being built, and no stream can starve another. Every turn is
 * bounded by a share of one payload.
 */
import {
  SMUX_HEADER_BYTES,
  SMUX_MAX_SENT_DATA,
  smuxCommand,
  writeSmuxHeader,
} from './smux-frame.ts';

/** A turn shorter than this spends too much of the payload on headers. */
const MIN_TURN_BYTES = 1024;
/** With less room than this a frame is not begun, unless the payload would stay empty. */
const MIN_FRAME_ROOM = SMUX_HEADER_BYTES + 32;

/** One stream's unsent part: SYN, then bytes, then FIN, each at most once. */
export class SendQueue {
  readonly streamId: number;
  #chunks: Uint8Array[] = [];
  #headOffset = 0;
  bytes = 0;
  synWaits = true;
  finWaits = false;
  place: 'resting' | 'fresh' | 'backlog' = 'resting';

  constructor(streamId: number) {
    this.streamId = streamId;
  }

  get chunkCount(): number {
    return this.#chunks.length;
  }

  get isEmpty(): boolean {
    return this.bytes === 0 && !this.synWaits && !this.finWaits;
  }

  push(chunk: Uint8Array): void {
    this.#chunks.push(chunk);
    this.bytes += chunk.length;
  }

  /** Moves `length` queued bytes to `target`; `length` is at most `bytes`. */
  moveTo(target: Uint8Array, offset: number, length: number): void {
    let done = 0;
    let consumed = 0;
    for (const chunk of this.#chunks) {
      const piece = chunk.subarray(this.#headOffset, this.#headOffset + length - done);
      target.set(piece, offset + done);
      done += piece.length;
      this.#headOffset += piece.length;
      if (this.#headOffset < chunk.length) break;
      consumed += 1;
      this.#headOffset = 0;
      if (done === length) break;
    }
    this.#chunks.splice(0, consumed);
    this.bytes -= done;
  }

  discard(): void {
    this.#chunks = [];
    this.#headOffset = 0;
    this.bytes = 0;
  }
}

/** The stream had a turn: its queue is shorter, or its FIN has gone. */
export type ServedListener<Queue> = (queue: Queue, finSent: boolean) => void;

export class SendScheduler<Queue extends SendQueue> {
  readonly #served: ServedListener<Queue>;
  readonly #fresh: Queue[] = [];
  readonly #backlog: Queue[] = [];
  #buffer = new Uint8Array(0);
  /** The end of a frame that did not fit in a very small payload. Always sent first. */
  #leftover = new Uint8Array(0);
  #nopWaits = false;

  constructor(served: ServedListener<Queue>) {
    this.#served = served;
  }

  queueNop(): void {
    this.#nopWaits = true;
  }

  /** The stream has something to send, or more than before. */
  activate(queue: Queue): void {
    if (queue.place !== 'resting') return;
    queue.place = 'fresh';
    this.#fresh.push(queue);
  }

  /** The next payload, at most `maxBytes`; a view that the next call overwrites. */
  pull(maxBytes: number): Uint8Array | undefined {
    if (maxBytes <= 0) return undefined;
    const buffer = this.#room(maxBytes);
    let used = this.#takeLeftover(buffer, maxBytes);
    if (this.#nopWaits && (used === 0 || maxBytes - used >= SMUX_HEADER_BYTES)) {
      this.#nopWaits = false;
      writeSmuxHeader(buffer, used, smuxCommand.nop, 0, 0);
      used += SMUX_HEADER_BYTES;
    }
    const share = Math.max(
      MIN_TURN_BYTES,
      Math.floor(maxBytes / Math.max(1, this.#fresh.length + this.#backlog.length)),
    );
    while (used === 0 || maxBytes - used >= MIN_FRAME_ROOM) {
      const queue = this.#fresh.shift() ?? this.#backlog.shift();
      if (queue === undefined) break;
      if (queue.isEmpty) {
        queue.place = 'resting';
        continue;
      }
      const isAlone = this.#fresh.length + this.#backlog.length === 0;
      const room = Math.max(maxBytes - used, MIN_FRAME_ROOM);
      const turnBytes = isAlone ? room : Math.min(share, room);
      used = this.#serve(queue, buffer, used, turnBytes);
    }
    if (used === 0) return undefined;
    if (used > maxBytes) this.#leftover = buffer.slice(maxBytes, used);
    return buffer.subarray(0, Math.min(used, maxBytes));
  }

  #serve(queue: Queue, buffer: Uint8Array, start: number, turnBytes: number): number {
    let at = start;
    const end = start + turnBytes;
    if (queue.synWaits) {
      queue.synWaits = false;
      writeSmuxHeader(buffer, at, smuxCommand.syn, 0, queue.streamId);
      at += SMUX_HEADER_BYTES;
    }
    const data = Math.min(queue.bytes, SMUX_MAX_SENT_DATA, end - at - SMUX_HEADER_BYTES);
    if (data > 0) {
      writeSmuxHeader(buffer, at, smuxCommand.psh, data, queue.streamId);
      queue.moveTo(buffer, at + SMUX_HEADER_BYTES, data);
      at += SMUX_HEADER_BYTES + data;
    }
    const finSent = queue.finWaits && queue.bytes === 0 && end - at >= SMUX_HEADER_BYTES;
    if (finSent) {
      queue.finWaits = false;
      writeSmuxHeader(buffer, at, smuxCommand.fin, 0, queue.streamId);
      at += SMUX_HEADER_BYTES;
    }
    // Even an emptied stream waits its turn among the others, or it could come first for ever.
    queue.place = 'backlog';
    this.#backlog.push(queue);
    this.#served(queue, finSent);
    return at;
  }

  #takeLeftover(buffer: Uint8Array, maxBytes: number): number {
    const taken = Math.min(this.#leftover.length, maxBytes);
    if (taken === 0) return 0;
    buffer.set(this.#leftover.subarray(0, taken));
    this.#leftover = this.#leftover.subarray(taken);
    return taken;
  }

  #room(maxBytes: number): Uint8Array {
    const wanted = maxBytes + MIN_FRAME_ROOM;
    if (this.#buffer.length < wanted) this.#buffer = new Uint8Array(wanted);
    return this.#buffer;
  }
}
