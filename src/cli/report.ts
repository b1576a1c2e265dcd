import { isBridgeError, oneLine } from '../errors.ts';
import type { ErrorCode } from '../errors.ts';
import { rememberFailure } from './last-error.ts';
import { isStderrUnread, writeStderr } from './stderr.ts';

/** The class of an error code: what stands before its dot. */
type ErrorClass = ErrorCode extends infer Code
  ? Code extends `${infer Class}.${string}`
    ? Class
    : Code
  : never;

/** Exit statuses are decided here and nowhere else. 0 is a session that ended as it should. */
export const exitStatuses: Readonly<Record<ErrorClass, number>> = {
  internal: 1,
  usage: 2,
  credentials: 3,
  access: 4,
  target: 5,
  network: 6,
  protocol: 7,
  session: 8,
  remote: 9,
  key: 10,
  hostkey: 11,
  api: 12,
  local: 13,
};

const maxLineLength = 1000;

/** Says on stderr, in one line, what failed, why and what to do; gives the exit status that goes with it. */
export function report(error: unknown, target: string | undefined, env: NodeJS.ProcessEnv): number {
  const line = errorLine(error, target);
  if (isStderrUnread()) rememberFailure(line, env);
  else writeStderr(line);
  return exitStatusOf(error);
}

export function errorLine(error: unknown, target: string | undefined): string {
  const hint = isBridgeError(error) && error.hint !== undefined ? `; ${error.hint}` : '';
  const what = isBridgeError(error) ? error.message : `internal error: ${describe(error)}`;
  return prefixed(target, what + hint);
}

/** A line as it stands on stderr. In a chain of hops the target tells the lines of the bridges apart. */
export function prefixed(target: string | undefined, text: string): string {
  if (target === undefined) return oneLine(`ssm-bridge: ${text}`, maxLineLength);
  // "i-0: i-0 is not connected" says the same with less.
  const rest = text.startsWith(`${target} is `) ? text.slice(`${target} is `.length) : text;
  return oneLine(`ssm-bridge: ${target}: ${rest}`, maxLineLength);
}

export function exitStatusOf(error: unknown): number {
  if (!isBridgeError(error)) return exitStatuses.internal;
  // Every ErrorCode begins with an ErrorClass; the type of split() cannot say so.
  return exitStatuses[error.code.split('.')[0] as ErrorClass];
}

function describe(error: unknown): string {
  return error instanceof Error ? `${error.name}: ${error.message}` : String(error);
}
