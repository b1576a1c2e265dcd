import type { NewkeysGate } from './newkeys-gate.ts';

/** Structurally the transport's PayloadSource; the layers meet in the cli only. */
export interface PayloadSource {
  pull(maxBytes: number): Uint8Array | undefined;
}

export interface GatedSourceOptions {
  /** Nothing passes before this settles; a rejection leaves the gate shut. */
  readonly prepared: Promise<void>;
  /**
   * Called once, when the client's NEWKEYS has been handed on (or the stream proved not to be SSH).
   * What follows waits for the promise, if there is one; a rejection leaves the gate shut.
   */
  readonly atNewkeys: () => Promise<void> | undefined;
  /** The source may have bytes again. */
  readonly ready: () => void;
}

/**
 * The client's bytes, held back after its NEWKEYS until the key is in place. At most one pull is kept
 * here, because nothing more is pulled while the gate is shut: the wait reaches the client as
 * back-pressure.
 */
export function gatedSource(
  source: PayloadSource,
  gate: NewkeysGate,
  options: GatedSourceOptions,
): PayloadSource {
  let isPrepared = false;
  let held: Uint8Array | undefined;

  void options.prepared.then(
    () => {
      isPrepared = true;
      options.ready();
    },
    () => undefined, // Reported by whoever made the promise.
  );

  function passNewkeys(): void {
    const settled = options.atNewkeys();
    if (settled === undefined) {
      gate.release();
      return;
    }
    settled.then(
      () => {
        gate.release();
        options.ready();
      },
      () => undefined, // Reported by whoever made the promise.
    );
  }

  function take(bytes: Uint8Array, count: number): Uint8Array {
    // Copied: the view is the source's to overwrite as soon as more is read. (`slice` of a Buffer would
    // give another view.)
    held = count < bytes.length ? new Uint8Array(bytes.subarray(count)) : undefined;
    return bytes.subarray(0, count);
  }

  return {
    pull(maxBytes) {
      if (!isPrepared || gate.state === 'holding') return undefined;
      if (held !== undefined) return take(held, Math.min(held.length, maxBytes));
      const bytes = source.pull(maxBytes);
      if (bytes === undefined || gate.state === 'open') return bytes;
      const allowed = gate.feed(bytes);
      // feed() may have moved the gate on; the compiler still believes the check above.
      if ((gate.state as string) !== 'plain') passNewkeys();
      // Released at once: what NEWKEYS shared a chunk with goes along.
      return take(bytes, (gate.state as string) === 'open' ? bytes.length : allowed);
    },
  };
}
