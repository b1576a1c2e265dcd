/** Host keys that the node itself vouches for, asked for by a real ssh through KnownHostsCommand. */
import { chmodSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { openKeyBench, type KeyBench } from '../ssh/key-bench.ts';
import { canHaveAccounts } from '../ssh/accounts.ts';
import { generateKey } from '../support/openssh.ts';
import { must, type Finished } from '../support/process.ts';

const [first, second] = ['i-0123456789abcdef0', 'i-0123456789abcdef1'];

describe.skipIf(!canHaveAccounts)('KnownHostsCommand', () => {
  let keys: KeyBench;
  let cache: string;
  /** What the node says: its /etc/ssh, seen through a mount namespace. */
  let etc: string;
  beforeAll(async () => {
    keys = await openKeyBench({ nodes: [first, second] });
    etc = join(keys.dir, 'etc-ssh');
    mkdirSync(etc);
    chmodSync(keys.dir, 0o755);
  });
  beforeEach(() => {
    cache = join(keys.dir, 'cache');
    rmSync(cache, { recursive: true, force: true });
    for (const node of [first, second]) {
      keys.emulator.setNode({
        ...keys.emulator.node(node),
        online: true,
        runCommand: {
          wrap: ['unshare', '-m', 'sh', '-c', `mount --bind '${etc}' /etc/ssh && exec "$@"`, 'sh'],
        },
      });
    }
    nodeHas(keys.sshd.hostPublicKey);
  });
  afterEach(() => keys.assertClean());
  afterAll(() => keys.close());

  function nodeHas(...publicKeys: string[]): void {
    rmSync(etc, { recursive: true, force: true });
    mkdirSync(etc);
    publicKeys.forEach((key, index) => {
      writeFileSync(join(etc, `ssh_host_${index}_key.pub`), `${key} root@node\n`);
    });
  }

  async function otherKey(type = 'ed25519'): Promise<string> {
    const file = join(keys.dir, `other-${type}-${Math.random().toString(36).slice(2)}`);
    await generateKey(file, type);
    return readFileSync(`${file}.pub`, 'utf8').split(' ', 2).join(' ');
  }

  function logIn(
    options: readonly string[] = [],
    knownHosts = '',
    host: string = first,
  ): Promise<Finished> {
    const file = join(keys.dir, 'user_known_hosts');
    writeFileSync(file, knownHosts);
    const config = keys.config([
      ...keys.ephemeral(),
      `KnownHostsCommand ${keys.program} known-hosts --lookup %I --presented %K --node %h -- %H`,
      `UserKnownHostsFile ${file}`,
    ]);
    return keys.ssh(config, [...options.flatMap((option) => ['-o', option]), host, 'true'], {
      env: { ...keys.env, XDG_CACHE_HOME: cache },
    });
  }

  const asked = (): number =>
    keys.emulator.apiCalls.filter(({ operation }) => operation === 'SendCommand').length;
  const ours = ({ stderr }: Finished) =>
    stderr.split('\n').filter((line) => line.startsWith('ssm-bridge:'));

  it('makes strict checking work with an empty known_hosts', async () => {
    const done = await logIn();
    expect([done.code, done.stderr]).toEqual([0, '']);
  });

  it('asks the node once for many logins', async () => {
    const before = asked();
    const all = await Promise.all(Array.from({ length: 6 }, () => logIn()));
    expect(all.map(({ code, stderr }) => [code, stderr])).toEqual(all.map(() => [0, '']));
    expect(asked() - before).toBe(1);
  });

  it('accepts a replaced instance under a reused name without a question', async () => {
    expect((await logIn(['HostKeyAlias=web'])).code).toBe(0);
    // The old instance's key is still in the user's file, under the same name.
    const done = await logIn(['HostKeyAlias=web'], `web ${await otherKey()}\n`, second);
    expect([done.code, done.stderr]).toEqual([0, '']);
  });

  it.each([
    'StrictHostKeyChecking=yes',
    'StrictHostKeyChecking=accept-new',
    'StrictHostKeyChecking=no',
  ])('refuses a server with another key than the node’s, with %s', async (option) => {
    nodeHas(await otherKey());
    const before = keys.pushes();
    const done = await logIn([option]);
    expect(done.code).toBe(255);
    expect(ours(done)).toEqual([
      expect.stringMatching(
        /the server's host key \(ssh-ed25519 SHA256:\S+\) is not one of i-0123456789abcdef0: refused/,
      ),
    ]);
    expect(keys.pushes()).toBe(before);
  });

  it('refuses it with a key of another type too', async () => {
    nodeHas(await otherKey('ecdsa'));
    const done = await logIn(['StrictHostKeyChecking=no']);
    expect(done.code).toBe(255);
    expect(ours(done)).toHaveLength(1);
  });

  it('refuses a node whose own key was swapped, and says how to go on', async () => {
    const real = keys.sshd.hostPublicKey;
    nodeHas(await otherKey());
    await logIn(); // What the node has now is remembered, though the login is refused.
    nodeHas(real);
    const done = await logIn();
    expect(done.code).toBe(255);
    expect(ours(done)).toEqual([
      expect.stringMatching(
        /host keys of i-0123456789abcdef0 have changed since .* UTC .*refused; .*known-hosts --accept-changed/,
      ),
    ]);
    await must([...keys.program.split(' '), 'known-hosts', '--accept-changed', first], {
      env: { ...keys.env, XDG_CACHE_HOME: cache },
    });
    expect((await logIn()).code).toBe(0);
  });

  describe.each([
    ['SendCommand is denied', { denied: true }, true, /ssm:SendCommand/],
    ['the node is offline', {}, false, /known_hosts decides: /],
  ])('when %s', (_what, runCommand, online, message) => {
    beforeEach(() => {
      keys.emulator.setNode({ ...keys.emulator.node(first), runCommand: { ...runCommand } });
    });

    const deny = (): void => {
      // Sessions still work: only Run Command does not reach the node.
      if (online) return;
      keys.emulator.faults.set({
        api: [
          {
            operation: 'SendCommand',
            error: { name: 'InvalidInstanceId', message: 'not in a valid state' },
          },
        ],
      });
    };
    afterEach(() => {
      keys.emulator.faults.clear();
    });

    it('a host in known_hosts is accepted, with a message', async () => {
      deny();
      const done = await logIn([], `${first} ${keys.sshd.hostPublicKey}\n`);
      expect(done.code).toBe(0);
      expect(ours(done)).toEqual([expect.stringMatching(message)]);
    });

    it('an unknown host is not', async () => {
      deny();
      const done = await logIn();
      expect(done.code).toBe(255);
      expect(ours(done)).toEqual([expect.stringMatching(message)]);
      expect(done.stderr).toContain('Host key verification failed.');
    });
  });
});
