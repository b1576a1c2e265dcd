import { BridgeError } from '../errors.ts';
import type { Clock } from '../transport/clock.ts';
import type { ChannelEnd, PayloadSource } from '../transport/channel.ts';
import { ClientLife, type Departure } from './client-life.ts';
import { Input } from './input.ts';
import { Output } from './output.ts';
import { readerOf } from './reader.ts';

/** The remote side of a relay: a data channel, or one stream inside it. */
export interface Endpoint {
  start(): void;
  /** The source it was made with has bytes (again). */
  sourceReady(): void;
  pauseReceiving(): void;
  resumeReceiving(): void;
  /** Bytes are still to be sent, or on their way, and there is hope for them. */
  readonly isSending: boolean;
  /** Looks at once whether the connection is still alive. */
  probe(): void;
  /** Sends what is left and ends the remote session. */
  terminate(): void;
  readonly ended: Promise<ChannelEnd>;
  /** After `ended`: nothing remains to be done for the remote session. */
  readonly released: Promise<void>;
}

/** What an endpoint uses of the local side. */
export interface LocalSide {
  readonly source: PayloadSource;
  /** To be called when a source wrapped around `source` has bytes again. */
  readonly ready: () => void;
  /** Bytes for standard output; kept without copying. */
  readonly deliver: (payload: Uint8Array) => void;
  /** The remote side can be reached but not used: ends the relay with this error. */
  readonly fail: (error: BridgeError) => void;
  /** Aborts when the relay is over: what has not begun to make a remote session need not. */
  readonly left: AbortSignal;
}

export type Outcome =
  | { readonly kind: 'departed'; readonly departure: Departure }
  | { readonly kind: 'ended'; readonly end: ChannelEnd }
  | { readonly kind: 'failed'; readonly error: unknown };

export interface RelayOptions {
  readonly clock: Clock;
  /** Most bytes read ahead from standard input. */
  readonly inputBufferBytes: number;
  readonly isTerminal: boolean;
  /** Makes the remote side. It is never abandoned half-way: a session it starts is always ended. */
  readonly open: (local: LocalSide) => Promise<Endpoint>;
  /** Says what there is to say on stderr, before anything is closed; gives the exit status. */
  readonly conclude: (outcome: Outcome) => number;
  /** What else has to be undone; runs while the remote session is ended. Never rejects. */
  readonly tidyUp: () => Promise<void>;
  /** Nobody may be kept waiting for our stderr any longer. */
  readonly closeStderr: () => void;
  /** The remote session could not be undone in time; it goes on being undone for as long as there is. */
  readonly unfinished: () => void;
  /** Ends the relay from outside, with its reason. */
  readonly fatal: AbortSignal;
}

/** How long an endpoint that is still being made when the client leaves may take to be undone. */
const undoLimitMs = 5_000;

/** How long ssh may take to close its end once it has seen the end of ours. */
const farewellMs = 1_000;

/**
 * Joins standard input and output to a remote endpoint until one side is over; gives the exit status.
 *
 * The client leaving: what was read is sent, the remote session is ended, nothing is kept waiting.
 * The remote side ending: everything received is written, then the reason is given, then output is
 * closed; in this order, because ssh kills us as soon as it sees the end of our output.
 */
export async function relay(options: RelayOptions): Promise<number> {
  const { clock, conclude } = options;
  let endpoint: Endpoint | undefined;
  const outcome = settleable<Outcome>();
  const departed = settleable<undefined>();
  const left = new AbortController();

  const life = new ClientLife({
    clock,
    reader: readerOf(1),
    isInputHeldBack: () => input.isHeldBack,
    isSending: () => endpoint?.isSending ?? true,
    parentPid: () => process.ppid,
    isTerminal: options.isTerminal,
    onGone: (departure) => {
      outcome.settle({ kind: 'departed', departure });
      departed.settle(undefined);
    },
  });
  const stopSignals = watchSignals(life, () => endpoint?.probe());
  let outputFailure: Outcome | undefined;
  const output = new Output(1, {
    onFull: () => endpoint?.pauseReceiving(),
    onDrained: () => endpoint?.resumeReceiving(),
    onBroken: () => {
      life.outputBroken();
    },
    onFailed: (error) => {
      outputFailure = { kind: 'failed', error };
      outcome.settle(outputFailure);
    },
  });
  const inputEnded = settleable<undefined>();
  const input = new Input(0, options.inputBufferBytes, {
    onReady: () => {
      life.inputArrived();
      endpoint?.sourceReady();
    },
    onEnd: () => {
      inputEnded.settle(undefined);
      life.inputEnded();
    },
  });
  options.fatal.addEventListener('abort', () => {
    outcome.settle({ kind: 'failed', error: options.fatal.reason });
  });

  const opening = options.open({
    source: input,
    ready: () => endpoint?.sourceReady(),
    deliver: (payload) => {
      life.heard();
      output.write(payload);
    },
    fail: (error) => {
      outcome.settle({ kind: 'failed', error });
    },
    left: left.signal,
  });
  opening.then(
    (made) => {
      endpoint = made;
      void made.ended.then((end) => {
        outcome.settle({ kind: 'ended', end });
      });
      made.start();
    },
    (error: unknown) => {
      outcome.settle({ kind: 'failed', error });
    },
  );

  const first = await outcome.promise;
  // A stopped reader is waited for, for as long as it is there and nobody tells us to go.
  if (first.kind !== 'departed') await Promise.race([output.flushed(), departed.promise]);
  // An end is no success while what was received before it could not be written.
  const status = conclude(first.kind === 'ended' ? (outputFailure ?? first) : first);
  // Reading on until ssh closes its end spares it a broken pipe, and with that a second message.
  if (first.kind !== 'departed') input.discard();
  output.close();
  if (first.kind !== 'departed') {
    await atMost(clock, farewellMs, [inputEnded.promise, departed.promise]);
  }
  life.dispose();
  options.closeStderr();
  left.abort(new BridgeError('session.lost', 'nobody waits for the session any more'));
  await Promise.all([undone(opening, clock, options.unfinished), options.tidyUp()]);
  input.close();
  stopSignals();
  return status;
}

/** Ends the remote side, also one that is only just being made: no session is left behind. */
async function undone(
  opening: Promise<Endpoint>,
  clock: Clock,
  unfinished: () => void,
): Promise<void> {
  const released = opening.then(
    (made) => {
      made.terminate();
      return made.released;
    },
    () => undefined,
  );
  if (!(await atMost(clock, undoLimitMs, [released]))) unfinished();
}

/**
 * SIGINT, SIGQUIT and SIGTSTP come from the terminal and are meant for ssh or what it runs; a
 * process without a handler would die of them. Returns what takes the handlers away again.
 */
function watchSignals(life: ClientLife, probe: () => void): () => void {
  const handlers: [NodeJS.Signals, () => void][] = [
    ['SIGQUIT', ignore],
    ['SIGTSTP', ignore],
    ['SIGCONT', probe],
  ];
  for (const name of ['SIGTERM', 'SIGHUP', 'SIGINT'] as const) {
    handlers.push([
      name,
      () => {
        life.signal(name);
      },
    ]);
  }
  for (const [name, handler] of handlers) process.on(name, handler);
  return () => {
    for (const [name, handler] of handlers) process.off(name, handler);
  };
}

interface Settleable<T> {
  readonly promise: Promise<T>;
  readonly settle: (value: T) => void;
}

/** A promise with its resolver outside; settling twice keeps the first value. */
function settleable<T>(): Settleable<T> {
  let settle: (value: T) => void = ignore;
  const promise = new Promise<T>((resolve) => {
    settle = resolve;
  });
  return { promise, settle };
}

/**
 * Resolves with the first of `promises`, or when `ms` have passed; leaves no timer behind. Tells whether it
 * was in time.
 */
function atMost(clock: Clock, ms: number, promises: readonly Promise<unknown>[]): Promise<boolean> {
  return new Promise((resolve) => {
    const cancel = clock.setTimer(() => {
      resolve(false);
    }, ms);
    const done = (): void => {
      cancel();
      resolve(true);
    };
    for (const promise of promises) promise.then(done, done);
  });
}

function ignore(): void {
  // Nothing to do.
}
