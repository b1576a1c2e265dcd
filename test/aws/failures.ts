import { inspect } from 'node:util';
import { BridgeError } from '../../src/errors.ts';

/** The BridgeError that a promise rejects with; anything else fails the test. */
export async function failureOf(promise: Promise<unknown>): Promise<BridgeError> {
  const error: unknown = await promise.then(
    () => new Error('did not fail'),
    (reason: unknown) => reason,
  );
  if (error instanceof BridgeError) return error;
  throw error;
}

/** Every secret of the test surroundings; none may show up in what a user sees. */
export const secrets = /wJalrXUtnFEMI|session-token-of-the-test|token-1|Signature=/;

/** All there is to an error: what report.ts prints, and whatever a log could reach from it. */
export function shown(error: BridgeError): string {
  return inspect(error, { depth: 30, showHidden: true, maxStringLength: null });
}

/** An error as report.ts prints it. */
export function printed(error: BridgeError): string {
  return `${error.message}; ${error.hint ?? ''}`;
}
