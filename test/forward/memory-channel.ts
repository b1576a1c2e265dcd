/**
 * A data channel without a network: payloads go straight to the emulated agent's smux server and back.
 * Lossless and in order, as the real channel is; pausing really stops the flow.
 */
import type { Duplex } from 'node:stream';
import type {
  ChannelConsumer,
  ChannelEnd,
  ChannelInfo,
  PayloadSource,
} from '../../src/transport/channel.ts';
import type { ForwardChannel } from '../../src/forward/forward-session.ts';
import { SmuxServer } from '../emulator/smux.ts';

export interface MemoryChannel extends ForwardChannel {
  readonly violations: readonly string[];
  readonly isPaused: boolean;
  readonly isTerminated: boolean;
  readonly payloadSizes: readonly number[];
  /** Ends the channel from the remote side. */
  end(end: ChannelEnd): void;
  /** Bytes as if from the agent. */
  inject(bytes: Uint8Array): void;
  probe(): void;
  readonly isSending: boolean;
}

export interface MemoryChannelOptions {
  readonly dial: () => Promise<Duplex>;
  readonly maxPayloadBytes?: number;
  readonly info?: Partial<ChannelInfo>;
}

export function memoryChannel(
  source: PayloadSource,
  consumer: ChannelConsumer,
  options: MemoryChannelOptions,
): MemoryChannel {
  const violations: string[] = [];
  const payloadSizes: number[] = [];
  let isPaused = false;
  let isTerminated = false;
  let isOver = false;
  let isStarted = false;
  let isBlocked = false;
  let resolveEnded: (end: ChannelEnd) => void = () => undefined;
  const ended = new Promise<ChannelEnd>((resolve) => {
    resolveEnded = resolve;
  });
  const over = (end: ChannelEnd): void => {
    if (isOver) return;
    isOver = true;
    server.destroy();
    resolveEnded(end);
  };
  const server = new SmuxServer({
    dial: options.dial,
    dialFailed: () => {
      consumer.flag(3);
    },
    violation: (text) => violations.push(text),
  });
  const isMux = options.info?.mode !== 'basic';
  server.on('data', (chunk: Buffer) => {
    for (let at = 0; at < chunk.length; at += 1024) {
      if (!isOver) consumer.deliver(Buffer.from(chunk.subarray(at, at + 1024)));
    }
  });
  server.pause();
  const pump = (): void => {
    if (!isStarted || isBlocked || isOver) return;
    for (;;) {
      const payload = source.pull(options.maxPayloadBytes ?? 16_384);
      if (payload === undefined) return;
      payloadSizes.push(payload.length);
      if (!isMux) continue;
      if (server.write(Buffer.from(payload))) continue;
      isBlocked = true;
      server.once('drain', () => {
        isBlocked = false;
        pump();
      });
      return;
    }
  };
  return {
    violations,
    payloadSizes,
    get isPaused() {
      return isPaused;
    },
    get isTerminated() {
      return isTerminated;
    },
    start() {
      setImmediate(() => {
        if (isOver) return;
        isStarted = true;
        consumer.opened({
          mode: 'mux',
          agentVersion: '3.3.0.0',
          properties: {},
          announcedVersion: '1.2.764.0',
          smuxKeepAlive: false,
          ...options.info,
        });
        if (!isPaused) server.resume();
        pump();
      });
    },
    sourceReady: pump,
    pauseReceiving() {
      isPaused = true;
      server.pause();
    },
    resumeReceiving() {
      isPaused = false;
      server.resume();
    },
    isSending: true,
    probe() {
      // Nothing to probe.
    },
    terminate() {
      isTerminated = true;
      over({ kind: 'terminated' });
    },
    ended,
    released: ended.then(() => undefined),
    end: over,
    inject: (bytes) => {
      consumer.deliver(bytes);
    },
  };
}
