import type { Readable } from 'node:stream';
import type { AgentTuning } from './types.ts';

export interface PumpOptions {
  readonly source: Readable;
  readonly tuning: AgentTuning;
  readonly mayRead: () => boolean;
  readonly output: (chunk: Buffer) => void;
  /** The source has ended and everything of it went out; `error` when it broke. */
  readonly ended: (error: Error | undefined) => void;
}

/** The agent's read loop: one read of at most 1024 bytes, one message, one pause. */
export class Pump {
  readonly #options: PumpOptions;
  #timer: NodeJS.Timeout | undefined;
  #isOver = false;

  constructor(options: PumpOptions) {
    this.#options = options;
    const { source } = options;
    source.on('readable', this.#readable);
    source.on('end', this.#end);
    source.on('error', this.#end);
    source.on('close', this.#end);
  }

  /** To be called whenever `mayRead` may have changed. */
  refresh(): void {
    if (!this.#isOver && this.#timer === undefined) this.#run();
  }

  close(): void {
    if (this.#isOver) return;
    this.#isOver = true;
    clearTimeout(this.#timer);
    const { source } = this.#options;
    source.off('readable', this.#readable);
    source.off('end', this.#end);
    source.off('close', this.#end);
    // The error listener stays: what breaks after this concerns nobody, but must not be thrown.
  }

  readonly #readable = (): void => {
    this.refresh();
  };

  readonly #end = (error?: Error): void => {
    if (this.#isOver) return;
    this.close();
    this.#options.ended(
      error ??
        (this.#options.source.readableEnded ? undefined : new Error('connection reset by peer')),
    );
  };

  #run(): void {
    const { source, tuning, mayRead, output } = this.#options;
    while (mayRead()) {
      if (tuning.readPauseMs > 0) {
        const length = Math.min(tuning.readSize, source.readableLength);
        const chunk = read(source, length === 0 ? undefined : length);
        if (chunk === undefined) return;
        output(chunk);
        this.#timer = setTimeout(() => {
          this.#timer = undefined;
          this.refresh();
        }, tuning.readPauseMs);
        return;
      }
      const chunk = read(source, undefined);
      if (chunk === undefined) return;
      for (let at = 0; at < chunk.length; at += tuning.readSize) {
        output(chunk.subarray(at, at + tuning.readSize));
      }
    }
  }
}

function read(source: Readable, length: number | undefined): Buffer | undefined {
  const chunk: unknown = source.read(length);
  return Buffer.isBuffer(chunk) ? chunk : undefined;
}
