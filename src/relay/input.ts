import { fstatSync } from 'node:fs';
import { Socket, type OnReadOpts, type SocketConstructorOpts } from 'node:net';
import type { Readable } from 'node:stream';
import type { PayloadSource } from '../transport/channel.ts';
import { Staging } from './staging.ts';

export interface InputEvents {
  /** Bytes can be pulled (again). */
  onReady(): void;
  /** End of input, or a read error, which for a relay is the same thing. */
  onEnd(): void;
}

/** Bytes of one read: large enough to be cheap, small enough to overshoot a payload by little. */
const readBytes = 8 * 1024;

/**
 * Standard input as a source of payloads. Reading starts at once, so that an end of input is seen
 * even before there is a channel, and stops when one payload is waiting: that is all the memory and
 * all the queueing delay this adds to what the pipe holds anyway.
 */
export class Input implements PayloadSource {
  readonly #events: InputEvents;
  readonly #stream: Readable;
  readonly #staging: Staging;
  readonly #payloadBytes: number;
  #hasEnded = false;
  #isPaused = false;
  #isDiscarding = false;
  #turn: NodeJS.Immediate | undefined;

  constructor(fd: number, payloadBytes: number, events: InputEvents) {
    this.#events = events;
    this.#payloadBytes = payloadBytes;
    const isPipe = isPipeOrSocket(fd);
    // Other streams choose the size of their chunks themselves, 64 KiB at most.
    this.#staging = new Staging(payloadBytes + (isPipe ? readBytes : 64 * 1024));
    this.#stream = isPipe ? this.#openPipe(fd) : this.#openOther();
    const onEnd = (): void => {
      this.#ended();
    };
    this.#stream.on('end', onEnd);
    this.#stream.on('error', onEnd);
    this.#stream.on('close', onEnd);
  }

  pull(maxBytes: number): Uint8Array | undefined {
    const taken = this.#staging.take(maxBytes);
    // The stream reads again in a later turn of the event loop, after the caller has copied.
    this.#resumeIfWanted();
    return taken;
  }

  /** Whether reading has stopped, so that an end of input would not be noticed. */
  get isHeldBack(): boolean {
    return this.#isPaused;
  }

  /** Drops what comes from now on, but still notices the end. */
  discard(): void {
    this.#staging.clear();
    this.#isDiscarding = true;
    this.#resumeIfWanted();
  }

  close(): void {
    this.#stream.destroy();
  }

  #openPipe(fd: number): Socket {
    // The constructor takes onread as net.connect does; its type does not say so.
    const options: SocketConstructorOpts & { onread: OnReadOpts } = {
      fd,
      readable: true,
      writable: false,
      onread: {
        buffer: Buffer.allocUnsafeSlow(readBytes),
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

  /** False asks the stream to stop reading until it is resumed. */
  #received(bytes: Uint8Array): boolean {
    if (this.#isDiscarding || bytes.length === 0) return true;
    this.#staging.append(bytes);
    // A read that filled its buffer is followed by another at once: let a full payload gather. Any
    // other has emptied the pipe, and what it brought goes out without delay.
    const isMoreComing = bytes.length === readBytes && this.#staging.length < this.#payloadBytes;
    if (isMoreComing) this.#turn ??= setImmediate(this.#onTurn);
    else this.#events.onReady();
    this.#isPaused = this.#staging.length >= this.#payloadBytes;
    return !this.#isPaused;
  }

  readonly #onTurn = (): void => {
    this.#turn = undefined;
    this.#events.onReady();
  };

  #resumeIfWanted(): void {
    if (!this.#isPaused || this.#staging.length >= this.#payloadBytes) return;
    this.#isPaused = false;
    this.#stream.resume();
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
