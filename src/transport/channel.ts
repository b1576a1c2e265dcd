import type { BridgeError } from '../errors.ts';
import type { Output } from '../protocol/session.ts';

/** Where the channel takes its bytes from. */
export interface PayloadSource {
  /**
   * The next bytes to send, at least one and at most `maxBytes`; undefined when there are none now.
   * The view is copied before `pull` is called again.
   */
  pull(maxBytes: number): Uint8Array | undefined;
}

/** What the channel tells its user. Bytes given to `deliver` may be kept without copying. */
export interface ChannelConsumer {
  opened(info: ChannelInfo): void;
  deliver(payload: Uint8Array): void;
  /** The agent's Flag message, such as ConnectToPortError (3). */
  flag(value: number): void;
  /** pause_publication or start_publication: the agent's side of the channel went away or came back. */
  publication(isPaused: boolean): void;
  /** One line worth telling the person who waits. */
  notice(text: string): void;
}

export type ChannelInfo = Omit<Extract<Output, { kind: 'opened' }>, 'kind'>;

export type ChannelEnd =
  /** channel_closed from the service; `output` is its reason, empty for a normal end. */
  | { readonly kind: 'remote-closed'; readonly output: string; readonly isIncomplete: boolean }
  /** We ended the session and it was confirmed, or nothing more can be done about it. */
  | { readonly kind: 'terminated' }
  | { readonly kind: 'failed'; readonly error: BridgeError };
