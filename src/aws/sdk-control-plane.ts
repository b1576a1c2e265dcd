import {
  ResumeSessionCommand,
  SSMClient,
  StartSessionCommand,
  type StartSessionCommandOutput,
  TerminateSessionCommand,
} from '@aws-sdk/client-ssm';
import type { Agent as HttpAgent } from 'node:http';
import { BridgeError } from '../errors.ts';
import { isConnected } from './agent.ts';
import {
  abandoned,
  type ApiCall,
  type ApiPlace,
  classifyApiError,
  errorName,
  isExpired,
} from './classify.ts';
import { type ClientBase, clientConfig } from './clients.ts';
import type {
  ControlPlane,
  ResumeGrant,
  SessionGrant,
  StartSessionRequest,
} from './control-plane.ts';
import { isPresigned, signUpgrade } from './sign-upgrade.ts';
import { checkStreamUrl, loggableStreamUrl } from './stream-url.ts';

/** For how long the answer to a StartSession that was given up is still waited for. */
const overtimeMs = 5_000;

/** The SSM API over the AWS SDK. Made once per process; its connection is opened with the first call. */
export class SdkControlPlane implements ControlPlane {
  readonly #base: ClientBase;
  readonly #place: ApiPlace;
  readonly #client: SSMClient;
  readonly #agents: readonly HttpAgent[];

  constructor(base: ClientBase, place: ApiPlace) {
    this.#base = base;
    this.#place = place;
    const config = clientConfig(base, 'SSM', false);
    this.#agents = [config.requestHandler.httpsAgent, config.requestHandler.httpAgent];
    this.#client = new SSMClient(config);
  }

  async startSession(
    request: StartSessionRequest,
    signal: AbortSignal,
    left = new AbortController().signal,
  ): Promise<SessionGrant> {
    const { target, documentName, reason } = request;
    const command = new StartSessionCommand({
      Target: target,
      DocumentName: documentName,
      Parameters: Object.fromEntries(
        Object.entries(request.parameters).map(([name, values]) => [name, [...values]]),
      ),
      ...(reason === undefined ? {} : { Reason: reason }),
    });
    const call: ApiCall = {
      action: 'ssm:StartSession',
      on: target,
      policyResource: `${target} and on document ${documentName}`,
      target,
      documentName,
    };
    const limit = new AbortController();
    const onSignal = (): void => {
      limit.abort(signal.reason);
    };
    const onLeft = (): void => {
      // The connections of this client are for one call each: without one, nothing has been sent.
      if (isConnected(this.#agents)) return;
      limit.abort(left.reason);
      for (const agent of this.#agents) agent.destroy();
    };
    signal.addEventListener('abort', onSignal);
    left.addEventListener('abort', onLeft);
    if (signal.aborted) onSignal();
    else if (left.aborted) onLeft();
    let output: StartSessionCommandOutput;
    try {
      output = await this.#send(() => this.#start(command, limit.signal), call, limit.signal);
    } finally {
      signal.removeEventListener('abort', onSignal);
      left.removeEventListener('abort', onLeft);
    }
    const { SessionId: sessionId, TokenValue: tokenValue, StreamUrl: streamUrl } = output;
    if (!sessionId || !tokenValue || !streamUrl) {
      throw new BridgeError('protocol.malformed', 'the answer to StartSession is incomplete', {
        hint: 'check the endpoint URL, if one is configured',
      });
    }
    this.#checkUrl(streamUrl);
    this.#base.logger.debug(
      { sessionId, streamUrl: loggableStreamUrl(streamUrl) },
      'session started',
    );
    return { sessionId, tokenValue, streamUrl };
  }

  async resumeSession(sessionId: string, signal: AbortSignal): Promise<ResumeGrant | undefined> {
    this.#base.credentials.freshen();
    const command = new ResumeSessionCommand({ SessionId: sessionId });
    const call: ApiCall = {
      action: 'ssm:ResumeSession',
      on: sessionId,
      policyResource: 'its own sessions',
    };
    try {
      const output = await this.#send(
        () => this.#client.send(command, { abortSignal: signal }),
        call,
        signal,
      );
      const tokenValue = output.TokenValue;
      if (!tokenValue) return undefined;
      const streamUrl = output.StreamUrl === '' ? undefined : output.StreamUrl;
      if (streamUrl !== undefined) this.#checkUrl(streamUrl);
      this.#base.logger.debug({ sessionId, isNewUrl: streamUrl !== undefined }, 'session resumed');
      return { tokenValue, streamUrl };
    } catch (error) {
      if (error instanceof BridgeError && error.code === 'session.gone') return undefined;
      throw error;
    }
  }

  async terminateSession(sessionId: string, signal: AbortSignal): Promise<void> {
    const command = new TerminateSessionCommand({ SessionId: sessionId });
    const call: ApiCall = {
      action: 'ssm:TerminateSession',
      on: sessionId,
      policyResource: 'its own sessions',
    };
    await this.#send(() => this.#client.send(command, { abortSignal: signal }), call, signal);
    this.#base.logger.debug({ sessionId }, 'session terminated');
  }

  async signUpgrade(
    streamUrl: string,
    signal: AbortSignal,
  ): Promise<Readonly<Record<string, string>>> {
    if (isPresigned(streamUrl)) return {};
    const call: ApiCall = { action: 'ssmmessages:OpenDataChannel', on: 'the session' };
    const credentials = await untilAborted(this.#base.credentials.resolve(), call, signal);
    // The SDK has learnt from the API's answers how far this computer's clock is off.
    const signingDate = new Date(Date.now() + this.#client.config.systemClockOffset);
    return await signUpgrade(streamUrl, this.#base.settings.region, credentials, signingDate);
  }

  /**
   * A call that is given up may still start a session, of which only its answer tells the id. So the answer
   * is waited for a little longer, and a session that nobody wants any more is ended.
   */
  #start(command: StartSessionCommand, signal: AbortSignal): Promise<StartSessionCommandOutput> {
    const overtime = new AbortController();
    let timer: NodeJS.Timeout | undefined;
    const onAbort = (): void => {
      if (!isConnected(this.#agents)) {
        overtime.abort();
        return;
      }
      timer = setTimeout(() => {
        overtime.abort();
      }, overtimeMs);
    };
    if (signal.aborted)
      return Promise.reject(abandoned({ action: 'ssm:StartSession' }, signal.reason));
    signal.addEventListener('abort', onAbort, { once: true });
    const answer = this.#client.send(command, { abortSignal: overtime.signal });
    const settle = async (): Promise<void> => {
      try {
        const { SessionId: sessionId } = await answer;
        if (!signal.aborted || !sessionId) return;
        this.#base.logger.debug({ sessionId }, 'ending a session that started too late');
        await this.terminateSession(sessionId, AbortSignal.timeout(overtimeMs));
      } catch {
        // No session, or one that policy does not let us end: its caller has been told what matters.
      } finally {
        clearTimeout(timer);
        signal.removeEventListener('abort', onAbort);
      }
    };
    void settle();
    return answer;
  }

  #checkUrl(streamUrl: string): void {
    checkStreamUrl(streamUrl, this.#base.settings.endpoints.SSM !== undefined);
  }

  async #send<Output>(
    send: () => Promise<Output>,
    call: ApiCall,
    signal: AbortSignal,
  ): Promise<Output> {
    return await sendCall(send, call, this.#place, this.#base, signal);
  }
}

/**
 * Sends a command; once more with newly resolved credentials if the service calls the present ones
 * expired. Rejects with BridgeError only.
 */
export async function sendCall<Output>(
  send: () => Promise<Output>,
  call: ApiCall,
  place: ApiPlace,
  { credentials, logger }: Pick<ClientBase, 'credentials' | 'logger'>,
  signal: AbortSignal,
): Promise<Output> {
  try {
    try {
      return await untilAborted(send(), call, signal);
    } catch (error) {
      if (!isExpired(error) || !credentials.isRenewable || signal.aborted) throw error;
      logger.debug({ action: call.action }, 'credentials were called expired; resolving them anew');
      credentials.invalidate();
      return await untilAborted(send(), call, signal);
    }
  } catch (error) {
    logger.debug({ action: call.action, error: errorName(error) }, 'API call failed');
    throw classifyApiError(error, call, place, signal);
  }
}

/** The SDK's credential chain does not look at abort signals. */
function untilAborted<T>(promise: Promise<T>, call: ApiCall, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const onAbort = (): void => {
      reject(abandoned(call, signal.reason));
    };
    signal.addEventListener('abort', onAbort, { once: true });
    if (signal.aborted) onAbort();
    promise.then(resolve, reject).finally(() => {
      signal.removeEventListener('abort', onAbort);
    });
  });
}
