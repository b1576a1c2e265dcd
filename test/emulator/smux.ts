import { Duplex } from 'node:stream';

/** smux version 1, the accepting side, from the wire format alone. Fields are little-endian. */

const SYN = 0;
const FIN = 1;
const PSH = 2;
const NOP = 3;
const HEADER = 8;
const MAX_FRAME = 32_768;
/** Received and unread bytes at which the whole session stops reading (MaxReceiveBuffer). */
const RECEIVE_BUFFER = 4 * 1024 * 1024;

export interface SmuxOptions {
  readonly dial: () => Promise<Duplex>;
  readonly dialFailed: () => void;
  readonly violation: (text: string) => void;
  readonly keepAlive?: { readonly intervalMs: number; readonly timeoutMs: number };
}

interface Stream {
  readonly id: number;
  destination: Duplex | undefined;
  /** Received before the destination is there. */
  waiting: Buffer[];
  isFinReceived: boolean;
  isFinSent: boolean;
}

export class SmuxServer extends Duplex {
  /** After a protocol error: nothing is accepted any more, though the session lives on. */
  isBroken = false;
  readonly #options: SmuxOptions;
  readonly #streams = new Map<number, Stream>();
  readonly #usedIds = new Set<number>();
  readonly #queue: Stream[] = [];
  #isDialling = false;
  #input: Buffer = Buffer.alloc(0);
  #unread = 0;
  #blocked: (() => void) | undefined;
  #isFull = false;
  readonly #keepAlive: NodeJS.Timeout | undefined;
  readonly #deadline: NodeJS.Timeout | undefined;
  #hasHeard = true;

  constructor(options: SmuxOptions) {
    super({ readableHighWaterMark: 256 * 1024, writableHighWaterMark: 64 * 1024 });
    this.#options = options;
    if (options.keepAlive !== undefined) {
      this.#keepAlive = setInterval(() => this.#send(NOP, 0), options.keepAlive.intervalMs);
      this.#deadline = setInterval(() => {
        // Nothing heard for a whole period: the session ends.
        if (this.#hasHeard) this.#hasHeard = false;
        else this.push(null);
      }, options.keepAlive.timeoutMs);
    }
  }

  get streamCount(): number {
    return this.#streams.size;
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: () => void): void {
    this.#hasHeard = true;
    if (this.isBroken) {
      done();
      return;
    }
    this.#input = this.#input.length === 0 ? chunk : Buffer.concat([this.#input, chunk]);
    this.#parse();
    if (this.#unread < RECEIVE_BUFFER) done();
    else this.#blocked = done;
  }

  override _read(): void {
    if (!this.#isFull) return;
    this.#isFull = false;
    for (const stream of this.#streams.values()) stream.destination?.resume();
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    clearInterval(this.#keepAlive);
    clearInterval(this.#deadline);
    for (const stream of this.#streams.values()) stream.destination?.destroy();
    this.#streams.clear();
    this.#queue.length = 0;
    done(error);
  }

  #parse(): void {
    let at = 0;
    const input = this.#input;
    while (input.length - at >= HEADER && !this.isBroken) {
      const command = input[at + 1]!;
      const length = input.readUInt16LE(at + 2);
      const id = input.readUInt32LE(at + 4);
      if (input[at] !== 1 || command > NOP) {
        this.#break(`version ${String(input[at])}, command ${command}`);
        return;
      }
      if (command !== PSH) {
        // No data is skipped for these: a length here puts every later frame out of step.
        if (length > 0) this.#options.violation(`command ${command} with length ${length}`);
        at += HEADER;
        this.#control(command, id);
        continue;
      }
      if (input.length - at - HEADER < length) break;
      this.#data(id, input.subarray(at + HEADER, at + HEADER + length));
      at += HEADER + length;
    }
    this.#input = at === input.length ? Buffer.alloc(0) : input.subarray(at);
  }

  #break(what: string): void {
    this.#options.violation(`protocol error: ${what}`);
    this.isBroken = true;
    this.#input = Buffer.alloc(0);
    this.#release(this.#unread);
  }

  #control(command: number, id: number): void {
    if (command === SYN) {
      if (this.#usedIds.has(id)) this.#options.violation(`stream ${id} opened twice`);
      if (this.#streams.has(id)) return;
      if (id % 2 === 0 || id < 3) this.#options.violation(`stream id ${id}`);
      this.#usedIds.add(id);
      const stream: Stream = {
        id,
        destination: undefined,
        waiting: [],
        isFinReceived: false,
        isFinSent: false,
      };
      this.#streams.set(id, stream);
      this.#queue.push(stream);
      void this.#accept();
    } else if (command === FIN) {
      const stream = this.#streams.get(id);
      if (stream === undefined || stream.isFinReceived) return;
      stream.isFinReceived = true;
      // A full close: what the destination still says is lost.
      if (stream.destination !== undefined) this.#finish(stream);
    }
  }

  #data(id: number, data: Buffer): void {
    if (data.length > MAX_FRAME) this.#options.violation(`frame of ${data.length} bytes`);
    const stream = this.#streams.get(id);
    if (stream === undefined || stream.isFinReceived) {
      // Late data for a stream this side has closed is normal; for one that never was, it is not.
      if (!this.#usedIds.has(id)) this.#options.violation(`data for unknown stream ${id}`);
      return;
    }
    if (data.length === 0) return;
    this.#unread += data.length;
    if (stream.destination === undefined) stream.waiting.push(data);
    else this.#deliver(stream.destination, data);
  }

  #deliver(destination: Duplex, data: Buffer): void {
    if (destination.destroyed || destination.writableEnded) {
      this.#release(data.length);
      return;
    }
    let isReleased = false;
    const release = (): void => {
      if (isReleased) return;
      isReleased = true;
      this.#release(data.length);
    };
    destination.write(data, release);
    if (destination.writableLength === 0) release();
  }

  #release(bytes: number): void {
    this.#unread -= bytes;
    if (this.#unread >= RECEIVE_BUFFER || this.#blocked === undefined) return;
    const done = this.#blocked;
    this.#blocked = undefined;
    done();
  }

  /** Dials one after the other, as the agent's accept loop does. */
  async #accept(): Promise<void> {
    if (this.#isDialling) return;
    this.#isDialling = true;
    for (let stream = this.#queue.shift(); stream !== undefined; stream = this.#queue.shift()) {
      try {
        const destination = await this.#options.dial();
        if (this.destroyed) destination.destroy();
        else this.#attach(stream, destination);
      } catch {
        if (this.destroyed) return;
        this.#options.dialFailed();
        this.#drop(stream);
      }
    }
    this.#isDialling = false;
  }

  #attach(stream: Stream, destination: Duplex): void {
    stream.destination = destination;
    destination.on('data', (chunk: Buffer) => {
      this.#fromDestination(stream, chunk);
    });
    const gone = (): void => {
      this.#drop(stream);
    };
    destination.on('end', gone);
    destination.on('error', gone);
    destination.on('close', gone);
    if (this.#isFull) destination.pause();
    for (const data of stream.waiting) this.#deliver(destination, data);
    stream.waiting = [];
    if (stream.isFinReceived) this.#finish(stream);
  }

  #fromDestination(stream: Stream, chunk: Buffer): void {
    if (stream.isFinReceived || stream.isFinSent) return;
    let isRoom = true;
    for (let at = 0; at < chunk.length; at += MAX_FRAME) {
      isRoom = this.#send(PSH, stream.id, chunk.subarray(at, at + MAX_FRAME));
    }
    if (isRoom || this.#isFull) return;
    this.#isFull = true;
    for (const other of this.#streams.values()) other.destination?.pause();
  }

  /** The client closed the stream: deliver what is buffered, then close the connection. */
  #finish(stream: Stream): void {
    stream.destination?.end();
    this.#sendFin(stream);
    const { destination } = stream;
    this.#streams.delete(stream.id);
    if (destination === undefined) return;
    // Node ends a half-open socket only once its output is out; then the rest goes too.
    const destroy = (): void => {
      destination.destroy();
    };
    if (destination.writableFinished) destroy();
    else destination.once('finish', destroy);
  }

  /** The destination ended or never was: FIN to the client, and the stream is forgotten. */
  #drop(stream: Stream): void {
    if (this.#streams.get(stream.id) !== stream) return;
    for (const data of stream.waiting) this.#release(data.length);
    stream.waiting = [];
    this.#sendFin(stream);
    this.#streams.delete(stream.id);
    stream.destination?.destroy();
  }

  #sendFin(stream: Stream): void {
    if (stream.isFinSent) return;
    stream.isFinSent = true;
    this.#send(FIN, stream.id);
  }

  #send(command: number, id: number, data?: Buffer): boolean {
    if (this.destroyed || this.readableEnded) return true;
    const header = Buffer.alloc(HEADER);
    header[0] = 1;
    header[1] = command;
    header.writeUInt16LE(data?.length ?? 0, 2);
    header.writeUInt32LE(id, 4);
    return this.push(data === undefined ? header : Buffer.concat([header, data]));
  }
}
