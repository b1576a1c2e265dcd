import { chmod, mkdir, mkdtemp, readdir, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { BridgeError } from '../../src/errors.ts';
import { silentLogger } from '../../src/logger.ts';
import { makeEphemeralKey } from '../../src/ssh/ephemeral-key.ts';
import { haveChanged, parseHostKeys, presentedKey } from '../../src/ssh/host-keys.ts';
import { knownHostsLines, type KnownHostsOptions } from '../../src/ssh/known-hosts.ts';

const node = 'i-0123456789abcdef0';
const newKey = (): string => makeEphemeralKey().publicKey.split(' ', 2).join(' ');
const encoded = (key: string): string => key.split(' ')[1]!;
const dayMs = 86_400_000;

let root: string;
let nodeKeys: string[];
let failure: BridgeError | undefined;
let calls: number;
let notices: string[];
let now: number;

beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'kh-'));
  nodeKeys = [newKey()];
  failure = undefined;
  calls = 0;
  notices = [];
  now = 1_800_000_000_000;
});

afterEach(() => rm(root, { recursive: true, force: true }));

function lines(options: Partial<KnownHostsOptions> = {}): Promise<string> {
  return knownHostsLines({
    host: node,
    node: undefined,
    presented: 'NONE',
    cacheMs: dayMs,
    timeoutMs: 5000,
    acceptChanged: false,
    env: { XDG_CACHE_HOME: root },
    notice: (text) => notices.push(text),
    logger: silentLogger,
    wallNow: () => now,
    parentPid: 1000,
    commands: () =>
      Promise.resolve({
        run: ({ target }) => {
          expect(target).toBe(node);
          calls += 1;
          if (failure !== undefined) return Promise.reject(failure);
          const stdout = nodeKeys.map((key) => `ssm-bridge-host-key: ${key}\n`).join('');
          return Promise.resolve({
            status: 'Success',
            detail: 'Success',
            exitCode: 0,
            stdout,
            stderr: '',
          });
        },
      }),
    ...options,
  });
}

describe('known-hosts', () => {
  it('prints the node’s keys under the name that ssh looks for', async () => {
    nodeKeys = [newKey(), newKey()];
    expect(await lines({ host: `[${node}]:2222` })).toBe(
      nodeKeys.map((key) => `[${node}]:2222 ${key}\n`).join(''),
    );
  });

  it('asks the node that an alias stands for', async () => {
    expect(await lines({ host: 'web-prod', node })).toBe(`web-prod ${nodeKeys[0]!}\n`);
  });

  it.each(['web-prod', '10.0.0.1', 'localhost', 'i-xyz'])(
    'has nothing to say about %s',
    async (host) => {
      expect(await lines({ host })).toBe('');
      expect([calls, notices]).toEqual([0, []]);
    },
  );

  it('asks once and then remembers', async () => {
    await lines();
    expect(await lines({ presented: encoded(nodeKeys[0]!) })).toContain(nodeKeys[0]);
    expect(calls).toBe(1);
  });

  it('asks once for many at the same time', async () => {
    const all = await Promise.all(Array.from({ length: 20 }, () => lines()));
    expect(new Set(all)).toEqual(new Set([`${node} ${nodeKeys[0]!}\n`]));
    expect(calls).toBe(1);
  });

  it('asks again when what it remembers is old', async () => {
    await lines();
    now += dayMs;
    await lines();
    expect(calls).toBe(2);
  });

  it('asks again when the clock was set back', async () => {
    await lines();
    now -= 1000;
    await lines();
    expect(calls).toBe(2);
  });

  it('refuses a presented key that the node does not have', async () => {
    await lines();
    await expect(lines({ presented: encoded(newKey()) })).rejects.toMatchObject({
      code: 'hostkey.changed',
      message: expect.stringMatching(
        /ssh-ed25519 SHA256:\S+\) is not one of i-0123456789abcdef0: refused/,
      ) as string,
    });
  });

  it('refuses it too when the node cannot be asked and what is remembered is old', async () => {
    await lines();
    now += 30 * dayMs;
    failure = new BridgeError('access.denied', 'no');
    await expect(lines({ presented: encoded(newKey()) })).rejects.toMatchObject({
      code: 'hostkey.changed',
    });
  });

  it('refuses keys of the node that have changed, until told otherwise', async () => {
    const [old = ''] = nodeKeys;
    await lines();
    nodeKeys = [newKey()];
    now += dayMs;
    await expect(lines()).rejects.toMatchObject({
      code: 'hostkey.changed',
      message: expect.stringContaining('have changed since 2027-01-15 08:00 UTC') as string,
      hint: expect.stringContaining(`known-hosts --accept-changed ${node}`) as string,
    });
    await expect(lines({ presented: encoded(old) })).rejects.toMatchObject({
      code: 'hostkey.changed',
    });
    expect(await lines({ acceptChanged: true })).toContain(nodeKeys[0]);
    expect(await lines({ presented: encoded(nodeKeys[0]!) })).toContain(nodeKeys[0]);
  });

  it('takes up a further key of the node at once', async () => {
    await lines();
    const rsa = 'ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAAQA=';
    nodeKeys.push(rsa);
    expect(await lines({ presented: encoded(rsa) })).toContain(rsa);
    expect(calls).toBe(2);
  });

  it('prints nothing and says why when the node cannot be asked', async () => {
    failure = new BridgeError('access.denied', 'ssm:SendCommand is not allowed', { hint: 'ask' });
    expect(await lines()).toBe('');
    expect(notices).toEqual([
      'host keys not verified by Systems Manager, known_hosts decides: ssm:SendCommand is not allowed; ask',
    ]);
  });

  it('fails when it cannot do what was asked for by hand', async () => {
    failure = new BridgeError('access.denied', 'no');
    await lines();
    await expect(lines({ acceptChanged: true })).rejects.toBe(failure);
    expect(calls).toBe(2);
  });

  it('says so once to each ssh, and does not ask again for a while', async () => {
    failure = new BridgeError('access.denied', 'no');
    await lines();
    await lines({ presented: encoded(newKey()) });
    expect([calls, notices.length]).toEqual([1, 1]);
    await lines({ parentPid: 1001 });
    expect([calls, notices.length]).toEqual([1, 2]);
    now += 10_000;
    await lines();
    expect([calls, notices.length]).toEqual([2, 3]);
  });

  it('gives up on a node that does not answer', async () => {
    const done = await lines({
      timeoutMs: 50,
      commands: () =>
        Promise.resolve({
          run: (_request, signal) =>
            new Promise((_resolve, reject) => {
              signal.addEventListener('abort', () => {
                reject(new BridgeError('network.timeout', 'aborted'));
              });
            }),
        }),
    });
    expect(done).toBe('');
    expect(notices[0]).toContain('did not answer within 0.05 s');
  });

  it('does not believe a damaged or foreign record', async () => {
    await lines();
    const file = join(root, 'ssm-bridge/host-keys', `${node}.json`);
    for (const text of [
      '',
      '{',
      '[]',
      '{"version":1}',
      JSON.stringify({ version: 1, node: 'i-00000000', fetchedAt: now, keys: ['a b'] }),
    ]) {
      await writeFile(file, text);
      const before = calls;
      expect(await lines()).toContain(nodeKeys[0]);
      expect(calls).toBe(before + 1);
    }
  });

  it('keeps its directory and files to the user', async () => {
    await lines();
    const directory = join(root, 'ssm-bridge/host-keys');
    expect((await stat(directory)).mode & 0o777).toBe(0o700);
    expect(await readdir(directory)).toEqual([`${node}.json`]);
    expect((await stat(join(directory, `${node}.json`))).mode & 0o777).toBe(0o600);
  });

  it('does not use a directory that others can write to', async () => {
    const directory = join(root, 'ssm-bridge/host-keys');
    await mkdir(directory, { recursive: true });
    await chmod(directory, 0o777);
    expect(await lines()).toBe('');
    expect(notices[0]).toContain('chmod 700');
  });

  it('is not held up by the lock of a process that is gone', async () => {
    const directory = join(root, 'ssm-bridge/host-keys');
    await mkdir(directory, { recursive: true, mode: 0o700 });
    await writeFile(join(directory, `${node}.lock`), '999999999');
    expect(await lines()).toContain(nodeKeys[0]);
  });
});

describe('host keys in the node’s answer', () => {
  it.each([
    ['without the mark', `${newKey()}\n`],
    ['of an unknown type', 'ssm-bridge-host-key: ssh-dss AAAAB3NzaC1kc3M=\n'],
    ['with a broken encoding', 'ssm-bridge-host-key: ssh-ed25519 AAAA*\n'],
    ['of another type than they say', `ssm-bridge-host-key: ssh-rsa ${encoded(newKey())}\n`],
    ['that are patterns', `ssm-bridge-host-key: @cert-authority * ${newKey()}\n`],
  ])('are left out: %s', (_what, stdout) => {
    expect(parseHostKeys(stdout)).toEqual([]);
  });

  it('have changed when one of a type is another, or none is left', () => {
    const [a, b, rsa] = [newKey(), newKey(), 'ssh-rsa AAAA'];
    expect(haveChanged([a], [a])).toBe(false);
    expect(haveChanged([a], [a, rsa])).toBe(false);
    expect(haveChanged([a, rsa], [a])).toBe(false);
    expect(haveChanged([a], [b])).toBe(true);
    expect(haveChanged([a, rsa], [b, rsa])).toBe(true);
    expect(haveChanged([a], [rsa])).toBe(true);
  });

  it('are not judged when ssh has a certificate or nothing', () => {
    expect(presentedKey('NONE')).toBeUndefined();
    const certificate = Buffer.from('\0\0\0\x20ssh-ed25519-cert-v01@openssh.com').toString(
      'base64',
    );
    expect(presentedKey(certificate)).toBeUndefined();
  });
});
