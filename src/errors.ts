/**
 * Every failure ssm-bridge can name. The part before the dot is the class of failure, which decides
 * the exit status (src/cli/report.ts); the whole code is stable and has a heading in the README.
 */
export type ErrorCode =
  | 'usage.arguments'
  | 'usage.target'
  | 'usage.config'
  | 'credentials.missing'
  | 'credentials.expired'
  | 'credentials.failed'
  | 'access.denied'
  | 'access.websocket'
  | 'target.not-connected'
  | 'target.unsuitable'
  | 'api.throttled'
  | 'api.failed'
  | 'network.unreachable'
  | 'network.timeout'
  | 'network.tls'
  | 'network.refused'
  | 'protocol.malformed'
  | 'protocol.wrong-session'
  | 'protocol.handshake'
  | 'session.lost'
  | 'session.gone'
  | 'remote.closed'
  | 'remote.unreachable'
  | 'remote.truncated'
  | 'key.denied'
  | 'key.refused'
  | 'key.throttled'
  | 'key.failed'
  | 'key.agent'
  | 'hostkey.changed'
  | 'hostkey.unavailable'
  | 'local.io'
  | 'internal';

export interface BridgeErrorOptions {
  /** What the user can do about it; one clause, no full stop. */
  readonly hint?: string;
  readonly cause?: unknown;
}

/** A failure with a stable code. `message` says what failed and why, in one clause without a full stop. */
export class BridgeError extends Error {
  readonly code: ErrorCode;
  readonly hint: string | undefined;

  constructor(code: ErrorCode, message: string, options: BridgeErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'BridgeError';
    this.code = code;
    this.hint = options.hint;
  }
}

/** Narrows to a BridgeError without relying on its class identity surviving bundling. */
export function isBridgeError(value: unknown): value is BridgeError {
  return value instanceof BridgeError;
}

/** The string `code` that Node puts on system, DNS and TLS errors. */
export function systemCode(error: unknown): string | undefined {
  if (typeof error !== 'object' || error === null || !('code' in error)) return undefined;
  return typeof error.code === 'string' ? error.code : undefined;
}

/** Why a system call failed, with its code: `no such file or directory (ENOENT)`. */
export function systemReason(error: unknown): string {
  const code = systemCode(error);
  if (code === undefined || !(error instanceof Error)) return 'it failed';
  // Node's message holds code and call as well: `ENOENT: no such file or directory, open '…'`.
  const words = /^[A-Z0-9]+: ([^,]+),/.exec(error.message)?.[1];
  return words === undefined ? code : `${words} (${code})`;
}

/**
 * Text from outside for a single terminal line. The service, the node and files have their say in messages:
 * they must not steer the terminal, nor fill it.
 */
export function oneLine(text: string, maxLength = 400): string {
  const plain = text.replace(/[\p{Cc}\p{Cf}\s]+/gu, ' ').trim();
  return plain.length > maxLength ? `${plain.slice(0, maxLength)}…` : plain;
}
