import type { BridgeError } from '../errors.ts';
import { SMUX_HEADER_BYTES, SMUX_MAX_SENT_DATA } from '../protocol/smux-frame.ts';
import {
  MuxSession,
  SMUX_KEEP_ALIVE_MS,
  defaultMuxLimits,
  type MuxOutput,
} from '../protocol/smux.ts';
import type { Clock } from '../transport/clock.ts';
import type {
  ChannelConsumer,
  ChannelEnd,
  ChannelInfo,
  PayloadSource,
} from '../transport/channel.ts';
import type { DataChannel } from '../transport/data-channel.ts';
import { forwardingDocument, type SessionDocument } from './destination.ts';
import { explainEnd, refused, silent } from './unreachable.ts';

/**
 * How long an sshd may take to introduce itself. It speaks first (RFC 4253, 4.2), so silence means that
 * the node's packets are being dropped: the agent's own attempt has no time limit and reports nothing.
 */
const answerLimitMs = 10_000;

/** What a relay needs of its remote side; a data channel is one. */
export type Channel = Pick<
  DataChannel,
  | 'start'
  | 'sourceReady'
  | 'pauseReceiving'
  | 'resumeReceiving'
  | 'isSending'
  | 'probe'
  | 'terminate'
  | 'ended'
  | 'released'
>;

export interface ViaOptions {
  /** The relay's side: raw bytes. */
  readonly source: PayloadSource;
  readonly consumer: ChannelConsumer;
  /** Makes the data channel that carries the connection. */
  readonly openChannel: (source: PayloadSource, consumer: ChannelConsumer) => Channel;
  /** `host:port` and node id, for messages. */
  readonly destination: string;
  readonly node: string;
  readonly clock: Clock;
}

/** How StartSession is asked for a connection to `host:port` from a node. */
export function viaSession(host: string, port: number): SessionDocument {
  // Always the remote-host document: `localhost` is then a name on the node, as any other.
  return forwardingDocument({ host, port }, 0);
}

/**
 * One TCP connection from a node to a host behind it, as the remote side of a relay: one smux stream, or
 * the bare bytes when the agent does not multiplex. Ends when the destination closes, with
 * remote.unreachable when it could not be reached.
 */
export function createViaEndpoint(options: ViaOptions): Channel {
  const stream = new SingleStream(options);
  const channel = options.openChannel(stream, stream);
  stream.attach(channel);
  const ended = Promise.race([
    stream.destinationEnded,
    channel.ended.then((end) => explainEnd(end, options.destination, options.node)),
  ]);
  return {
    start: () => {
      channel.start();
    },
    sourceReady: () => {
      channel.sourceReady();
    },
    pauseReceiving: () => {
      channel.pauseReceiving();
    },
    resumeReceiving: () => {
      channel.resumeReceiving();
    },
    get isSending() {
      return channel.isSending;
    },
    probe: () => {
      channel.probe();
    },
    terminate: () => {
      stream.dispose();
      channel.terminate();
    },
    ended: ended.finally(() => {
      stream.dispose();
    }),
    released: channel.released,
  };
}

type Carriage =
  | { readonly kind: 'closed' }
  | { readonly kind: 'basic' }
  | { readonly kind: 'mux'; readonly mux: MuxSession; readonly streamId: number };

class SingleStream implements PayloadSource, ChannelConsumer {
  /** Settles when the destination is gone, or could not be reached. */
  readonly destinationEnded: Promise<ChannelEnd>;
  readonly #options: ViaOptions;
  #resolveEnded: (end: ChannelEnd) => void = ignore;
  #channel: Channel | undefined;
  #carriage: Carriage = { kind: 'closed' };
  #isOver = false;
  #isDisposed = false;
  #hasSent = false;
  #hasAnswered = false;
  #cancelKeepAlive: (() => void) | undefined;
  #cancelAnswer: (() => void) | undefined;

  constructor(options: ViaOptions) {
    this.#options = options;
    this.destinationEnded = new Promise((resolve) => {
      this.#resolveEnded = resolve;
    });
  }

  attach(channel: Channel): void {
    this.#channel = channel;
  }

  flag(value: number): void {
    if (this.#carriage.kind === 'mux') this.#carriage.mux.receiveFlag(value);
    this.#options.consumer.flag(value);
  }

  publication(isPaused: boolean): void {
    this.#options.consumer.publication(isPaused);
  }

  notice(text: string): void {
    this.#options.consumer.notice(text);
  }

  pull(maxBytes: number): Uint8Array | undefined {
    const { source, clock } = this.#options;
    const carriage = this.#carriage;
    if (carriage.kind === 'closed') return undefined;
    if (carriage.kind === 'basic') return this.#noteSent(source.pull(maxBytes));
    const { mux, streamId } = carriage;
    const announced = mux.pull(maxBytes, clock.now()).payload;
    if (announced !== undefined) return announced;
    if (this.#isOver) return undefined;
    // With very little room the frame is begun all the same; its rest follows in the next payload.
    // Never more than one frame: what stays queued would be a view that the source overwrites.
    const room = Math.min(SMUX_MAX_SENT_DATA, Math.max(1, maxBytes - SMUX_HEADER_BYTES));
    const bytes = this.#noteSent(source.pull(room));
    if (bytes === undefined) return undefined;
    mux.write(streamId, bytes);
    return mux.pull(maxBytes, clock.now()).payload;
  }

  /** Stops the timers. What the source still has can be sent all the same. */
  dispose(): void {
    this.#isDisposed = true;
    this.#cancelKeepAlive?.();
    this.#cancelAnswer?.();
  }

  opened(info: ChannelInfo): void {
    this.#beginStream(info);
    this.#options.consumer.opened(info);
  }

  #beginStream(info: ChannelInfo): void {
    if (info.mode === 'basic') {
      this.#carriage = { kind: 'basic' };
      return;
    }
    const keepAliveMs = info.smuxKeepAlive ? SMUX_KEEP_ALIVE_MS : undefined;
    const mux = new MuxSession({ ...defaultMuxLimits, keepAliveMs }, this.#options.clock.now());
    const streamId = mux.openStream();
    if (streamId === undefined) return;
    this.#carriage = { kind: 'mux', mux, streamId };
    this.#armKeepAlive(mux);
    this.#channel?.sourceReady();
  }

  deliver(payload: Uint8Array): void {
    const { consumer, clock } = this.#options;
    if (this.#carriage.kind !== 'mux') {
      this.#answered();
      consumer.deliver(payload);
      return;
    }
    const { mux } = this.#carriage;
    for (const output of mux.receive(payload, clock.now())) this.#apply(output, mux);
  }

  #apply(output: MuxOutput, mux: MuxSession): void {
    const { consumer, destination, node } = this.#options;
    switch (output.kind) {
      case 'data':
        this.#answered();
        mux.consumed(output.streamId, output.bytes.length);
        consumer.deliver(output.bytes);
        return;
      case 'finished':
        this.#over(output.refused ? refused(destination, node) : undefined);
        return;
      case 'failed':
        this.#over(output.error);
        return;
      case 'writable':
      case 'expired':
        // One stream, never ended by us, never queued: neither happens.
        return;
    }
  }

  #noteSent(bytes: Uint8Array | undefined): Uint8Array | undefined {
    if (bytes === undefined || this.#hasSent) return bytes;
    this.#hasSent = true;
    if (this.#hasAnswered || this.#isDisposed || !looksLikeSsh(bytes)) return bytes;
    const { clock, destination, node } = this.#options;
    this.#cancelAnswer = clock.setTimer(() => {
      this.#over(silent(destination, node, answerLimitMs / 1000));
    }, answerLimitMs);
    return bytes;
  }

  #answered(): void {
    this.#hasAnswered = true;
    this.#cancelAnswer?.();
    this.#cancelAnswer = undefined;
  }

  #over(error: BridgeError | undefined): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.dispose();
    this.#resolveEnded(
      error === undefined
        ? { kind: 'remote-closed', output: '', isIncomplete: false }
        : { kind: 'failed', error },
    );
  }

  #armKeepAlive(mux: MuxSession): void {
    const at = mux.nextWakeAt();
    if (at === undefined || this.#isDisposed) return;
    const { clock } = this.#options;
    this.#cancelKeepAlive = clock.setTimer(() => {
      mux.wake(clock.now());
      this.#channel?.sourceReady();
      this.#armKeepAlive(mux);
    }, at - clock.now());
  }
}

/** The beginning of an SSH client's first line (RFC 4253, 4.2). */
function looksLikeSsh(bytes: Uint8Array): boolean {
  return [0x53, 0x53, 0x48, 0x2d].every((byte, index) => bytes[index] === byte);
}

function ignore(): void {
  // Replaced by the promise's resolver in the constructor.
}
