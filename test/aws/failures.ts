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

/** An error as report.ts would print it, with its causes, which a debug log may show. */
export function shown(error: BridgeError): string {
  return `${error.message}; ${error.hint ?? ''}`;
}
