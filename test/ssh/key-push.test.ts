import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { BridgeError } from '../../src/errors.ts';
import { silentLogger } from '../../src/logger.ts';
import { listIdentities } from '../../src/ssh/agent-client.ts';
import { makeEphemeralKey } from '../../src/ssh/ephemeral-key.ts';
import { openKeyPush, type KeyPush, type KeyPushOptions } from '../../src/ssh/key-push.ts';
import { concat, encodeUint32 } from '../../src/ssh/wire.ts';

let root: string;
let opened: KeyPush[];
let answer: () => Promise<void>;
let pushed: string[];

beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'kp-'));
  opened = [];
  pushed = [];
  answer = () => Promise.resolve();
});

afterEach(async () => {
  vi.useRealTimers();
  await Promise.all(opened.map((push) => push.close()));
  await rm(root, { recursive: true, force: true });
});

const identification = new TextEncoder().encode('SSH-2.0-test\r\n');
const newkeys = concat(encodeUint32(12), new Uint8Array([10, 21]), new Uint8Array(10));
const secret = new TextEncoder().encode('encrypted');

function open(options: Partial<KeyPushOptions> = {}) {
  const notices: string[] = [];
  const push = openKeyPush({
    pushKey: 'auto',
    key: { kind: 'ephemeral' },
    user: 'alice',
    node: 'i-0abc',
    target: 'i-0abc',
    port: 22,
    agentSocket: join(root, 'own', 'socket'),
    identity: '',
    env: {},
    logger: silentLogger,
    notice: (text) => notices.push(text),
    apis: () =>
      Promise.resolve({
        instanceConnect: () =>
          Promise.resolve({
            sendSshPublicKey: async ({ publicKey }) => {
              pushed.push(publicKey);
              await answer();
            },
          }),
        commands: () => Promise.reject(new Error('not used')),
      }),
    ...options,
  });
  opened.push(push);
  const failures: BridgeError[] = [];
  void push.failed.then((error) => failures.push(error));
  const chunks: Uint8Array[] = [];
  let readies = 0;
  const source = push.wrapSource({ pull: () => chunks.shift() }, () => (readies += 1));
  return { push, notices, failures, chunks, source, readies: () => readies };
}

async function until(condition: () => boolean): Promise<void> {
  await vi.waitFor(() => {
    expect(condition()).toBe(true);
  });
}

describe('a pushed key', () => {
  it('of the user’s is pushed between NEWKEYS and what follows it', async () => {
    const file = join(root, 'k.pub');
    await writeFile(file, makeEphemeralKey().publicKey);
    let release: () => void = () => undefined;
    answer = () => new Promise((resolve) => (release = resolve));
    const { source, chunks, readies } = open({ key: { kind: 'public', path: file } });
    await until(() => readies() === 1);
    chunks.push(concat(identification, newkeys, secret), secret);
    expect(source.pull(1000)).toEqual(concat(identification, newkeys));
    await until(() => pushed.length === 1);
    expect(source.pull(1000)).toBeUndefined();
    release();
    await until(() => readies() === 2);
    expect(source.pull(4)).toEqual(secret.subarray(0, 4));
    expect(source.pull(1000)).toEqual(secret.subarray(4));
    expect(source.pull(1000)).toEqual(secret);
  });

  it('of the user’s that cannot be pushed ends the login, and nothing more passes', async () => {
    const file = join(root, 'k.pub');
    await writeFile(file, makeEphemeralKey().publicKey);
    answer = () => Promise.reject(new BridgeError('key.denied', 'no'));
    const { source, chunks, readies, failures } = open({ key: { kind: 'public', path: file } });
    await until(() => readies() === 1);
    chunks.push(concat(identification, newkeys, secret));
    source.pull(1000);
    await until(() => failures.length === 1);
    expect(failures[0]).toMatchObject({ code: 'key.denied' });
    expect(source.pull(1000)).toBeUndefined();
  });

  it('in memory holds nothing back', async () => {
    const { source, chunks, readies } = open();
    await until(() => readies() === 1);
    chunks.push(concat(identification, newkeys, secret));
    expect(source.pull(1000)).toEqual(concat(identification, newkeys, secret));
  });

  it('is not pushed before the host key is accepted', async () => {
    const { source, chunks, readies } = open();
    await until(() => readies() === 1);
    chunks.push(identification);
    source.pull(1000);
    expect(pushed).toEqual([]);
  });

  it('that fails later, for somebody else’s login, leaves this session alone', async () => {
    const { source, chunks, readies, failures, notices } = open({ pushKey: 'instance-connect' });
    await until(() => readies() === 1);
    chunks.push(concat(identification, newkeys));
    source.pull(1000);
    await until(() => pushed.length === 1);
    const start = performance.now();
    vi.spyOn(performance, 'now').mockImplementation(() => start + 60_000);
    answer = () => Promise.reject(new BridgeError('key.throttled', 'no'));
    expect(await listIdentities(join(root, 'own', 'socket'))).toEqual([]);
    vi.restoreAllMocks();
    expect(pushed).toHaveLength(2);
    expect([failures, notices]).toEqual([[], []]);
  });

  it('that the owner of a shared agent cannot push is said to a login that waits for it', async () => {
    answer = () => Promise.reject(new BridgeError('key.throttled', 'too many', { hint: 'wait' }));
    const owner = open();
    await until(() => owner.readies() === 1);
    const tenant = open();
    await until(() => tenant.readies() === 1);
    tenant.chunks.push(concat(identification, newkeys));
    tenant.source.pull(1000);
    await listIdentities(join(root, 'own', 'socket'));
    await until(() => tenant.notices.length === 1);
    expect(tenant.notices).toEqual(['too many; wait']);
    expect([owner.failures, tenant.failures]).toEqual([[], []]);
  });

  it.each([
    ['a user that cannot be', { user: 'a b' }, 'key.refused'],
    ['a missing public key', { key: { kind: 'public', path: '/nonexistent.pub' } }, 'key.refused'],
    ['no agent', { key: { kind: 'agent', comment: undefined } }, 'key.agent'],
  ] as const)('with %s fails before anything is connected', async (_what, options, code) => {
    const { failures } = open(options);
    await until(() => failures.length === 1);
    expect(failures[0]).toMatchObject({ code });
    expect(pushed).toEqual([]);
  });

  it('for a host that is no node is a wrong use', () => {
    expect(() => open({ node: 'db.internal' })).toThrow(
      expect.objectContaining({ code: 'usage.arguments' }) as Error,
    );
  });
});
