import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { silentLogger } from '../../src/logger.ts';
import { openAws } from '../../src/aws/context.ts';
import { apiError, type ApiServer, startApiServer } from './api-server.ts';
import { failureOf, secrets, shown } from './failures.ts';
import { enterSurroundings, keysInEnvironment, type Surroundings } from './surroundings.ts';

const node = 'i-0123456789abcdef0';
const publicKey = 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ8f test';
const success = { body: { RequestId: 'r', Success: true } };

let around: Surroundings;
let api: ApiServer;

beforeEach(async () => {
  around = enterSurroundings();
  api = await startApiServer(() => success);
  around.set({
    ...keysInEnvironment,
    AWS_REGION: 'eu-central-1',
    AWS_ENDPOINT_URL_EC2_INSTANCE_CONNECT: api.url,
    AWS_MAX_ATTEMPTS: '1',
  });
  // All pauses between attempts are drawn; none takes time here.
  vi.spyOn(Math, 'random').mockReturnValue(0);
});
afterEach(async () => {
  vi.restoreAllMocks();
  await api.close();
  around.restore();
});

async function push(
  signal = new AbortController().signal,
  zone?: string,
  osUser = 'admin',
): Promise<void> {
  const aws = await openAws({ env: process.env, logger: silentLogger });
  const connect = await aws.instanceConnect();
  const request = { instanceId: node, osUser, publicKey };
  await connect.sendSshPublicKey({ ...request, availabilityZone: zone }, signal);
}

describe('sendSshPublicKey', () => {
  it('sends instance, user and key to EC2 Instance Connect', async () => {
    await push();
    expect(api.requests[0]!.operation).toBe('AWSEC2InstanceConnectService.SendSSHPublicKey');
    expect(JSON.parse(api.requests[0]!.body)).toEqual({
      InstanceId: node,
      InstanceOSUser: 'admin',
      SSHPublicKey: publicKey,
    });
    expect(api.requests[0]!.headers.authorization).toContain('/ec2-instance-connect/aws4_request');
  });

  it('sends the availability zone when given', async () => {
    await push(undefined, 'eu-central-1a');
    expect(JSON.parse(api.requests[0]!.body)).toMatchObject({ AvailabilityZone: 'eu-central-1a' });
  });

  it.each([
    ['AuthException', 'key.denied'],
    ['AccessDeniedException', 'key.denied'],
    ['InvalidArgsException', 'key.refused'],
    ['EC2InstanceNotFoundException', 'target.unsuitable'],
    ['EC2InstanceStateInvalidException', 'target.unsuitable'],
    ['EC2InstanceUnavailableException', 'target.unsuitable'],
    ['EC2InstanceTypeInvalidException', 'target.unsuitable'],
    ['ServiceException', 'key.failed'],
    ['ExpiredTokenException', 'credentials.expired'],
  ])('names %s', async (name, code) => {
    api.answer = () => apiError(name);
    const error = await failureOf(push());
    expect(error.code).toBe(code);
    expect(shown(error)).not.toMatch(secrets);
  });

  it('names the IAM action and the condition when denied', async () => {
    api.answer = () => apiError('AuthException');
    const { hint } = await failureOf(push());
    expect(hint).toContain('ec2-instance-connect:SendSSHPublicKey');
    expect(hint).toContain('ec2:osuser');
    expect(hint).toContain('admin');
  });

  it('rejects when the answer says that it had no success', async () => {
    api.answer = () => ({ body: { RequestId: 'r', Success: false } });
    expect((await failureOf(push())).code).toBe('key.failed');
  });

  it('comes through for a crowd of 50 of which each is throttled three times', async () => {
    const calls = new Map<string, number>();
    api.answer = ({ body }) => {
      const count = (calls.get(body) ?? 0) + 1;
      calls.set(body, count);
      return count > 3 ? success : apiError('ThrottlingException');
    };
    await Promise.all(Array.from({ length: 50 }, (_, i) => push(undefined, undefined, `u${i}`)));
    expect([...calls.values()]).toEqual(Array.from({ length: 50 }, () => 4));
  });

  it('gives up at last when it is throttled throughout', async () => {
    api.answer = () => apiError('ThrottlingException');
    expect((await failureOf(push())).code).toBe('key.throttled');
    expect(api.requests).toHaveLength(8);
  });

  it('stops waiting for its turn when it is given up', async () => {
    vi.spyOn(Math, 'random').mockReturnValue(1);
    const giveUp = new AbortController();
    api.answer = () => {
      setImmediate(() => {
        giveUp.abort();
      });
      return apiError('ThrottlingException');
    };
    const error = await failureOf(push(giveUp.signal));
    expect(['key.throttled', 'network.timeout']).toContain(error.code);
    expect(api.requests).toHaveLength(1);
  });
});
