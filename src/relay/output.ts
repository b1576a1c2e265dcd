import { closeSync, openSync } from 'node:fs';
import { Socket } from 'node:net';
import { devNull } from 'node:os';
import type { Writable } from 'node:stream';
import { BridgeError, systemReason } from '../errors.ts';
import { isPipeOrSocket } from './input.ts';

export interface OutputEvents {
  /** More is queued than the reader takes; stop delivering until onDrained. */
  onFull(): void;
  onDrained(): void;
  /** Nobody reads any more. */
  onBroken(): void;
  /** It cannot be written although nobody left, as on a full disk: bytes are lost. */
  onFailed(error: BridgeError): void;
}

/** Queued bytes at which the channel is told to wait. Bounds what a stopped reader can make us hold. */
const fullAtBytes = 1024 * 1024;

/** Payloads are gathered in pieces of this size: what a Linux pipe holds. */
const slabBytes = 64 * 1024;

/** Slabs kept for reuse; an interactive session never needs a second one. */
const maxSpareSlabs = 16;

/** How a pipe, a socket and a terminal say that the other end has gone. */
const readerLeftCodes: readonly unknown[] = ['EPIPE', 'ECONNRESET', 'EIO'];

interface Slab {
  readonly bytes: Buffer;
  used: number;
}

/**
 * Standard output: payload bytes and nothing else, in order, never more queued than about 1 MiB.
 *
 * Payloads are copied. They are views into what was read from the socket, and a peer that sends them
 * one byte at a time would otherwise make each queued byte cost a whole read.
 */
export class Output {
  readonly #fd: number;
  readonly #events: OutputEvents;
  readonly #stream: Writable;
  #slabs: Slab[] = [];
  readonly #spare: Buffer[] = [];
  /** Everything that has not left the process, what is being written included. */
  #queuedBytes = 0;
  #isWriting = false;
  #turn: NodeJS.Immediate | undefined;
  #state: 'open' | 'full' | 'broken' | 'closed' = 'open';
  #waiters: (() => void)[] = [];

  constructor(fd: number, events: OutputEvents) {
    this.#fd = fd;
    this.#events = events;
    this.#stream = isPipeOrSocket(fd)
      ? new Socket({ fd, readable: false, writable: true })
      : process.stdout;
    this.#stream.on('error', (error) => {
      this.#broken(error);
    });
    this.#stream.on('close', () => {
      this.#broken();
    });
  }

  /** Everything of one event-loop turn goes out together. */
  write(payload: Uint8Array): void {
    if (!this.#isUsable()) return;
    this.#append(payload);
    if (!this.#isWriting) this.#turn ??= setImmediate(this.#onTurn);
    if (this.#state === 'open' && this.#queuedBytes >= fullAtBytes) {
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
    this.#over('closed');
    this.#stream.destroy();
    replaceWithNull(this.#fd);
  }

  #append(payload: Uint8Array): void {
    this.#queuedBytes += payload.length;
    for (let taken = 0; taken < payload.length;) {
      const slab = this.#slabWithRoom();
      const part = payload.subarray(taken, taken + slab.bytes.length - slab.used);
      slab.bytes.set(part, slab.used);
      slab.used += part.length;
      taken += part.length;
    }
  }

  #slabWithRoom(): Slab {
    const last = this.#slabs.at(-1);
    if (last !== undefined && last.used < last.bytes.length) return last;
    const slab = { bytes: this.#spare.pop() ?? Buffer.allocUnsafeSlow(slabBytes), used: 0 };
    this.#slabs.push(slab);
    return slab;
  }

  readonly #onTurn = (): void => {
    this.#turn = undefined;
    this.#flush();
  };

  /** One write at a time: while it lasts, what comes is gathered. */
  #flush(): void {
    if (this.#isWriting || this.#slabs.length === 0 || !this.#isUsable()) return;
    const slabs = this.#slabs;
    this.#slabs = [];
    this.#isWriting = true;
    this.#stream.cork();
    slabs.forEach((slab, index) => {
      const bytes = slab.bytes.subarray(0, slab.used);
      if (index < slabs.length - 1) this.#stream.write(bytes);
      else {
        this.#stream.write(bytes, (error) => {
          // The event 'error' comes later; whoever waits for the flush must not be told before it.
          if (error) this.#broken(error);
          else this.#written(slabs);
        });
      }
    });
    this.#stream.uncork();
  }

  #written(slabs: readonly Slab[]): void {
    this.#isWriting = false;
    if (!this.#isUsable()) return;
    for (const { bytes, used } of slabs) {
      this.#queuedBytes -= used;
      if (this.#spare.length < maxSpareSlabs) this.#spare.push(bytes);
    }
    this.#flush();
    if (this.#isIdle()) this.#settleWaiters();
    if (this.#state !== 'full' || this.#queuedBytes > fullAtBytes / 2) return;
    this.#state = 'open';
    this.#events.onDrained();
  }

  #isUsable(): boolean {
    return this.#state === 'open' || this.#state === 'full';
  }

  #isIdle(): boolean {
    return !this.#isUsable() || this.#queuedBytes === 0;
  }

  #broken(error?: NodeJS.ErrnoException): void {
    if (!this.#isUsable()) return;
    this.#over('broken');
    if (error === undefined || readerLeftCodes.includes(error.code)) this.#events.onBroken();
    else this.#events.onFailed(writeFailed(error));
  }

  #over(state: 'broken' | 'closed'): void {
    this.#state = state;
    this.#slabs = [];
    clearImmediate(this.#turn);
    this.#settleWaiters();
  }

  #settleWaiters(): void {
    const waiters = this.#waiters;
    this.#waiters = [];
    for (const resolve of waiters) resolve();
  }
}

function writeFailed(error: NodeJS.ErrnoException): BridgeError {
  return new BridgeError('local.io', `could not write to standard output: ${systemReason(error)}`, {
    hint: 'what has been written is incomplete; check where it goes, and the space left there',
    cause: error,
  });
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
