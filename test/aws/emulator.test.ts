import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { WebSocket } from 'ws';
import { silentLogger } from '../../src/logger.ts';
import { classifyUpgradeFailure } from '../../src/aws/classify-upgrade.ts';
import { type Aws, openAws } from '../../src/aws/context.ts';
import type { SessionGrant } from '../../src/aws/control-plane.ts';
import { type Emulator, startEmulator } from '../emulator/emulator.ts';
import { failureOf } from './failures.ts';
import { enterSurroundings, type Surroundings } from './surroundings.ts';

const node = 'i-0123456789abcdef0';
const hybrid = 'mi-0123456789abcdef0';
const request = {
  target: node,
  documentName: 'AWS-StartSSHSession',
  parameters: { portNumber: ['22'] },
  reason: undefined,
};

let around: Surroundings;
let emulator: Emulator;

async function emulate(options: Partial<Parameters<typeof startEmulator>[0]> = {}): Promise<void> {
  emulator = await startEmulator({
    nodes: [{ id: node }, { id: hybrid }],
    ...options,
  });
  around.set(emulator.env);
}

beforeEach(() => {
  around = enterSurroundings();
});
afterEach(async () => {
  vi.restoreAllMocks();
  await emulator.close();
  around.restore();
});

function open(): Promise<Aws> {
  return openAws({ env: process.env, logger: silentLogger });
}

const forever = new AbortController().signal;

/** The status of the upgrade of a stream URL, signed by us and checked by the emulator's own SigV4. */
async function upgrade(aws: Aws, grant: Pick<SessionGrant, 'streamUrl'>): Promise<number> {
  const headers = await aws.controlPlane.signUpgrade(grant.streamUrl, forever);
  return await new Promise((resolve, reject) => {
    const socket = new WebSocket(grant.streamUrl, {
      headers,
      ca: [...(aws.ca ?? [])],
      perMessageDeflate: false,
    });
    socket.on('unexpected-response', (_request, { statusCode = 0 }) => {
      resolve(statusCode);
      socket.terminate();
    });
    socket.on('open', () => {
      resolve(101);
      socket.terminate();
    });
    socket.on('error', reject);
  });
}

describe('against the emulator', () => {
  it('starts a session, signs its upgrade, resumes and terminates it', async () => {
    await emulate();
    const aws = await open();
    const grant = await aws.controlPlane.startSession(request, forever);
    expect(await upgrade(aws, grant)).toBe(101);
    const again = await aws.controlPlane.resumeSession(grant.sessionId, forever);
    expect(await upgrade(aws, { streamUrl: again?.streamUrl ?? grant.streamUrl })).toBe(101);
    await aws.controlPlane.terminateSession(grant.sessionId, forever);
    expect(await aws.controlPlane.resumeSession(grant.sessionId, forever)).toBeUndefined();
    expect(emulator.openSessionCount()).toBe(0);
  });

  it('takes an empty token for the end of the session', async () => {
    await emulate({ resumeGone: 'empty-token' });
    const aws = await open();
    const { sessionId } = await aws.controlPlane.startSession(request, forever);
    await aws.controlPlane.terminateSession(sessionId, forever);
    expect(await aws.controlPlane.resumeSession(sessionId, forever)).toBeUndefined();
  });

  it('gets a presigned URL upgraded without headers of its own', async () => {
    await emulate({ presignedUrls: true });
    const aws = await open();
    const grant = await aws.controlPlane.startSession(request, forever);
    expect(await aws.controlPlane.signUpgrade(grant.streamUrl, forever)).toEqual({});
    expect(await upgrade(aws, grant)).toBe(101);
  });

  it('is refused with 403 when the upgrade is denied', async () => {
    const keys = { accessKeyId: 'AKIDTEST', secretAccessKey: 'secret' };
    await emulate({ credentials: [{ ...keys, denied: ['ssmmessages:OpenDataChannel'] }] });
    const aws = await open();
    const grant = await aws.controlPlane.startSession(request, forever);
    const statusCode = await upgrade(aws, grant);
    expect(classifyUpgradeFailure({ statusCode, host: 'localhost' }).code).toBe('access.websocket');
  });

  it('works although the clock of the service is 20 minutes ahead', async () => {
    await emulate();
    emulator.clock.advance(20 * 60_000);
    const aws = await open();
    const grant = await aws.controlPlane.startSession(request, forever);
    expect(await upgrade(aws, grant)).toBe(101);
  });

  it('pushes a key to an instance', async () => {
    await emulate();
    const connect = await (await open()).instanceConnect();
    const publicKey =
      'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f test';
    await connect.sendSshPublicKey({ instanceId: node, osUser: 'admin', publicKey }, forever);
    expect(emulator.apiCalls.map(({ operation }) => operation)).toEqual(['SendSSHPublicKey']);
  });

  it('names a key type that Instance Connect does not take', async () => {
    await emulate();
    const connect = await (await open()).instanceConnect();
    const publicKey = 'ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAI test';
    const push = connect.sendSshPublicKey({ instanceId: node, osUser: 'a', publicKey }, forever);
    expect((await failureOf(push)).code).toBe('key.refused');
  });

  it('runs a script on a hybrid node and gives its output', async () => {
    await emulate();
    const commands = await (await open()).commands();
    const script = ['echo "$0 $((1 + 2))"', 'echo oops >&2', 'exit 7'];
    const command = { target: hybrid, script, comment: 'test', timeoutSeconds: 30 };
    expect(await commands.run(command, forever)).toMatchObject({
      status: 'Failed',
      exitCode: 7,
      stdout: expect.stringContaining('3') as unknown,
      stderr: expect.stringContaining('oops') as unknown,
    });
  });

  it('says nothing on the console or as a process warning', async () => {
    const said = vi.fn();
    for (const method of ['log', 'info', 'warn', 'error', 'debug'] as const) {
      vi.spyOn(console, method).mockImplementation(said);
    }
    vi.spyOn(process, 'emitWarning').mockImplementation(said);
    await emulate();
    const {
      AWS_ACCESS_KEY_ID: id,
      AWS_SECRET_ACCESS_KEY: secret,
      AWS_SESSION_TOKEN: token,
    } = emulator.env;
    around.credentials(
      `[p]\naws_access_key_id = ${id}\naws_secret_access_key = ${secret}\naws_session_token = ${token}\n`,
    );
    // Keys in two places are what the SDK warns about.
    around.set({ AWS_PROFILE: 'p' });
    const aws = await open();
    await aws.controlPlane.startSession(request, forever);
    await (
      await aws.instanceConnect()
    )
      .sendSshPublicKey({ instanceId: 'i-0', osUser: 'a', publicKey: 'x' }, forever)
      .catch(() => undefined);
    expect(said.mock.calls).toEqual([]);
  });
});
