import { GetCommandInvocationCommand, SendCommandCommand, SSMClient } from '@aws-sdk/client-ssm';
import { setTimeout as delay } from 'node:timers/promises';
import { BridgeError } from '../errors.ts';
import { abandoned, type ApiCall, type ApiPlace, errorName } from './classify.ts';
import { type ClientBase, clientConfig } from './clients.ts';
import { sendCall } from './sdk-control-plane.ts';
import { retryThrottled } from './throttling.ts';

export interface RunCommandRequest {
  readonly target: string;
  /** Lines of a shell script. Visible in the account's command history: nothing secret. */
  readonly script: readonly string[];
  /** At most 100 characters, shown with the command in Systems Manager. */
  readonly comment: string;
  /** How long the script may run on the node, and how long the node may take to pick it up. */
  readonly timeoutSeconds: number;
}

const finalStatuses = ['Success', 'Failed', 'TimedOut', 'Cancelled'] as const;

/** Final states of an invocation, as Systems Manager names them. */
type RunCommandStatus = (typeof finalStatuses)[number];

export interface RunCommandResult {
  readonly status: RunCommandStatus;
  /** Finer than `status`: `Undeliverable`, `Delivery Timed Out`, `Terminated` and others. */
  readonly detail: string;
  /** At most 24 000 characters (GetCommandInvocation, StandardOutputContent). */
  readonly stdout: string;
  readonly stderr: string;
  /** Of the script; -1 when it did not run. */
  readonly exitCode: number;
}

/** Systems Manager Run Command with the document AWS-RunShellScript. */
export interface RunCommand {
  /**
   * Resolves when the command is over, however it ended. Rejects with access.denied, target.unsuitable,
   * credentials.*, api.* or network.* when it could not be started or followed.
   */
  run(request: RunCommandRequest, signal: AbortSignal): Promise<RunCommandResult>;
}

/** A command takes half a second at best; asking much more often only meets the API's rate limit. */
const firstPauseMs = 300;
const maxPauseMs = 3_000;
const pauseGrowth = 1.4;

/** About 20 seconds of an invocation that SendCommand announced and nobody knows. */
const maxUnknownAnswers = 12;

/** What the service allows at least (SendCommand, TimeoutSeconds). */
const minTimeoutSeconds = 30;

export class SdkRunCommand implements RunCommand {
  readonly #base: ClientBase;
  readonly #place: ApiPlace;

  constructor(base: ClientBase, place: ApiPlace) {
    this.#base = base;
    this.#place = place;
  }

  async run(request: RunCommandRequest, signal: AbortSignal): Promise<RunCommandResult> {
    // One connection for the call and the questions after it, gone when the command is over.
    const client = new SSMClient(clientConfig(this.#base, 'SSM', true));
    try {
      const commandId = await this.#start(client, request, signal);
      return await this.#follow(client, commandId, request.target, signal);
    } finally {
      client.destroy();
    }
  }

  async #start(
    client: SSMClient,
    { target, script, comment, timeoutSeconds }: RunCommandRequest,
    signal: AbortSignal,
  ): Promise<string> {
    const documentName = 'AWS-RunShellScript';
    const command = new SendCommandCommand({
      InstanceIds: [target],
      DocumentName: documentName,
      Comment: comment,
      TimeoutSeconds: Math.max(minTimeoutSeconds, timeoutSeconds),
      Parameters: { commands: [...script], executionTimeout: [String(timeoutSeconds)] },
    });
    const call: ApiCall = {
      action: 'ssm:SendCommand',
      on: target,
      policyResource: `${target} and on document ${documentName}`,
      target,
      documentName,
    };
    const output = await retryThrottled(
      () =>
        sendCall(
          () => client.send(command, { abortSignal: signal }),
          call,
          this.#place,
          this.#base,
          signal,
        ),
      signal,
      this.#base.logger,
    );
    const commandId = output.Command?.CommandId;
    if (commandId === undefined || commandId === '') {
      throw new BridgeError('protocol.malformed', 'the answer to SendCommand has no command id');
    }
    this.#base.logger.debug({ commandId, target }, 'command sent');
    return commandId;
  }

  /** Asks until the invocation is over. The signal's deadline is the only limit on the whole. */
  async #follow(
    client: SSMClient,
    commandId: string,
    target: string,
    signal: AbortSignal,
  ): Promise<RunCommandResult> {
    const command = new GetCommandInvocationCommand({ CommandId: commandId, InstanceId: target });
    const call: ApiCall = { action: 'ssm:GetCommandInvocation', on: target, target };
    const ask = async (): Promise<RunCommandResult | undefined> => {
      const output = await sendCall(
        () => client.send(command, { abortSignal: signal }),
        call,
        this.#place,
        this.#base,
        signal,
      );
      const status = finalStatuses.find((final) => final === output.Status);
      if (status === undefined) return undefined;
      return {
        status,
        detail: output.StatusDetails ?? status,
        stdout: output.StandardOutputContent ?? '',
        stderr: output.StandardErrorContent ?? '',
        exitCode: output.ResponseCode ?? -1,
      };
    };
    let unknownAnswers = 0;
    for (let pauseMs = firstPauseMs; ; pauseMs = Math.min(maxPauseMs, pauseMs * pauseGrowth)) {
      await pause(pauseMs, call, signal);
      try {
        const result = await retryThrottled(ask, signal, this.#base.logger);
        if (result !== undefined) {
          const { status, detail, exitCode } = result;
          this.#base.logger.debug({ commandId, status, detail, exitCode }, 'command over');
          return result;
        }
      } catch (error) {
        if (!isNotYetKnown(error) || ++unknownAnswers === maxUnknownAnswers) throw error;
      }
    }
  }
}

/** Just after SendCommand the invocation may not have reached every part of the service. */
function isNotYetKnown(error: unknown): boolean {
  return error instanceof BridgeError && errorName(error.cause) === 'InvocationDoesNotExist';
}

async function pause(ms: number, call: ApiCall, signal: AbortSignal): Promise<void> {
  try {
    // Drawn at random, so that parallel connections do not ask in step.
    await delay(ms * (0.75 + Math.random() / 2), undefined, { signal });
  } catch {
    throw abandoned(call, signal.reason);
  }
}
