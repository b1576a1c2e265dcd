interface Waiter {
  readonly condition: () => boolean;
  readonly resolve: () => void;
  readonly reject: (error: Error) => void;
  readonly timer: NodeJS.Timeout;
}

/** Conditions may also rest on things outside the emulator, such as files. */
const POLL_MS = 20;

/** Promises that settle when a condition holds, looked at whenever something has happened. */
export class Waiters {
  readonly #waiting = new Map<object, Waiter & { readonly what: string }>();
  #isScheduled = false;
  #poll: NodeJS.Timeout | undefined;

  changed(): void {
    if (this.#waiting.size === 0 || this.#isScheduled) return;
    this.#isScheduled = true;
    setImmediate(() => {
      this.#isScheduled = false;
      this.#check();
    });
  }

  wait(condition: () => boolean, what: string, deadlineMs: number): Promise<void> {
    if (condition()) return Promise.resolve();
    return new Promise((resolve, reject) => {
      const key = {};
      const timer = setTimeout(() => {
        this.#remove(key);
        reject(new Error(`waited ${deadlineMs} ms in vain: ${what}`));
      }, deadlineMs);
      this.#waiting.set(key, { condition, what, resolve, reject, timer });
      this.#poll ??= setInterval(() => {
        this.#check();
      }, POLL_MS);
    });
  }

  close(): void {
    for (const [key, waiter] of this.#waiting) {
      this.#remove(key);
      waiter.reject(new Error(`the emulator was closed: ${waiter.what}`));
    }
  }

  #check(): void {
    for (const [key, waiter] of this.#waiting) {
      try {
        if (!waiter.condition()) continue;
        this.#remove(key);
        waiter.resolve();
      } catch (error) {
        this.#remove(key);
        waiter.reject(error instanceof Error ? error : new Error(String(error)));
      }
    }
  }

  #remove(key: object): void {
    const waiter = this.#waiting.get(key);
    if (waiter === undefined) return;
    clearTimeout(waiter.timer);
    this.#waiting.delete(key);
    if (this.#waiting.size > 0) return;
    clearInterval(this.#poll);
    this.#poll = undefined;
  }
}
