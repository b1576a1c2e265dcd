import { closeSync, openSync } from 'node:fs';
import { Socket } from 'node:net';
import { devNull } from 'node:os';
import type { Writable } from 'node:stream';
import { isPipeOrSocket } from './input.ts';

export interface OutputEvents {
  /** More is queued than the reader takes; stop delivering until onDrained. */
  onFull(): void;
  onDrained(): void;
  /** Nobody reads any more. */
  onBroken(): void;
}

/** Queued bytes at which the channel is told to wait. Bounds what a stopped reader can make us hold. */
const fullAtBytes = 1024 * 1024;

/** Standard output: payload bytes and nothing else, in order, never more queued than about 1 MiB. */
export class Output {
  readonly #fd: number;
  readonly #events: OutputEvents;
  readonly #stream: Writable;
  #chunks: Uint8Array[] = [];
  #chunkBytes = 0;
  #turn: NodeJS.Immediate | undefined;
  #state: 'open' | 'full' | 'broken' | 'closed' = 'open';
  #waiters: (() => void)[] = [];

  constructor(fd: number, events: OutputEvents) {
    this.#fd = fd;
    this.#events = events;
    this.#stream = isPipeOrSocket(fd)
      ? new Socket({ fd, readable: false, writable: true })
      : process.stdout;
    this.#stream.on('error', () => {
      this.#broken();
    });
    this.#stream.on('close', () => {
      this.#broken();
    });
  }

  /** Keeps `payload` until it is written; everything of one event-loop turn goes out together. */
  write(payload: Uint8Array): void {
    if (this.#state === 'broken' || this.#state === 'closed') return;
    this.#chunks.push(payload);
    this.#chunkBytes += payload.length;
    this.#turn ??= setImmediate(() => {
      this.#turn = undefined;
      this.#flush();
    });
    if (this.#state === 'open' && this.#chunkBytes + this.#stream.writableLength >= fullAtBytes) {
      this.#state = 'full';
      this.#events.onFull();
    }
  }

  /** Resolves when everything written so far has left the process, or nobody reads any more. */
  flushed(): Promise<void> {
    this.#flush();
    if (this.#isIdle()) return Promise.resolve();
    return new Promise((resolve) => {
      this.#waiters.push(resolve);
    });
  }

  /**
   * Lets the reader see the end of the stream. Node never closes descriptors 0 to 2 by itself, and
   * the number must not fall to some other file: the null device takes its place.
   */
  close(): void {
    if (this.#state === 'closed') return;
    this.#state = 'closed';
    this.#chunks = [];
    clearImmediate(this.#turn);
    this.#settleWaiters();
    this.#stream.destroy();
    replaceWithNull(this.#fd);
  }

  #flush(): void {
    if (this.#chunks.length === 0 || this.#state === 'broken' || this.#state === 'closed') return;
    const chunks = this.#chunks;
    this.#chunks = [];
    this.#chunkBytes = 0;
    this.#stream.cork();
    chunks.forEach((chunk, index) => {
      if (index === chunks.length - 1) this.#stream.write(chunk, this.#onWritten);
      else this.#stream.write(chunk);
    });
    this.#stream.uncork();
  }

  /** Called when all that was written before it has been taken. */
  readonly #onWritten = (): void => {
    if (this.#isIdle()) this.#drained();
  };

  #isIdle(): boolean {
    if (this.#state === 'broken' || this.#state === 'closed') return true;
    return this.#chunks.length === 0 && this.#stream.writableLength === 0;
  }

  #drained(): void {
    this.#settleWaiters();
    if (this.#state !== 'full') return;
    this.#state = 'open';
    this.#events.onDrained();
  }

  #broken(): void {
    if (this.#state === 'broken' || this.#state === 'closed') return;
    this.#state = 'broken';
    this.#chunks = [];
    this.#settleWaiters();
    this.#events.onBroken();
  }

  #settleWaiters(): void {
    if (!this.#isIdle()) return;
    const waiters = this.#waiters;
    this.#waiters = [];
    for (const resolve of waiters) resolve();
  }
}

/** Closes `fd`, so that whoever waits for its other end goes on, and keeps the number occupied. */
export function replaceWithNull(fd: number): void {
  try {
    closeSync(fd);
  } catch {
    // It was closed already; then the next line fills the gap.
  }
  try {
    // The lowest free descriptor is the one just closed, because those below it are open.
    openSync(devNull, 'r+');
  } catch {
    // No null device (a bare chroot): nothing else is opened after this that could matter.
  }
}
