/**
 * The JSON inside messages. Parsing is tolerant (keys may be missing, extra or of another type) and
 * bounded in size; what a peer wrote is made printable before a person may see it.
 */
import { readLatin1, readUtf8, utf8Bytes } from './bytes.ts';
import {
  MAX_ACKNOWLEDGE_BYTES,
  MAX_JSON_BYTES,
  MAX_SHOWN_NAME,
  MAX_SHOWN_OUTPUT,
} from './constants.ts';

// ---- acknowledge --------------------------------------------------------------------------------

/** The form every known agent writes; anything else takes the way through JSON.parse. */
const USUAL_ACKNOWLEDGE =
  /^\{"AcknowledgedMessageType":"[a-z_]+","AcknowledgedMessageId":"[0-9a-f-]{36}","AcknowledgedMessageSequenceNumber":(\d{1,15}),"IsSequentialMessage":true\}$/;

/** The acknowledged sequence number, or undefined when the payload does not name one. */
export function parseAcknowledgedSeq(payload: Uint8Array): number | undefined {
  if (payload.length > MAX_ACKNOWLEDGE_BYTES) return undefined;
  const usual = USUAL_ACKNOWLEDGE.exec(readLatin1(payload, 0, payload.length));
  if (usual !== null) return Number(usual[1]);
  const seq = parseObject(payload)?.['AcknowledgedMessageSequenceNumber'];
  return Number.isSafeInteger(seq) && typeof seq === 'number' && seq >= 0 ? seq : undefined;
}

// ---- handshake ----------------------------------------------------------------------------------

export interface HandshakeRequest {
  readonly agentVersion: string;
  readonly actions: readonly RequestedAction[];
}

export interface RequestedAction {
  readonly actionType: string;
  readonly parameters: JsonObject;
}

export interface ProcessedAction {
  readonly actionType: string;
  readonly status: number;
  readonly error: string;
}

export function parseHandshakeRequest(payload: Uint8Array): HandshakeRequest | undefined {
  const request = parseObject(payload);
  if (request === undefined) return undefined;
  const requested = request['RequestedClientActions'];
  const actions: RequestedAction[] = [];
  for (const value of Array.isArray(requested) ? (requested as readonly unknown[]) : []) {
    const action = objectOf(value);
    if (action === undefined) return undefined;
    actions.push({
      actionType: textOf(action['ActionType']),
      parameters: objectOf(action['ActionParameters']) ?? {},
    });
  }
  return { agentVersion: textOf(request['AgentVersion']), actions };
}

export function handshakeResponse(
  clientVersion: string,
  actions: readonly ProcessedAction[],
): Uint8Array {
  const response = {
    ClientVersion: clientVersion,
    ProcessedClientActions: actions.map((action) => ({
      ActionType: action.actionType,
      ActionStatus: action.status,
      ActionResult: null,
      Error: action.error,
    })),
    Errors: null,
  };
  return utf8Bytes(JSON.stringify(response));
}

/** Session properties: text by text. Numbers and booleans are taken as their text. */
export function propertiesOf(value: unknown): Record<string, string> {
  const pairs: [string, string][] = [];
  for (const [key, item] of Object.entries(objectOf(value) ?? {})) {
    if (typeof item === 'string') pairs.push([key, item]);
    else if (typeof item === 'number' || typeof item === 'boolean') pairs.push([key, String(item)]);
  }
  return Object.fromEntries(pairs);
}

// ---- channel_closed -----------------------------------------------------------------------------

/** The service's text for a person; empty for a normal end and when there is none to be read. */
export function parseChannelClosedOutput(payload: Uint8Array): string {
  return printable(textOf(parseObject(payload)?.['Output']), MAX_SHOWN_OUTPUT);
}

// ---- open data channel --------------------------------------------------------------------------

export interface OpenDataChannel {
  readonly requestId: string;
  readonly tokenValue: string;
  readonly clientId: string;
  readonly clientVersion: string;
}

/** The text frame that opens each socket. */
export function openDataChannelJson(input: OpenDataChannel): string {
  return JSON.stringify({
    MessageSchemaVersion: '1.0',
    RequestId: input.requestId,
    TokenValue: input.tokenValue,
    ClientId: input.clientId,
    ClientVersion: input.clientVersion,
  });
}

// ---- parts --------------------------------------------------------------------------------------

export type JsonObject = Readonly<Record<string, unknown>>;

/** A short name from the peer, fit for an error message. */
export function shownName(text: string): string {
  return printable(text, MAX_SHOWN_NAME) || '(none)';
}

/** Without control characters but line feeds and tabs, so that no terminal obeys a peer. */
function printable(text: string, maxLength: number): string {
  return text.slice(0, maxLength).replace(/[\0-\x08\x0b-\x1f\x7f-\x9f]/g, '');
}

function parseObject(payload: Uint8Array): JsonObject | undefined {
  if (payload.length > MAX_JSON_BYTES) return undefined;
  // Service-made payloads may be padded with NULs like their types.
  const text = readUtf8(payload).replace(/\0+$/, '');
  try {
    return objectOf(JSON.parse(text));
  } catch {
    // Not JSON: the caller decides what a missing object means.
    return undefined;
  }
}

function objectOf(value: unknown): JsonObject | undefined {
  // The check leaves an object with unknown members, which is what the type says.
  return typeof value === 'object' && value !== null && !Array.isArray(value)
    ? (value as JsonObject)
    : undefined;
}

function textOf(value: unknown): string {
  return typeof value === 'string' ? value : '';
}
