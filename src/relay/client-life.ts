import type { Clock } from '../transport/clock.ts';

/** Why the client side is over. */
export type Departure =
  | { readonly kind: 'left' }
  | { readonly kind: 'signal'; readonly name: 'SIGTERM' | 'SIGHUP' | 'SIGINT' };

export interface ClientLifeOptions {
  readonly clock: Clock;
  /** Whether our standard output still has a reader. */
  readonly reader: () => 'present' | 'gone' | 'unknown';
  /** Whether input waits unread, so that its end would not be noticed. */
  readonly isInputHeldBack: () => boolean;
  /** Whether what was sent is still on its way to the remote side. */
  readonly isSending: () => boolean;
  readonly parentPid: () => number;
  /** Somebody runs us by hand on a terminal; then Ctrl-C means us. */
  readonly isTerminal: boolean;
  readonly onGone: (departure: Departure) => void;
}

/**
 * Time without output after the end of input, when the reader's presence cannot be known. ssh never
 * half-closes (OpenSSH sshconnect.c: both pipes are closed together), so this is short.
 */
const quietUnknownMs = 500;

/**
 * The same when the reader is known to be there: a pipeline that sent its request and awaits the
 * answer. It ends a session whose remote side never answers and never closes.
 */
const quietPresentMs = 60_000;

/** How often to look again whether the reader is still there, once input has ended. */
const readerPollMs = 100;

/** How often to look for the reader while input is held back. */
const heldBackPollMs = 500;

/** ssh sends SIGHUP and closes its pipes at the same time; either may arrive first. */
const hangupGraceMs = 1_000;

/**
 * Decides when the one we serve is gone, from the end of input, a broken output and signals.
 *
 * The end of input is the only event that always and only means that ssh ended. Terminal signals
 * reach us too although they are meant for ssh, which may survive them (ControlPersist, -f, sftp):
 * SIGINT is ignored, and SIGHUP counts only if the input ends as well or our parent has gone.
 *
 * An end of input hides behind bytes that nobody takes, as while a lost connection is resumed. Then a
 * reader and a parent that are gone tell the same: ssh held both pipes.
 */
export class ClientLife {
  readonly #options: ClientLifeOptions;
  readonly #startedByPid: number;
  #state: 'present' | 'input-ended' | 'gone' = 'present';
  #heardAt: number;
  /** From the start until everything read before the end of input has arrived. */
  #isUploading = true;
  #cancelPoll: (() => void) | undefined;
  #isPolling = false;
  #cancelHangup: (() => void) | undefined;

  constructor(options: ClientLifeOptions) {
    this.#options = options;
    this.#startedByPid = options.parentPid();
    this.#heardAt = options.clock.now();
  }

  /** Output was delivered: the remote side still has something to say. */
  heard(): void {
    if (this.#state === 'input-ended') this.#heardAt = this.#options.clock.now();
  }

  /** Input came in; cheap enough for every time it does. */
  inputArrived(): void {
    if (this.#isPolling || this.#state !== 'present') return;
    this.#isPolling = true;
    this.#cancelPoll = this.#options.clock.setTimer(() => {
      this.#isPolling = false;
      if (!this.#options.isInputHeldBack()) return;
      if (this.#hasLeftUnheard()) this.#gone({ kind: 'left' });
      else this.inputArrived();
    }, heldBackPollMs);
  }

  inputEnded(): void {
    if (this.#state !== 'present') return;
    this.#cancelPoll?.();
    this.#state = 'input-ended';
    this.#heardAt = this.#options.clock.now();
    if (this.#cancelHangup !== undefined) this.#gone({ kind: 'signal', name: 'SIGHUP' });
    else this.#checkReader();
  }

  outputBroken(): void {
    this.#gone({ kind: 'left' });
  }

  signal(name: 'SIGTERM' | 'SIGHUP' | 'SIGINT'): void {
    switch (name) {
      case 'SIGTERM':
        this.#gone({ kind: 'signal', name });
        return;
      case 'SIGINT':
        if (this.#options.isTerminal) this.#gone({ kind: 'signal', name });
        return;
      case 'SIGHUP':
        this.#hangup();
    }
  }

  /** Stops watching. */
  dispose(): void {
    this.#state = 'gone';
    this.#cancelPoll?.();
    this.#cancelHangup?.();
  }

  #hangup(): void {
    if (this.#state === 'gone' || this.#cancelHangup !== undefined) return;
    if (this.#state === 'input-ended' || this.#options.isTerminal) {
      this.#gone({ kind: 'signal', name: 'SIGHUP' });
      return;
    }
    this.#cancelHangup = this.#options.clock.setTimer(() => {
      this.#cancelHangup = undefined;
      const parent = this.#options.parentPid();
      // The same living parent and an open input: ssh was told to ignore SIGHUP (nohup). Otherwise a
      // process that ssh left behind holds our pipes open (OpenSSH LocalCommand), or it detached.
      if (parent === this.#startedByPid && parent !== 1) return;
      this.#gone({ kind: 'signal', name: 'SIGHUP' });
    }, hangupGraceMs);
  }

  /** Both signs are wanted: the reader of a live session can also be out of sight, as in a container. */
  #hasLeftUnheard(): boolean {
    return this.#options.parentPid() !== this.#startedByPid && this.#options.reader() === 'gone';
  }

  #checkReader(): void {
    if (this.#state !== 'input-ended') return;
    const reader = this.#options.reader();
    // A long upload is silent until all of it has arrived; what is sent later is no input any more.
    this.#isUploading &&= this.#options.isSending();
    if (this.#isUploading && reader === 'present') this.heard();
    const quietMs = this.#options.clock.now() - this.#heardAt;
    const limitMs = reader === 'present' ? quietPresentMs : quietUnknownMs;
    if (reader === 'gone' || quietMs >= limitMs) {
      this.#gone({ kind: 'left' });
      return;
    }
    this.#cancelPoll = this.#options.clock.setTimer(() => {
      this.#checkReader();
    }, readerPollMs);
  }

  #gone(departure: Departure): void {
    if (this.#state === 'gone') return;
    this.dispose();
    this.#options.onGone(departure);
  }
}
