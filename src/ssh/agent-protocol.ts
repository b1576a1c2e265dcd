/**
 * The agent protocol (draft-ietf-sshm-ssh-agent): frames of a length, a type and fields. Only what one
 * identity needs is spoken; everything else is answered with FAILURE. Two private messages between
 * bridges ride on the same socket: a lease, and its end by hand-over.
 */
import { concat, encodeString, encodeUint32, WireError, WireReader } from './wire.ts';

const FAILURE = 5;
const SUCCESS = 6;
const REQUEST_IDENTITIES = 11;
const IDENTITIES_ANSWER = 12;
const SIGN_REQUEST = 13;
const SIGN_RESPONSE = 14;
const EXTENSION = 27;
/** Numbers 240 to 255 are for private use. */
const TAKE_OVER = 240;
const PUSH_FAILED = 241;

const LEASE = 'lease@ssm-bridge';

/** What ssh asks to be signed is below 2 KiB; keys of other agents may make longer lists. */
export const MAX_FRAME_LENGTH = 256 * 1024;

/** Cuts a byte stream into frames. `feed` throws WireError for a length that cannot be. */
export class FrameReader {
  readonly #maxLength: number;
  #pending: Uint8Array = new Uint8Array(0);

  constructor(maxLength: number = MAX_FRAME_LENGTH) {
    this.#maxLength = maxLength;
  }

  feed(bytes: Uint8Array): Uint8Array[] {
    this.#pending = concat(this.#pending, bytes);
    const frames: Uint8Array[] = [];
    while (this.#pending.length >= 4) {
      const length = new WireReader(this.#pending).uint32();
      if (length === 0 || length > this.#maxLength) throw new WireError('impossible frame length');
      if (this.#pending.length < 4 + length) break;
      frames.push(this.#pending.slice(4, 4 + length));
      this.#pending = this.#pending.slice(4 + length);
    }
    return frames;
  }
}

export type AgentRequest =
  | { readonly kind: 'list' }
  | { readonly kind: 'sign'; readonly blob: Uint8Array; readonly data: Uint8Array }
  | { readonly kind: 'lease'; readonly destination: string }
  | { readonly kind: 'other' };

/** What a client of the agent wants. Malformed requests are `other`: they get FAILURE like any unknown one. */
export function decodeRequest(frame: Uint8Array): AgentRequest {
  try {
    const reader = new WireReader(frame);
    switch (reader.byte()) {
      case REQUEST_IDENTITIES:
        return { kind: 'list' };
      case SIGN_REQUEST: {
        const blob = reader.string();
        const data = reader.string();
        reader.uint32(); // Flags choose among RSA signatures; an ed25519 key has one kind only.
        return { kind: 'sign', blob, data };
      }
      case EXTENSION:
        return reader.text() === LEASE
          ? { kind: 'lease', destination: reader.text() }
          : { kind: 'other' };
      default:
        return { kind: 'other' };
    }
  } catch (error) {
    if (error instanceof WireError) return { kind: 'other' };
    throw error;
  }
}

export interface Identity {
  readonly blob: Uint8Array;
  readonly comment: string;
}

export interface PushFailure {
  readonly code: string;
  readonly message: string;
  readonly hint: string;
}

export type AgentReply =
  | { readonly kind: 'identities'; readonly identities: readonly Identity[] }
  /** The lease is held while the connection lasts. `isCovered`: the owner pushes to the same destination. */
  | { readonly kind: 'lease'; readonly isCovered: boolean; readonly blob: Uint8Array }
  /** The owner is about to end and this holder is to put its own agent in its place. */
  | { readonly kind: 'take-over' }
  | { readonly kind: 'push-failed'; readonly failure: PushFailure }
  | { readonly kind: 'failure' };

export function decodeReply(frame: Uint8Array): AgentReply {
  const reader = new WireReader(frame);
  switch (reader.byte()) {
    case IDENTITIES_ANSWER:
      return { kind: 'identities', identities: readIdentities(reader) };
    case SUCCESS:
      return { kind: 'lease', isCovered: reader.byte() === 1, blob: reader.string() };
    case TAKE_OVER:
      return { kind: 'take-over' };
    case PUSH_FAILED: {
      const [code, message, hint] = [reader.text(), reader.text(), reader.text()];
      return { kind: 'push-failed', failure: { code, message, hint } };
    }
    default:
      return { kind: 'failure' };
  }
}

function readIdentities(reader: WireReader): Identity[] {
  const count = reader.uint32();
  const identities: Identity[] = [];
  // Every identity takes bytes, so a false count runs into the end of the frame.
  for (let index = 0; index < count; index++) {
    identities.push({ blob: reader.string(), comment: reader.text() });
  }
  return identities;
}

export function encodeListRequest(): Uint8Array {
  return frame(REQUEST_IDENTITIES);
}

export function encodeLeaseRequest(destination: string): Uint8Array {
  return frame(EXTENSION, encodeString(LEASE), encodeString(destination));
}

export function encodeIdentities(identities: readonly Identity[]): Uint8Array {
  const fields = identities.flatMap(({ blob, comment }) => [
    encodeString(blob),
    encodeString(comment),
  ]);
  return frame(IDENTITIES_ANSWER, encodeUint32(identities.length), ...fields);
}

export function encodeSignature(signature: Uint8Array): Uint8Array {
  return frame(SIGN_RESPONSE, encodeString(signature));
}

export function encodeLease(isCovered: boolean, blob: Uint8Array): Uint8Array {
  return frame(SUCCESS, new Uint8Array([isCovered ? 1 : 0]), encodeString(blob));
}

export function encodeTakeOver(): Uint8Array {
  return frame(TAKE_OVER);
}

export function encodePushFailed({ code, message, hint }: PushFailure): Uint8Array {
  return frame(PUSH_FAILED, encodeString(code), encodeString(message), encodeString(hint));
}

export function encodeFailure(): Uint8Array {
  return frame(FAILURE);
}

function frame(type: number, ...fields: readonly Uint8Array[]): Uint8Array {
  return encodeString(concat(new Uint8Array([type]), ...fields));
}
