/**
 * The client's side of one smux session (version 1), without I/O: bytes from the agent go in and
 * outputs come out; `pull` gives the next payload for the data channel.
 *
 * Guarantees: ids 3, 5, 7, … never reused; a stream's bytes leave in order; memory is bounded per
 * stream and in all; after the first malformed frame nothing is believed any more. Assumes that the
 * data channel below neither loses nor reorders.
 *
 * Two limits are the format's own. A FIN closes both directions at the agent, so a local half-close
 * is not passed on while the destination may still answer. And there is no window per stream: all
 * that a slow reader can do is stop the whole session (`wantsReceivingPaused`).
 */
import { BridgeError } from '../errors.ts';
import { SmuxReader, type SmuxEvent } from './smux-frame.ts';
import { SendQueue, SendScheduler } from './smux-scheduler.ts';

/** The value of the agent's Flag message for a destination it could not dial. */
export const CONNECT_TO_PORT_ERROR = 3;

export interface MuxLimits {
  /** The highest id to use. */
  readonly maxStreamId: number;
  /** Streams open at once. The agent queues up to 1024 that it has not served yet. */
  readonly maxStreams: number;
  /** Unsent bytes of one stream before `write` asks the writer to wait. */
  readonly maxQueuedBytes: number;
  /** Unsent bytes of all streams together; shared out, but every stream keeps `minQueuedBytes`. */
  readonly maxTotalQueuedBytes: number;
  readonly minQueuedBytes: number;
  /** Pieces in one stream's queue, whatever their size. */
  readonly maxQueuedChunks: number;
  /** Received bytes of one stream that its reader has not taken, before all receiving pauses. */
  readonly maxStreamUnreadBytes: number;
  readonly maxTotalUnreadBytes: number;
  /** How long a stream that only the local side has ended may stay silent before its FIN is sent. */
  readonly halfCloseGraceMs: number;
  /** Interval of keep-alive frames; undefined for agents that need none. */
  readonly keepAliveMs: number | undefined;
}

export const defaultMuxLimits: MuxLimits = {
  maxStreamId: 0xffff_ffff,
  maxStreams: 1000,
  maxQueuedBytes: 256 * 1024,
  maxTotalQueuedBytes: 16 * 1024 * 1024,
  minQueuedBytes: 16 * 1024,
  maxQueuedChunks: 1024,
  maxStreamUnreadBytes: 4 * 1024 * 1024,
  maxTotalUnreadBytes: 16 * 1024 * 1024,
  halfCloseGraceMs: 30_000,
  keepAliveMs: undefined,
};

/** Agents that need keep-alive close the session after 30 s of silence; the reference client's interval. */
export const SMUX_KEEP_ALIVE_MS = 10_000;

export type MuxOutput =
  /** A view of what was received. Report it with `consumed` once the reader has taken it. */
  | { readonly kind: 'data'; readonly streamId: number; readonly bytes: Uint8Array }
  /** The peer closed the stream: nothing more comes, and what was not sent is dropped. */
  | { readonly kind: 'finished'; readonly streamId: number; readonly refused: boolean }
  /** `write` had asked to wait; there is room again. */
  | { readonly kind: 'writable'; readonly streamId: number }
  /** The local side had ended the stream and the peer stayed silent: it is closed now. */
  | { readonly kind: 'expired'; readonly streamId: number }
  | { readonly kind: 'failed'; readonly error: BridgeError };

type StreamState =
  | { readonly kind: 'open' }
  /** The local side sends no more. `closeAt`: when to send FIN; undefined while bytes still wait. */
  | { readonly kind: 'half-closed'; readonly closeAt: number | undefined }
  /** Our FIN is queued. What still arrives is discarded. */
  | { readonly kind: 'closing' };

class Stream extends SendQueue {
  state: StreamState = { kind: 'open' };
  hasReceived = false;
  isWaitingToWrite = false;
}

export class MuxSession {
  readonly #limits: MuxLimits;
  readonly #reader = new SmuxReader();
  readonly #scheduler: SendScheduler<Stream>;
  readonly #streams = new Map<number, Stream>();
  /** Outlives the stream: a reader may still be busy with the last bytes. */
  readonly #unread = new Map<number, number>();
  #totalUnread = 0;
  #overfullReaders = 0;
  #nextStreamId = 3;
  #refusals = 0;
  #hasFailed = false;
  #pullOutputs: MuxOutput[] = [];
  #pullNow = 0;
  /** When to send the next keep-alive frame, if the agent needs any. */
  #keepAliveAt: number;

  constructor(limits: MuxLimits, now: number) {
    this.#limits = limits;
    this.#scheduler = new SendScheduler((stream, finSent) => {
      this.#noteServed(stream, finSent);
    });
    this.#keepAliveAt = limits.keepAliveMs === undefined ? Infinity : now + limits.keepAliveMs;
  }

  get streamCount(): number {
    return this.#streams.size;
  }

  /** True while some reader, or all of them together, are too far behind. */
  get wantsReceivingPaused(): boolean {
    return this.#overfullReaders > 0 || this.#totalUnread >= this.#limits.maxTotalUnreadBytes;
  }

  /** A new stream's id; undefined when as many as allowed are open, or the session has failed. */
  openStream(): number | undefined {
    if (this.#hasFailed || this.#streams.size >= this.#limits.maxStreams) return undefined;
    if (this.#nextStreamId > this.#limits.maxStreamId) return undefined;
    const stream = new Stream(this.#nextStreamId);
    this.#nextStreamId += 2;
    this.#streams.set(stream.streamId, stream);
    this.#scheduler.activate(stream);
    return stream.streamId;
  }

  /**
   * Queues bytes without copying them. False: wait for `writable` before writing more. Bytes for a
   * stream that is closed already are dropped.
   */
  write(streamId: number, bytes: Uint8Array): boolean {
    const stream = this.#streams.get(streamId);
    if (stream?.state.kind !== 'open') return true;
    if (stream.isWaitingToWrite) {
      throw new BridgeError('internal', 'a stream was written to before it was writable again');
    }
    if (bytes.length > 0) {
      stream.push(bytes);
      this.#scheduler.activate(stream);
    }
    stream.isWaitingToWrite = !this.#hasRoom(stream, 1);
    return !stream.isWaitingToWrite;
  }

  /** The local side sends no more but still reads. */
  endStream(streamId: number, now: number): void {
    const stream = this.#streams.get(streamId);
    if (stream?.state.kind !== 'open') return;
    const closeAt = stream.isEmpty ? now + this.#limits.halfCloseGraceMs : undefined;
    stream.state = { kind: 'half-closed', closeAt };
  }

  /** The local side is gone: what waits either way is dropped. */
  abandonStream(streamId: number): void {
    this.consumed(streamId, this.#unread.get(streamId) ?? 0);
    const stream = this.#streams.get(streamId);
    if (stream !== undefined && stream.state.kind !== 'closing') this.#close(stream);
  }

  /** The reader has taken `length` bytes of the stream. */
  consumed(streamId: number, length: number): void {
    const before = this.#unread.get(streamId) ?? 0;
    const after = Math.max(0, before - length);
    this.#totalUnread -= before - after;
    const limit = this.#limits.maxStreamUnreadBytes;
    if (before >= limit && after < limit) this.#overfullReaders -= 1;
    if (after === 0) this.#unread.delete(streamId);
    else this.#unread.set(streamId, after);
  }

  receive(payload: Uint8Array, now: number): MuxOutput[] {
    if (this.#hasFailed) return [];
    const outputs: MuxOutput[] = [];
    for (const event of this.#reader.feed(payload)) this.#apply(event, now, outputs);
    return outputs;
  }

  /** The agent's Flag message. It names no stream: the FIN that follows it does. */
  receiveFlag(value: number): void {
    if (value === CONNECT_TO_PORT_ERROR) this.#refusals += 1;
  }

  /** The next payload, at most `maxBytes` long; a view that the next call overwrites. */
  pull(maxBytes: number, now: number): { payload: Uint8Array | undefined; outputs: MuxOutput[] } {
    this.#pullOutputs = [];
    this.#pullNow = now;
    const payload = this.#hasFailed ? undefined : this.#scheduler.pull(maxBytes);
    return { payload, outputs: this.#pullOutputs };
  }

  wake(now: number): MuxOutput[] {
    const outputs: MuxOutput[] = [];
    const { keepAliveMs } = this.#limits;
    if (keepAliveMs !== undefined && now >= this.#keepAliveAt) {
      this.#scheduler.queueNop();
      this.#keepAliveAt = now + keepAliveMs;
    }
    for (const [streamId, stream] of this.#streams) {
      const closeAt = closeTime(stream);
      if (closeAt === undefined || now < closeAt) continue;
      this.#close(stream);
      outputs.push({ kind: 'expired', streamId });
    }
    return outputs;
  }

  nextWakeAt(): number | undefined {
    if (this.#hasFailed) return undefined;
    let earliest = this.#keepAliveAt;
    for (const stream of this.#streams.values()) {
      earliest = Math.min(earliest, closeTime(stream) ?? Infinity);
    }
    return earliest === Infinity ? undefined : earliest;
  }

  #apply(event: SmuxEvent, now: number, outputs: MuxOutput[]): void {
    if (event.kind === 'malformed') {
      this.#hasFailed = true;
      outputs.push({ kind: 'failed', error: event.error });
      return;
    }
    // Only the client opens streams; a SYN or NOP from the agent asks for nothing.
    if (event.kind === 'syn' || event.kind === 'nop') return;
    const stream = this.#streams.get(event.streamId);
    if (stream === undefined || stream.state.kind === 'closing') return;
    if (event.kind === 'data') {
      stream.hasReceived = true;
      if (closeTime(stream) !== undefined) {
        stream.state = { kind: 'half-closed', closeAt: now + this.#limits.halfCloseGraceMs };
      }
      this.#noteUnread(event.streamId, event.bytes.length);
      outputs.push({ kind: 'data', streamId: event.streamId, bytes: event.bytes });
      return;
    }
    const refused = this.#refusals > 0 && !stream.hasReceived;
    if (refused) this.#refusals -= 1;
    this.#close(stream);
    outputs.push({ kind: 'finished', streamId: event.streamId, refused });
  }

  #noteUnread(streamId: number, length: number): void {
    const before = this.#unread.get(streamId) ?? 0;
    const limit = this.#limits.maxStreamUnreadBytes;
    if (before < limit && before + length >= limit) this.#overfullReaders += 1;
    this.#unread.set(streamId, before + length);
    this.#totalUnread += length;
  }

  #close(stream: Stream): void {
    stream.state = { kind: 'closing' };
    stream.discard();
    if (stream.synWaits) {
      // Never announced, so there is nothing to take back.
      stream.synWaits = false;
      this.#streams.delete(stream.streamId);
      return;
    }
    stream.finWaits = true;
    this.#scheduler.activate(stream);
  }

  #noteServed(stream: Stream, finSent: boolean): void {
    if (finSent) {
      this.#streams.delete(stream.streamId);
      return;
    }
    if (stream.state.kind === 'half-closed' && stream.isEmpty) {
      const closeAt = this.#pullNow + this.#limits.halfCloseGraceMs;
      stream.state = { kind: 'half-closed', closeAt };
    }
    if (stream.isWaitingToWrite && this.#hasRoom(stream, 2)) {
      stream.isWaitingToWrite = false;
      this.#pullOutputs.push({ kind: 'writable', streamId: stream.streamId });
    }
  }

  /** Whether less than 1/`divisor` of the stream's allowance is used. */
  #hasRoom(queue: SendQueue, divisor: number): boolean {
    const { maxQueuedBytes, maxTotalQueuedBytes, minQueuedBytes, maxQueuedChunks } = this.#limits;
    const share = Math.floor(maxTotalQueuedBytes / Math.max(1, this.#streams.size));
    const allowed = Math.max(minQueuedBytes, Math.min(maxQueuedBytes, share));
    return queue.bytes < allowed / divisor && queue.chunkCount < maxQueuedChunks / divisor;
  }
}

function closeTime(stream: Stream): number | undefined {
  return stream.state.kind === 'half-closed' ? stream.state.closeAt : undefined;
}
