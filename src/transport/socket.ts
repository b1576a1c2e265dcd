import type { BridgeError } from '../errors.ts';

/** One WebSocket connection of a data channel. It may be replaced; the channel outlives it. */
export interface ChannelSocket {
  sendText(text: string): void;
  /**
   * Sends the message as one unfragmented binary frame, together with the others of this turn of the
   * event loop. It has been copied when this returns.
   */
  sendBinary(message: Uint8Array): void;
  /** Sends what has been gathered in this turn now. */
  flush(): void;
  ping(): void;
  /** Stops reading, so that TCP holds the peer back. Pings are not answered meanwhile. */
  pause(): void;
  resume(): void;
  /** Bytes accepted by sendText and sendBinary that the kernel has not taken yet. */
  readonly bufferedBytes: number;
  /** Sends what has been gathered, starts the closing handshake and gives the peer a moment to answer. */
  close(code: number): void;
  /** Drops the connection now. */
  destroy(): void;
}

/** What a socket tells its owner. After `onEnd` nothing more is called. */
export interface ChannelSocketEvents {
  onMessage(data: Uint8Array): void;
  onText(text: string): void;
  /** Any sign of life that is not a message: ping or pong. */
  onActivity(): void;
  /** bufferedBytes has fallen to zero after having been large. */
  onDrain(): void;
  onEnd(end: SocketEnd): void;
}

export type SocketEnd =
  | { readonly kind: 'closed'; readonly code: number; readonly reason: string }
  | { readonly kind: 'error'; readonly error: BridgeError };

/**
 * Dials and upgrades. Resolves once the upgrade has succeeded; rejects with BridgeError
 * (network.*, access.websocket) when it has not, or when `signal` aborts. The socket starts paused:
 * nothing is told to `events` before its owner has called resume().
 */
export type OpenSocket = (
  request: SocketRequest,
  events: ChannelSocketEvents,
  signal: AbortSignal,
) => Promise<ChannelSocket>;

export interface SocketRequest {
  readonly url: string;
  /** Signature headers. Secret. */
  readonly headers: Readonly<Record<string, string>>;
}
