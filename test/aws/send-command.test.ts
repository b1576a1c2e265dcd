import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { silentLogger } from '../../src/logger.ts';
import { openAws } from '../../src/aws/context.ts';
import type { RunCommandResult } from '../../src/aws/send-command.ts';
import { type ApiAnswer, apiError, type ApiServer, startApiServer } from './api-server.ts';
import { failureOf } from './failures.ts';
import { enterSurroundings, keysInEnvironment, type Surroundings } from './surroundings.ts';

const node = 'mi-0123456789abcdef0';
const sent = { body: { Command: { CommandId: 'c-1', Status: 'Pending' } } };
const over = (Status: string, more: object = {}): ApiAnswer => ({
  body: { CommandId: 'c-1', InstanceId: node, Status, StatusDetails: Status, ...more },
});

let around: Surroundings;
let api: ApiServer;

beforeEach(async () => {
  around = enterSurroundings();
  api = await startApiServer(() => sent);
  around.set({
    ...keysInEnvironment,
    AWS_REGION: 'eu-central-1',
    AWS_ENDPOINT_URL_SSM: api.url,
    AWS_MAX_ATTEMPTS: '1',
  });
});
afterEach(async () => {
  await api.close();
  around.restore();
});

/** Answers SendCommand, and then GetCommandInvocation with one answer after the other, the last for ever. */
function script(...answers: ApiAnswer[]): void {
  api.answer = ({ operation }) => {
    if (operation === 'AmazonSSM.SendCommand') return sent;
    return (answers.length > 1 ? answers.shift() : answers[0]) ?? apiError('InternalServerError');
  };
}

async function run(
  timeoutSeconds = 60,
  signal = new AbortController().signal,
): Promise<RunCommandResult> {
  const aws = await openAws({ env: process.env, logger: silentLogger });
  const commands = await aws.commands();
  return await commands.run(
    { target: node, script: ['set -eu', 'echo hello'], comment: 'a test', timeoutSeconds },
    signal,
  );
}

describe('run', () => {
  it('sends the script to the node with AWS-RunShellScript', async () => {
    script(over('Success'));
    await run();
    expect(JSON.parse(api.requests[0]!.body)).toEqual({
      InstanceIds: [node],
      DocumentName: 'AWS-RunShellScript',
      Comment: 'a test',
      TimeoutSeconds: 60,
      Parameters: { commands: ['set -eu', 'echo hello'], executionTimeout: ['60'] },
    });
    expect(JSON.parse(api.requests[1]!.body)).toEqual({ CommandId: 'c-1', InstanceId: node });
  });

  it('gives the node no less time to answer than the service takes', async () => {
    script(over('Success'));
    await run(5);
    expect(JSON.parse(api.requests[0]!.body)).toMatchObject({
      TimeoutSeconds: 30,
      Parameters: { executionTimeout: ['5'] },
    });
  });

  it('gives status, output and exit code', async () => {
    const output = {
      StandardOutputContent: 'out\n',
      StandardErrorContent: 'err\n',
      ResponseCode: 0,
    };
    script(over('Success', output));
    expect(await run()).toEqual({
      status: 'Success',
      detail: 'Success',
      stdout: 'out\n',
      stderr: 'err\n',
      exitCode: 0,
    });
  });

  it('asks again until the command is over, also when the service does not know it yet', async () => {
    script(
      apiError('InvocationDoesNotExist'),
      over('Pending'),
      over('InProgress'),
      over('Success', { ResponseCode: 0 }),
    );
    expect((await run()).status).toBe('Success');
    expect(api.requests).toHaveLength(5);
  });

  it.each(['Failed', 'TimedOut', 'Cancelled'])(
    'gives a command that ended as %s',
    async (status) => {
      script(over(status, { ResponseCode: 7, StatusDetails: 'why' }));
      expect(await run()).toMatchObject({ status, detail: 'why', exitCode: 7 });
    },
  );

  it.each([
    ['AccessDeniedException', 'access.denied'],
    ['InvalidInstanceId', 'target.unsuitable'],
  ])('names %s of SendCommand', async (name, code) => {
    api.answer = () => apiError(name);
    const error = await failureOf(run());
    expect(error.code).toBe(code);
    expect(error.message).toContain(node);
  });

  it('names the action of the question when that is denied', async () => {
    script(apiError('AccessDeniedException'));
    const error = await failureOf(run());
    expect(error.code).toBe('access.denied');
    expect(error.message).toContain('ssm:GetCommandInvocation');
  });

  it('stops asking when it is given up', async () => {
    const giveUp = new AbortController();
    script(over('InProgress'));
    const { answer } = api;
    api.answer = (request) => {
      if (request.operation === 'AmazonSSM.GetCommandInvocation') giveUp.abort();
      return answer(request);
    };
    const error = await failureOf(run(60, giveUp.signal));
    expect(error.code).toBe('network.timeout');
    expect(api.requests).toHaveLength(2);
  });
});
