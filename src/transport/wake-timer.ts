import type { Clock } from './clock.ts';

/**
 * The one timer of a driver. Asking for a later wake than the one already due keeps the earlier one:
 * an extra wake costs nothing, and re-arming a timer for every message would.
 */
export class WakeTimer {
  readonly #clock: Clock;
  readonly #wake: () => void;
  #armed: { readonly at: number; readonly cancel: () => void } | undefined;

  constructor(clock: Clock, wake: () => void) {
    this.#clock = clock;
    this.#wake = wake;
  }

  /** Wakes at `at` (monotonic ms) at the latest; undefined asks for nothing. */
  armFor(at: number | undefined): void {
    if (at === undefined || (this.#armed !== undefined && this.#armed.at <= at)) return;
    this.cancel();
    const delayMs = Math.max(0, Math.ceil(at - this.#clock.now()));
    const cancel = this.#clock.setTimer(() => {
      this.#armed = undefined;
      this.#wake();
    }, delayMs);
    this.#armed = { at, cancel };
  }

  cancel(): void {
    this.#armed?.cancel();
    this.#armed = undefined;
  }
}
