import { encode, typeName } from './codec.ts';
import type { DirectionFaults, FrameInfo } from './faults.ts';
import type { Random } from './random.ts';

export interface FaultLineOptions {
  readonly name: 'toClient' | 'toAgent';
  readonly random: Random;
  readonly faults: () => DirectionFaults | undefined;
  readonly hit: (name: string) => void;
  readonly deliver: (frame: Buffer, isIntact: boolean) => void;
}

interface Held {
  readonly at: number;
  readonly frame: Buffer;
  readonly isIntact: boolean;
}

/** One direction of one socket: what goes in comes out late, twice, changed, or not at all. */
export class FaultLine {
  readonly #options: FaultLineOptions;
  #queue: Held[] = [];
  #head = 0;
  #lastAt = 0;
  #timer: NodeJS.Timeout | undefined;
  readonly #late = new Set<NodeJS.Timeout>();

  constructor(options: FaultLineOptions) {
    this.#options = options;
  }

  /** Frames waiting in the line. */
  get size(): number {
    return this.#queue.length - this.#head;
  }

  push(frame: Buffer): void {
    const faults = this.#options.faults();
    if (faults === undefined) {
      if (this.size === 0) this.#options.deliver(frame, true);
      else this.#enqueue(frame, true, 0);
      return;
    }
    const type = typeName(frame);
    const isStream = type === 'input_stream_data' || type === 'output_stream_data';
    const isAck = type === 'acknowledge';
    if ((isStream || isAck) && (faults.only?.(describe(frame, type)) ?? true)) {
      this.#mangle(frame, faults, isAck);
    } else {
      this.#pass(frame, true, faults);
    }
  }

  /** To be called when the faults have changed. */
  refresh(): void {
    this.#arm();
  }

  close(): void {
    clearTimeout(this.#timer);
    for (const timer of this.#late) clearTimeout(timer);
    this.#late.clear();
    this.#queue = [];
    this.#head = 0;
  }

  #mangle(frame: Buffer, faults: DirectionFaults, isAck: boolean): void {
    if (isAck && faults.withholdAcks === true) {
      this.#hit('withholdAcks');
      return;
    }
    if (this.#chance(faults.unknownType, 'unknownType')) {
      const odd = encode({ type: 'interactive_shell_v9', payload: Buffer.from('{}') });
      this.#pass(odd, false, faults);
    }
    if (this.#chance(faults.loss, 'loss')) return;
    const copies = this.#chance(faults.duplicate, 'duplicate') ? 2 : 1;
    for (let copy = 0; copy < copies; copy++) {
      const sent = this.#damage(frame, faults);
      if (this.#chance(faults.reorder, 'reorder')) {
        const timer = setTimeout(() => {
          this.#late.delete(timer);
          this.#pass(sent, sent === frame, this.#options.faults() ?? {});
        }, faults.reorderMs ?? 30);
        this.#late.add(timer);
      } else {
        this.#pass(sent, sent === frame, faults);
      }
    }
  }

  #damage(frame: Buffer, faults: DirectionFaults): Buffer {
    if (this.#chance(faults.corruptDigest, 'corruptDigest')) {
      const copy = Buffer.from(frame);
      copy[80 + Math.floor(this.#options.random() * 32)]! ^= 1;
      return copy;
    }
    // The agent checks no digests: a changed payload would reach it as if the client had sent it.
    const isToClient = this.#options.name === 'toClient';
    if (isToClient && frame.length > 120 && this.#chance(faults.corruptPayload, 'corruptPayload')) {
      const copy = Buffer.from(frame);
      copy[120 + Math.floor(this.#options.random() * (frame.length - 120))]! ^= 1;
      return copy;
    }
    if (this.#chance(faults.truncate, 'truncate')) {
      // Nor does the agent look at the payload length, so on its side the header itself is cut.
      const limit = isToClient ? frame.length - 1 : 110;
      return Buffer.from(frame.subarray(0, Math.floor(this.#options.random() * limit)));
    }
    if (this.#chance(faults.oversizeHeader, 'oversizeHeader')) {
      const copy = Buffer.from(frame);
      copy.writeUInt32BE(this.#options.random() < 0.5 ? 5000 + frame.length : 0xffff_ffff, 0);
      return copy;
    }
    return frame;
  }

  #pass(frame: Buffer, isIntact: boolean, faults: DirectionFaults): void {
    const delayMs = (faults.delayMs ?? 0) + (faults.jitterMs ?? 0) * this.#options.random();
    if (delayMs === 0 && this.size === 0 && faults.stall !== true) {
      this.#options.deliver(frame, isIntact);
    } else {
      this.#enqueue(frame, isIntact, delayMs);
    }
  }

  #enqueue(frame: Buffer, isIntact: boolean, delayMs: number): void {
    this.#lastAt = Math.max(this.#lastAt, performance.now() + delayMs);
    this.#queue.push({ at: this.#lastAt, frame, isIntact });
    if (this.#timer === undefined) this.#arm();
  }

  #arm(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const next = this.#queue[this.#head];
    if (next === undefined || this.#options.faults()?.stall === true) return;
    this.#timer = setTimeout(
      () => {
        this.#release();
      },
      Math.max(0, next.at - performance.now()),
    );
  }

  #release(): void {
    this.#timer = undefined;
    const now = performance.now() + 0.5;
    for (;;) {
      const next = this.#queue[this.#head];
      if (next === undefined || next.at > now || this.#options.faults()?.stall === true) break;
      this.#head += 1;
      this.#options.deliver(next.frame, next.isIntact);
    }
    if (this.#head > 1024 || this.#head === this.#queue.length) {
      this.#queue = this.#queue.slice(this.#head);
      this.#head = 0;
    }
    this.#arm();
  }

  #chance(probability: number | undefined, name: string): boolean {
    if (probability === undefined || probability <= 0) return false;
    if (this.#options.random() >= probability) return false;
    this.#hit(name);
    return true;
  }

  #hit(name: string): void {
    this.#options.hit(`${this.#options.name}.${name}`);
  }
}

function describe(frame: Buffer, type: string): FrameInfo {
  return {
    type,
    seq: frame.readUInt32BE(48) * 2 ** 32 + frame.readUInt32BE(52),
    payloadType: frame.readUInt32BE(112),
    size: frame.length - 120,
  };
}
