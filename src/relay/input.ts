import { fstatSync } from 'node:fs';
import { Socket, type OnReadOpts, type SocketConstructorOpts } from 'node:net';
import type { Readable } from 'node:stream';
import type { PayloadSource } from '../transport/data-channel.ts';

export interface InputEvents {
  /** Bytes can be pulled again. */
  onReady(): void;
  /** End of input, or a read error, which for a relay is the same thing. */
  onEnd(): void;
}

/**
 * Standard input as a source of payloads. Reading starts at once, so that an end of input is seen
 * even before there is a channel, and never runs more than one buffer ahead of what is pulled: that
 * buffer is all the memory and all the queueing delay this adds.
 */
export class Input implements PayloadSource {
  readonly #events: InputEvents;
  readonly #stream: Readable;
  #pending: Uint8Array | undefined;
  #hasEnded = false;
  #isDiscarding = false;
  #isPaused = false;

  constructor(fd: number, bufferBytes: number, events: InputEvents) {
    this.#events = events;
    this.#stream = isPipeOrSocket(fd) ? this.#openPipe(fd, bufferBytes) : this.#openOther();
    this.#stream.on('end', () => {
      this.#ended();
    });
    this.#stream.on('error', () => {
      this.#ended();
    });
    this.#stream.on('close', () => {
      this.#ended();
    });
  }

  /** Input is over and everything of it has been pulled. */
  get isDrained(): boolean {
    return this.#hasEnded && this.#pending === undefined;
  }

  get hasEnded(): boolean {
    return this.#hasEnded;
  }

  pull(maxBytes: number): Uint8Array | undefined {
    const pending = this.#pending;
    if (pending === undefined) return undefined;
    if (pending.length > maxBytes) {
      this.#pending = pending.subarray(maxBytes);
      return pending.subarray(0, maxBytes);
    }
    this.#pending = undefined;
    // The buffer is filled again by a later turn of the event loop, after the caller has copied.
    this.#resume();
    return pending;
  }

  /** Drops what comes from now on, but still notices the end. */
  discard(): void {
    this.#pending = undefined;
    this.#isDiscarding = true;
    this.#resume();
  }

  #resume(): void {
    if (!this.#isPaused) return;
    this.#isPaused = false;
    this.#stream.resume();
  }

  close(): void {
    this.#stream.destroy();
  }

  #openPipe(fd: number, bufferBytes: number): Socket {
    // The constructor takes onread as net.connect does; its type does not say so.
    const options: SocketConstructorOpts & { onread: OnReadOpts } = {
      fd,
      readable: true,
      writable: false,
      onread: {
        // One buffer for the life of the process: every chunk is copied into its message anyway.
        buffer: Buffer.allocUnsafeSlow(bufferBytes),
        callback: (size, buffer) => this.#received(buffer.subarray(0, size)),
      },
    };
    return new Socket(options);
  }

  /** Terminals, files and /dev/null: not a hot path, and only process.stdin knows all of them. */
  #openOther(): Readable {
    const stream = process.stdin;
    stream.on('data', (chunk: Buffer) => {
      if (!this.#received(chunk)) stream.pause();
    });
    return stream;
  }

  /** False asks the stream to stop reading until resume(). */
  #received(bytes: Uint8Array): boolean {
    if (bytes.length === 0 || this.#isDiscarding) return true;
    this.#pending = bytes;
    this.#events.onReady();
    // What was pulled at once has been copied, and the buffer may be filled again.
    this.#isPaused = this.#pending !== undefined;
    return !this.#isPaused;
  }

  #ended(): void {
    if (this.#hasEnded) return;
    this.#hasEnded = true;
    this.#events.onEnd();
  }
}

export function isPipeOrSocket(fd: number): boolean {
  try {
    const stat = fstatSync(fd);
    return stat.isFIFO() || stat.isSocket();
  } catch {
    // A closed descriptor: process.stdin and process.stdout stand in with an empty stream.
    return false;
  }
}
