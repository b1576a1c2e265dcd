import type { Socket } from 'node:net';
import { untilAborted } from './deadline.ts';
import type { Dial, DialRequest } from './dial.ts';

/**
 * Connections begun before it is certain that they are wanted. DNS, TCP and TLS to the message
 * gateway then run while StartSession is still being answered, which saves two round trips.
 *
 * Nothing is lost when the guess was wrong: an attempt that failed, or that nobody takes, is dropped
 * without a word, and whoever asks for another address is connected as ever.
 */
export class AheadDialer {
  readonly #dial: Dial;
  readonly #begun = new Map<string, Promise<Socket | undefined>>();
  readonly #abort = new AbortController();

  constructor(dial: Dial) {
    this.#dial = dial;
  }

  begin(request: DialRequest): void {
    const key = keyOf(request);
    if (this.#begun.has(key) || this.#abort.signal.aborted) return;
    const attempt = this.#dial(request, this.#abort.signal).catch(() => undefined);
    this.#begun.set(key, attempt);
  }

  readonly dial: Dial = async (request, signal) => {
    const begun = this.#begun.get(keyOf(request));
    this.#begun.delete(keyOf(request));
    const discard = (late: Socket | undefined): void => {
      late?.destroy();
    };
    const socket = begun === undefined ? undefined : await untilAborted(begun, signal, discard);
    // A peer that has hung up meanwhile is dialled again.
    const isUsable = socket !== undefined && !socket.destroyed && !socket.readableEnded;
    return isUsable ? socket : await this.#dial(request, signal);
  };

  /** Drops what nobody has taken. */
  close(): void {
    this.#abort.abort();
    for (const attempt of this.#begun.values()) {
      void attempt.then((socket) => socket?.destroy());
    }
    this.#begun.clear();
  }
}

function keyOf({ host, port, isSecure }: DialRequest): string {
  return `${isSecure ? 'tls' : 'tcp'} ${host} ${port}`;
}
