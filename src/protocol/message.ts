/** What one WebSocket message can turn out to be. Payloads are views into the bytes received. */

export type StreamMessageType = 'input_stream_data' | 'output_stream_data';

/** Sequenced and acknowledged: handshake, data and flags of either direction. */
export interface StreamMessage {
  readonly kind: 'stream';
  readonly messageType: StreamMessageType;
  readonly seq: number;
  readonly payloadType: number;
  readonly payload: Uint8Array;
  /** The whole message, for the id to acknowledge and the digest; whether that fits says `isIntact`. */
  readonly frame: Uint8Array;
}

export interface AcknowledgeMessage {
  readonly kind: 'acknowledge';
  readonly payload: Uint8Array;
  readonly frame: Uint8Array;
}

/** The service's last word. Made by the service, so its digest is not relied on. */
export interface ChannelClosedMessage {
  readonly kind: 'channel-closed';
  readonly payload: Uint8Array;
}

/** pause_publication or start_publication; nothing but the type can be trusted in these. */
export interface PublicationMessage {
  readonly kind: 'publication';
  readonly paused: boolean;
}

/** A type this client has no use for. */
export interface OtherMessage {
  readonly kind: 'other';
  readonly messageType: string;
}

/** Bytes that are no message. */
export interface MalformedMessage {
  readonly kind: 'malformed';
  readonly reason: string;
}

export type Message =
  | StreamMessage
  | AcknowledgeMessage
  | ChannelClosedMessage
  | PublicationMessage
  | OtherMessage
  | MalformedMessage;

/** A stream message to be encoded; its id comes from a MessageIdSource. */
export interface OutgoingStreamMessage extends Omit<StreamMessage, 'kind' | 'frame'> {
  readonly flags: number;
  /** Unix milliseconds. */
  readonly createdAt: number;
}
