/** What a session asks of its driver, and the time that it is told. */
import type { BridgeError } from '../errors.ts';

export interface Instant {
  /** Monotonic milliseconds. */
  readonly now: number;
  /** Unix milliseconds, for the one header field that wants them. */
  readonly wallNow: number;
}

export type Output =
  /** One binary WebSocket message; a view that is valid until the next call. */
  | { readonly kind: 'transmit'; readonly frame: Uint8Array }
  /** The text frame that opens a socket. */
  | { readonly kind: 'transmit-text'; readonly text: string }
  /** Stream bytes in order, never empty; a view that is valid until the next call. */
  | { readonly kind: 'deliver'; readonly payload: Uint8Array }
  | {
      readonly kind: 'opened';
      readonly mode: 'basic' | 'mux';
      readonly agentVersion: string;
      readonly properties: Record<string, string>;
      readonly announcedVersion: string;
      readonly smuxKeepAlive: boolean;
    }
  /** A flag of the agent's; 3 says that it could not connect to the port. */
  | { readonly kind: 'flag'; readonly value: number }
  /** The service says that the agent's side is gone, or back. */
  | { readonly kind: 'publication'; readonly paused: boolean }
  /** The socket must be replaced; at most once per socket. */
  | { readonly kind: 'reconnect'; readonly reason: string }
  /** The TerminateSession flag was acknowledged. */
  | { readonly kind: 'terminated' }
  /** The service's end of the session; `incomplete` when messages before it never arrived. */
  | { readonly kind: 'closed'; readonly output: string; readonly incomplete: boolean }
  /** The peer broke the protocol, or is no Port session; the session is over. */
  | { readonly kind: 'failed'; readonly error: BridgeError }
  /** Something arrived that has no effect; for the log. */
  | { readonly kind: 'ignored'; readonly reason: string };
