import type { ControlPlane } from '../aws/control-plane.ts';
import { BridgeError } from '../errors.ts';
import type { Logger } from '../logger.ts';
import type { Clock } from './clock.ts';
import { within } from './deadline.ts';

/** Nobody is kept waiting longer than this for an end that the service brings about anyway in time. */
const callLimitMs = 2_000;

export interface TerminateSupplies {
  readonly controlPlane: Pick<ControlPlane, 'terminateSession'>;
  readonly clock: Clock;
  readonly logger: Logger;
}

/** Ends the session by the API. Never rejects: a refusal is often policy, and then the idle timeout ends it. */
export async function terminateByCall(
  supplies: TerminateSupplies,
  sessionId: string,
): Promise<void> {
  const { controlPlane, clock, logger } = supplies;
  const tooSlow = (): BridgeError =>
    new BridgeError('network.timeout', 'TerminateSession did not answer in time');
  const never = new AbortController().signal;
  try {
    await within(never, callLimitMs, clock, tooSlow, (signal) =>
      controlPlane.terminateSession(sessionId, signal),
    );
    logger.debug({}, 'session terminated by the API');
  } catch (error) {
    const code = error instanceof BridgeError ? error.code : 'internal';
    logger.debug({ code }, 'TerminateSession call failed');
  }
}
