import type { Clock } from './clock.ts';

export interface Deadline {
  readonly signal: AbortSignal;
  /** Releases the timer. */
  dispose(): void;
}

/** A signal that aborts with `reason()` after `ms`, or with the parent's reason as soon as that aborts. */
export function deadline(
  parent: AbortSignal,
  ms: number,
  clock: Clock,
  reason: () => Error,
): Deadline {
  const controller = new AbortController();
  const cancel = clock.setTimer(() => {
    controller.abort(reason());
  }, ms);
  const onParent = (): void => {
    controller.abort(parent.reason);
  };
  if (parent.aborted) onParent();
  else parent.addEventListener('abort', onParent, { once: true });
  return {
    signal: controller.signal,
    dispose() {
      cancel();
      parent.removeEventListener('abort', onParent);
    },
  };
}

/**
 * Settles as `work` does, but rejects as soon as the signal aborts even if `work` never settles:
 * a credential process that hangs must not hang us. What it then still yields is given to `discard`.
 */
export function untilAborted<T>(
  work: Promise<T>,
  signal: AbortSignal,
  discard: (late: T) => void = ignore,
): Promise<T> {
  return new Promise((resolve, reject) => {
    const onAbort = (): void => {
      reject(signal.reason instanceof Error ? signal.reason : new Error('aborted'));
    };
    if (signal.aborted) onAbort();
    else signal.addEventListener('abort', onAbort, { once: true });
    work.then(
      (value) => {
        signal.removeEventListener('abort', onAbort);
        if (signal.aborted) discard(value);
        else resolve(value);
      },
      (error: unknown) => {
        signal.removeEventListener('abort', onAbort);
        reject(error instanceof Error ? error : new Error(String(error)));
      },
    );
  });
}

/**
 * Runs `work` under a deadline that bounds it even if it ignores its signal. A result that comes too
 * late is given to `discard`, so that nothing it holds is left behind.
 */
export async function within<T>(
  parent: AbortSignal,
  ms: number,
  clock: Clock,
  reason: () => Error,
  work: (signal: AbortSignal) => Promise<T>,
  discard?: (late: T) => void,
): Promise<T> {
  const limit = deadline(parent, ms, clock, reason);
  try {
    return await untilAborted(work(limit.signal), limit.signal, discard);
  } finally {
    limit.dispose();
  }
}

function ignore(): void {
  // Most late results hold nothing.
}
