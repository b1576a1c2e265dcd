import type { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import type { RawData, WebSocket } from 'ws';
import { FaultLine } from './fault-line.ts';
import type { FaultBoard, SocketFault } from './faults.ts';
import type { Random } from './random.ts';

export interface LinkOptions {
  readonly webSocket: WebSocket;
  /** The TLS socket under it, and the TCP socket under that. */
  readonly stream: Duplex;
  readonly tcp: Socket | undefined;
  readonly sessionId: string;
  readonly board: FaultBoard;
  readonly random: Random;
  readonly writeLimitBytes: number;
  /** A frame as the client sent it; false stops it here. */
  readonly inspect: (frame: Buffer) => boolean;
  readonly toAgent: (frame: Buffer) => void;
  readonly left: (frame: Buffer, isIntact: boolean) => void;
  readonly text: (text: string) => void;
  readonly writable: () => void;
  readonly closed: (code: number) => void;
  readonly pinged: () => void;
}

/** A backlog of the client's frames at which the service stops reading its socket. */
const BACKLOG = 4096;

/** One WebSocket of a client with the faults on it, both ways. */
export class Link {
  readonly #options: LinkOptions;
  readonly #toClient: FaultLine;
  readonly #toAgent: FaultLine;
  readonly #timers = new Set<NodeJS.Timeout>();
  #isOpen = true;
  #isBlackhole = false;
  #isCorked = false;
  #isReading = true;
  #isBlocked = false;
  #messages = { toClient: 0, toAgent: 0 };
  #bytes = { toClient: 0, toAgent: 0 };
  #trigger: SocketFault | undefined;
  /** Since when the reader has been running without a stop. */
  readingSince = performance.now();

  constructor(options: LinkOptions) {
    this.#options = options;
    const { board, random, sessionId, webSocket } = options;
    const hit = (name: string): void => {
      board.hit(name);
    };
    this.#toClient = new FaultLine({
      ...{ name: 'toClient', random, hit, faults: () => board.direction('toClient', sessionId) },
      deliver: (frame, isIntact) => {
        this.#write(frame, isIntact);
      },
    });
    this.#toAgent = new FaultLine({
      ...{ name: 'toAgent', random, hit, faults: () => board.direction('toAgent', sessionId) },
      deliver: (frame) => {
        options.toAgent(frame);
        this.#updateReading();
      },
    });
    webSocket.on('message', this.#message);
    webSocket.on('ping', options.pinged);
    webSocket.on('close', (code) => {
      this.#gone(code);
    });
    webSocket.on('error', () => {
      // 'close' follows and says it all
    });
  }

  get isOpen(): boolean {
    return this.#isOpen;
  }

  /** Too much waits for the client: writes block. */
  get isBlocked(): boolean {
    return this.#isBlocked || this.#toClient.size >= BACKLOG;
  }

  /** The token was good: socket faults start to count. */
  begin(): void {
    this.#trigger = this.#options.board.take('socket', () => true, this.#options.sessionId);
    const after = this.#trigger?.after;
    if (this.#trigger === undefined) return;
    this.#messages = { toClient: 0, toAgent: 0 };
    this.#bytes = { toClient: 0, toAgent: 0 };
    if (after === undefined) this.#later(0, this.#fire);
    else if (after.ms !== undefined) this.#later(after.ms, this.#fire);
  }

  send(frame: Buffer): void {
    if (this.#isOpen) this.#toClient.push(frame);
  }

  /** Past the faults, as it is. */
  sendRaw(frame: Uint8Array | string): void {
    if (this.#isOpen && !this.#isBlackhole) this.#options.webSocket.send(frame);
  }

  setReading(isReading: boolean): void {
    this.#isReading = isReading;
    this.#updateReading();
  }

  /** The faults have changed. */
  refresh(): void {
    this.#toClient.refresh();
    this.#toAgent.refresh();
    if (this.#trigger === undefined && this.#isOpen) this.begin();
    this.#updateReading();
  }

  close(code = 1000, reason = ''): void {
    if (!this.#isOpen) return;
    const { webSocket } = this.#options;
    if (code === 1006) webSocket.terminate();
    else webSocket.close(code, reason);
    // A peer that does not answer the close frame must not hold the socket.
    this.#later(2000, () => {
      webSocket.terminate();
    });
  }

  end(): void {
    this.#options.stream.end();
    this.#later(1000, () => {
      this.#options.webSocket.terminate();
    });
  }

  reset(): void {
    this.#options.tcp?.resetAndDestroy();
    this.#options.webSocket.terminate();
  }

  terminate(): void {
    this.#options.webSocket.terminate();
    this.#gone(1006);
  }

  blackhole(): void {
    this.#isBlackhole = true;
    this.#updateReading();
  }

  readonly #message = (data: RawData, isBinary: boolean): void => {
    if (this.#isBlackhole || !this.#isOpen) return;
    // With the default binaryType the data of every message is one Buffer.
    const frame = data as Buffer;
    if (!isBinary) {
      this.#options.text(frame.toString());
      return;
    }
    this.#cork();
    if (!this.#options.inspect(frame)) return;
    this.#toAgent.push(frame);
    this.#updateReading();
    this.#count('toAgent', frame.length);
  };

  #write(frame: Buffer, isIntact: boolean): void {
    if (!this.#isOpen) return;
    this.#options.left(frame, isIntact);
    if (this.#isBlackhole) return;
    if (this.#toClient.size === BACKLOG / 2) setImmediate(this.#options.writable);
    const { webSocket } = this.#options;
    this.#cork();
    if (webSocket.bufferedAmount < this.#options.writeLimitBytes) {
      webSocket.send(frame);
    } else {
      this.#isBlocked = true;
      webSocket.send(frame, this.#flushed);
    }
    this.#count('toClient', frame.length);
  }

  readonly #flushed = (): void => {
    if (!this.#isBlocked || !this.#isOpen) return;
    if (this.#options.webSocket.bufferedAmount >= this.#options.writeLimitBytes) return;
    this.#isBlocked = false;
    this.#options.writable();
  };

  /** Many small frames in one turn make one TLS record. */
  #cork(): void {
    if (this.#isCorked) return;
    this.#isCorked = true;
    this.#options.stream.cork();
    process.nextTick(() => {
      this.#isCorked = false;
      this.#options.stream.uncork();
    });
  }

  #count(direction: 'toClient' | 'toAgent', bytes: number): void {
    this.#messages[direction] += 1;
    this.#bytes[direction] += bytes;
    const after = this.#trigger?.after;
    if (after === undefined) return;
    const seen = after.direction ?? 'both';
    const total = (of: { toClient: number; toAgent: number }): number =>
      seen === 'both' ? of.toClient + of.toAgent : of[seen];
    const isDue =
      (after.messages !== undefined && total(this.#messages) >= after.messages) ||
      (after.bytes !== undefined && total(this.#bytes) >= after.bytes);
    if (isDue) this.#fire();
  }

  readonly #fire = (): void => {
    const fault = this.#trigger;
    if (fault === undefined) return;
    this.#trigger = undefined;
    this.#options.board.hit(`socket.${fault.how}`);
    switch (fault.how) {
      case 'close':
        this.close(fault.code, fault.reason);
        return;
      case 'end':
        this.end();
        return;
      case 'reset':
        this.reset();
        return;
      case 'blackhole':
        this.blackhole();
    }
  };

  #updateReading(): void {
    if (!this.#isOpen) return;
    const { webSocket, board, sessionId } = this.#options;
    const isStalled = board.direction('toAgent', sessionId)?.stall === true;
    const isWanted =
      this.#isReading && !this.#isBlackhole && !isStalled && this.#toAgent.size < BACKLOG;
    if (isWanted === !webSocket.isPaused) return;
    if (isWanted) {
      this.readingSince = performance.now();
      webSocket.resume();
    } else {
      webSocket.pause();
    }
  }

  #gone(code: number): void {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    for (const timer of this.#timers) clearTimeout(timer);
    this.#timers.clear();
    this.#toClient.close();
    this.#toAgent.close();
    this.#options.closed(code);
  }

  #later(delayMs: number, action: () => void): void {
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      action();
    }, delayMs);
    this.#timers.add(timer);
  }
}
