import { execFile } from 'node:child_process';
import { generateKeyPairSync } from 'node:crypto';
import { promisify } from 'node:util';
import { afterEach, expect, test } from 'vitest';
import { nodeId, rig as makeRig, type Rig } from './fixtures.ts';
import { callApi, type Answer } from './test-client.ts';
import type { Emulator } from './types.ts';

const run = promisify(execFile);

let rig: Rig | undefined;
const setUp = async (...options: Parameters<typeof makeRig>): Promise<Emulator> => {
  rig = await makeRig(...options);
  return rig.emulator;
};

afterEach(async () => {
  await rig?.close();
  rig = undefined;
});

function publicKey(): string {
  const { publicKey: key } = generateKeyPairSync('ed25519');
  const raw = key.export({ type: 'spki', format: 'der' }).subarray(-32);
  const head = Buffer.from('0000000b7373682d6564323535313900000020', 'hex');
  return `ssh-ed25519 ${Buffer.concat([head, raw]).toString('base64')} test`;
}

function push(emulator: Emulator, input: object): Promise<Answer> {
  return callApi(
    emulator,
    'SendSSHPublicKey',
    { InstanceId: nodeId, InstanceOSUser: 'ec2-user', SSHPublicKey: publicKey(), ...input },
    { service: 'ec2-instance-connect', prefix: 'AWSEC2InstanceConnectService' },
  );
}

async function authorized(emulator: Emulator, user: string, id = nodeId): Promise<string> {
  const command = emulator.authorizedKeysCommand(id).replace('%u', user);
  const [program = '', ...args] = command.split(' ');
  return (await run(program, args)).stdout;
}

test('a pushed key is authorized for its node and user, for 60 seconds', async () => {
  const emulator = await setUp();
  const key = publicKey();
  const answer = await push(emulator, { SSHPublicKey: key });
  expect(answer.body).toMatchObject({ Success: true });
  expect(await authorized(emulator, 'ec2-user')).toBe(`${key}\n`);
  expect(await authorized(emulator, 'root')).toBe('');
  expect(await authorized(emulator, 'ec2-user', 'i-0fffffffffffffff0')).toBe('');
  emulator.clock.advance(61_000);
  expect(await authorized(emulator, 'ec2-user')).toBe('');
});

test('several keys count at once', async () => {
  const emulator = await setUp();
  await Promise.all([push(emulator, {}), push(emulator, {})]);
  expect((await authorized(emulator, 'ec2-user')).split('\n')).toHaveLength(3);
  emulator.removeKeys(nodeId);
  expect(await authorized(emulator, 'ec2-user')).toBe('');
});

const rsa1024 = 'ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQ' + 'D'.repeat(170);

test.each([
  [{ InstanceId: 'mi-0123456789abcdef0' }, 'InvalidArgsException', 400],
  [{ InstanceId: 'i-0aaaaaaaaaaaaaaaa' }, 'EC2InstanceNotFoundException', 404],
  [{ InstanceOSUser: 'no spaces' }, 'InvalidArgsException', 400],
  [{ AvailabilityZone: 'eu-west-1a' }, 'InvalidArgsException', 400],
  [{ SSHPublicKey: 'ssh-ed25519 AAAA' }, 'InvalidArgsException', 400],
  [{ SSHPublicKey: `ecdsa-sha2-nistp256 ${'A'.repeat(140)}` }, 'InvalidArgsException', 400],
  [{ SSHPublicKey: rsa1024 }, 'InvalidArgsException', 400],
])('SendSSHPublicKey refuses %j with %s', async (input, name, status) => {
  const emulator = await setUp();
  const answer = await push(emulator, input);
  expect(answer.body['__type']).toBe(name);
  expect(answer.status).toBe(status);
  expect(emulator.keys).toEqual([]);
});

test('the zone of the node is accepted', async () => {
  const emulator = await setUp();
  const answer = await push(emulator, { AvailabilityZone: 'eu-central-1a' });
  expect(answer.status).toBe(200);
});

test('pushes over the limit are throttled', async () => {
  const emulator = await setUp(undefined, { keyPushLimit: 2 });
  const answers = await Promise.all(Array.from({ length: 8 }, () => push(emulator, {})));
  const throttled = answers.filter((answer) => answer.status === 429);
  expect(throttled.length).toBeGreaterThanOrEqual(4);
  expect(throttled[0]?.body['__type']).toBe('ThrottlingException');
});

test('a push signed for another service is refused', async () => {
  const emulator = await setUp();
  const answer = await callApi(
    emulator,
    'SendSSHPublicKey',
    {},
    { service: 'ssm', prefix: 'AWSEC2InstanceConnectService' },
  );
  expect(String(answer.body['__type'])).toContain('InvalidSignatureException');
});

async function command(
  emulator: Emulator,
  script: string[],
  extra: Record<string, string[]> = {},
): Promise<{ id: string; result: () => Promise<Answer> }> {
  const sent = await callApi(emulator, 'SendCommand', {
    DocumentName: 'AWS-RunShellScript',
    InstanceIds: [nodeId],
    Parameters: { commands: script, ...extra },
    TimeoutSeconds: 30,
    Comment: 'a test',
  });
  // The answer of the emulator itself.
  const { CommandId: id } = sent.body['Command'] as { CommandId: string };
  const get = (): Promise<Answer> =>
    callApi(emulator, 'GetCommandInvocation', { CommandId: id, InstanceId: nodeId });
  const result = async (): Promise<Answer> => {
    await emulator.waitFor(
      () => !['Pending', 'InProgress'].includes(emulator.commands.at(-1)!.status),
      'the command to end',
    );
    for (;;) {
      const answer = await get();
      if (answer.status === 200) return answer;
    }
  };
  return { id, result };
}

test('a command runs for real, in the environment of its node', async () => {
  const emulator = await setUp(undefined, {}, { runCommand: { env: { HOME: '/nowhere' } } });
  const { result } = await command(emulator, ['echo "$HOME"', 'echo oops >&2', 'exit 3']);
  expect((await result()).body).toMatchObject({
    Status: 'Failed',
    ResponseCode: 3,
    StandardOutputContent: '/nowhere\n',
    StandardErrorContent: 'oops\n',
  });
});

test('a command is wrapped as the node says', async () => {
  const emulator = await setUp(undefined, {}, { runCommand: { wrap: ['env', 'WRAPPED=yes'] } });
  const { result } = await command(emulator, ['echo $WRAPPED']);
  expect((await result()).body).toMatchObject({
    Status: 'Success',
    ResponseCode: 0,
    StandardOutputContent: 'yes\n',
  });
});

test('an invocation does not exist right after SendCommand', async () => {
  const emulator = await setUp(undefined, { invocationDelayMs: 60_000 });
  const { id } = await command(emulator, ['true']);
  const answer = await callApi(emulator, 'GetCommandInvocation', {
    CommandId: id,
    InstanceId: nodeId,
  });
  expect(answer.body['__type']).toBe('InvocationDoesNotExist');
});

test('a command that runs too long is killed with all its children', async () => {
  const emulator = await setUp();
  const { result } = await command(emulator, ['sleep 600 & wait'], { executionTimeout: ['1'] });
  expect((await result()).body).toMatchObject({
    Status: 'TimedOut',
    StatusDetails: 'Execution Timed Out',
  });
});

test('a command for an offline node times out undelivered', async () => {
  const emulator = await setUp(
    undefined,
    {},
    { runCommand: { offline: true, deliveryTimeoutMs: 50 } },
  );
  const { result } = await command(emulator, ['true']);
  expect((await result()).body).toMatchObject({
    Status: 'TimedOut',
    StatusDetails: 'Delivery Timed Out',
    ResponseCode: -1,
  });
});

test.each([
  [{ runCommand: { denied: true } }, 'AccessDeniedException'],
  [{ online: false }, 'InvalidInstanceId'],
])('SendCommand to a node with %j fails', async (node, name) => {
  const emulator = await setUp(undefined, {}, node);
  const answer = await callApi(emulator, 'SendCommand', {
    DocumentName: 'AWS-RunShellScript',
    InstanceIds: [nodeId],
    Parameters: { commands: ['true'] },
  });
  expect(answer.body['__type']).toBe(name);
});

test('long output is cut off', async () => {
  const emulator = await setUp();
  const { result } = await command(emulator, ['head -c 100000 /dev/zero | tr "\\0" x']);
  const { body } = await result();
  expect(String(body['StandardOutputContent'])).toHaveLength(24_000);
});
