import type { BridgeError } from '../errors.ts';
import {
  MuxSession,
  SMUX_KEEP_ALIVE_MS,
  defaultMuxLimits,
  type MuxLimits,
  type MuxOutput,
} from '../protocol/smux.ts';
import type { Clock } from '../transport/clock.ts';
import type { ChannelConsumer, ChannelInfo, PayloadSource } from '../transport/channel.ts';
import type { DataChannel } from '../transport/data-channel.ts';

/** What one stream tells its owner. After `finished`, `expired` or `abandon` nothing more is called. */
export interface StreamEvents {
  /** Report the bytes with `consumed` once they are taken; they may be kept without copying. */
  data(bytes: Uint8Array): void;
  writable(): void;
  /** The destination closed, or was never reached. */
  finished(isRefused: boolean): void;
  /** We had ended our side and the destination stayed silent: closed. */
  expired(): void;
}

export interface MuxStream {
  /** Keeps `bytes`. False: wait for `writable`. */
  write(bytes: Uint8Array): boolean;
  /** No more will be written; the answer is still read. */
  end(): void;
  /** Drops the stream. */
  abandon(): void;
  consumed(length: number): void;
}

export interface MuxChannelOptions {
  readonly clock: Clock;
  readonly limits?: Partial<MuxLimits>;
  readonly opened: (info: ChannelInfo) => void;
  /** The multiplexing broke; the session is of no more use. */
  readonly failed: (error: BridgeError) => void;
  readonly notice: (text: string) => void;
}

type ChannelControls = Pick<DataChannel, 'sourceReady' | 'pauseReceiving' | 'resumeReceiving'>;

/** Many streams over one data channel: the multiplexing core with its timer and its back-pressure. */
export class MuxChannel implements PayloadSource, ChannelConsumer {
  readonly #options: MuxChannelOptions;
  readonly #streams = new Map<number, StreamEvents>();
  #mux: MuxSession | undefined;
  #channel: ChannelControls | undefined;
  #isPaused = false;
  #isReadyQueued = false;
  #isDisposed = false;
  #timer: { readonly at: number; readonly cancel: () => void } | undefined;

  constructor(options: MuxChannelOptions) {
    this.#options = options;
  }

  /** The channel is made with this object, so it can only be named afterwards. */
  attach(channel: ChannelControls): void {
    this.#channel = channel;
  }

  /** A new stream; undefined when there are too many, or no session (any more). */
  openStream(events: StreamEvents): MuxStream | undefined {
    const mux = this.#mux;
    const streamId = mux?.openStream();
    if (mux === undefined || streamId === undefined) return undefined;
    const { clock } = this.#options;
    this.#streams.set(streamId, events);
    this.#ready();
    return {
      write: (bytes) => {
        const hasRoom = mux.write(streamId, bytes);
        this.#ready();
        return hasRoom;
      },
      end: () => {
        mux.endStream(streamId, clock.now());
        this.#arm();
      },
      abandon: () => {
        this.#streams.delete(streamId);
        mux.abandonStream(streamId);
        this.#ready();
        this.#applyPause();
      },
      consumed: (length) => {
        mux.consumed(streamId, length);
        this.#applyPause();
      },
    };
  }

  pull(maxBytes: number): Uint8Array | undefined {
    if (this.#mux === undefined) return undefined;
    const { payload, outputs } = this.#mux.pull(maxBytes, this.#options.clock.now());
    this.#applyAll(outputs);
    return payload;
  }

  opened(info: ChannelInfo): void {
    const { clock, limits } = this.#options;
    if (info.mode === 'mux') {
      const keepAliveMs = info.smuxKeepAlive ? SMUX_KEEP_ALIVE_MS : undefined;
      this.#mux = new MuxSession({ ...defaultMuxLimits, keepAliveMs, ...limits }, clock.now());
      this.#arm();
    }
    this.#options.opened(info);
  }

  deliver(payload: Uint8Array): void {
    if (this.#mux === undefined) return;
    this.#applyAll(this.#mux.receive(payload, this.#options.clock.now()));
    // The answer to a FIN is a FIN.
    this.#ready();
    this.#applyPause();
  }

  flag(value: number): void {
    this.#mux?.receiveFlag(value);
  }

  publication(): void {
    // The agent's side of the channel comes and goes by itself.
  }

  notice(text: string): void {
    this.#options.notice(text);
  }

  dispose(): void {
    this.#isDisposed = true;
    this.#timer?.cancel();
    this.#timer = undefined;
    this.#streams.clear();
  }

  #applyAll(outputs: readonly MuxOutput[]): void {
    for (const output of outputs) this.#apply(output);
    this.#arm();
  }

  #apply(output: MuxOutput): void {
    if (output.kind === 'failed') {
      this.#options.failed(output.error);
      return;
    }
    const events = this.#streams.get(output.streamId);
    switch (output.kind) {
      case 'data':
        events?.data(output.bytes);
        return;
      case 'writable':
        events?.writable();
        return;
      case 'finished':
        this.#streams.delete(output.streamId);
        events?.finished(output.refused);
        return;
      case 'expired':
        this.#streams.delete(output.streamId);
        events?.expired();
        return;
    }
  }

  /** Not at once: this may be called from inside the channel, while it works through its own outputs. */
  #ready(): void {
    if (this.#isReadyQueued) return;
    this.#isReadyQueued = true;
    queueMicrotask(() => {
      this.#isReadyQueued = false;
      if (!this.#isDisposed) this.#channel?.sourceReady();
    });
  }

  #applyPause(): void {
    const isWanted = this.#mux?.wantsReceivingPaused === true;
    if (isWanted === this.#isPaused) return;
    this.#isPaused = isWanted;
    if (isWanted) this.#channel?.pauseReceiving();
    else this.#channel?.resumeReceiving();
  }

  #arm(): void {
    const at = this.#mux?.nextWakeAt();
    if (this.#isDisposed || at === undefined) return;
    if (this.#timer !== undefined && this.#timer.at <= at) return;
    this.#timer?.cancel();
    const { clock } = this.#options;
    const cancel = clock.setTimer(
      () => {
        this.#timer = undefined;
        this.#applyAll(this.#mux?.wake(clock.now()) ?? []);
        this.#ready();
      },
      Math.max(0, Math.ceil(at - clock.now())),
    );
    this.#timer = { at, cancel };
  }
}
