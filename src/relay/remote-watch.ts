import { BridgeError } from '../errors.ts';
import type { Clock } from '../transport/clock.ts';
import { greeting, type Greeting } from './greeting.ts';

export interface RemoteWatchOptions {
  readonly clock: Clock;
  /** Until when the remote side has to send its first byte, monotonic ms. */
  readonly firstByteBy: number;
  /** What the agent dials, in words: `port 22 of the node`, or a host behind it. */
  readonly place: string;
  readonly notice: (text: string) => void;
  readonly onFailed: (error: BridgeError) => void;
}

/**
 * When the agent's side of the channel goes away before a single byte came, its worker has most
 * likely crashed because nothing listens on the port (amazon-ssm-agent port_basic.go, Stop). The
 * service says so only a minute later; this is how long it may still come back.
 */
const vanishedGraceMs = 3_000;

/** Explains a remote side that stays silent or says something that is not SSH. */
export class RemoteWatch {
  readonly #options: RemoteWatchOptions;
  readonly #greeting: Greeting = greeting();
  #state: 'waiting' | 'talking' | 'over' = 'waiting';
  #cancelFirstByte: (() => void) | undefined;
  #cancelVanished: (() => void) | undefined;

  constructor(options: RemoteWatchOptions) {
    this.#options = options;
  }

  /** The handshake is complete: the agent now dials the port. */
  opened(): void {
    if (this.#state !== 'waiting') return;
    const { clock, firstByteBy, place } = this.#options;
    this.#cancelFirstByte = clock.setTimer(
      () => {
        this.#fail(
          new BridgeError('remote.unreachable', `${place} sent nothing after the session opened`, {
            hint: 'check that sshd runs there and listens on this port',
          }),
        );
      },
      Math.max(0, firstByteBy - clock.now()),
    );
  }

  delivered(payload: Uint8Array): void {
    if (this.#state === 'waiting') {
      this.#state = 'talking';
      this.#cancelTimers();
    }
    const finding = this.#greeting.observe(payload);
    if (finding === undefined || finding.kind === 'ssh') return;
    this.#options.notice(
      finding.kind === 'said'
        ? `remote said before its SSH banner: "${finding.text}"`
        : `this is not an SSH server: ${finding.cause} (it began with "${finding.text}")`,
    );
  }

  publication(isPaused: boolean): void {
    if (this.#state !== 'waiting' || this.#cancelFirstByte === undefined) return;
    if (!isPaused) {
      this.#cancelVanished?.();
      this.#cancelVanished = undefined;
      return;
    }
    const { clock, place } = this.#options;
    this.#cancelVanished ??= clock.setTimer(() => {
      this.#fail(
        new BridgeError('remote.unreachable', `the agent could not connect to ${place}`, {
          hint: 'check that sshd runs there and listens on this port',
        }),
      );
    }, vanishedGraceMs);
  }

  dispose(): void {
    this.#state = 'over';
    this.#cancelTimers();
  }

  #fail(error: BridgeError): void {
    if (this.#state !== 'waiting') return;
    this.dispose();
    this.#options.onFailed(error);
  }

  #cancelTimers(): void {
    this.#cancelFirstByte?.();
    this.#cancelVanished?.();
  }
}
