/**
 * The blocks that `ssm-bridge config` prints, used as they are: with their `~`, which ssh takes from the
 * password database, so everything runs in a mount namespace where root's home is a temporary directory.
 */
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { canHaveAccounts } from '../ssh/accounts.ts';
import { openKeyBench, type KeyBench } from '../ssh/key-bench.ts';
import { startSshd, type Sshd } from '../support/openssh.ts';
import { eventually, must, run, start, type Env } from '../support/process.ts';

describe.skipIf(!canHaveAccounts)('the block that config prints', () => {
  let keys: KeyBench;
  let home: string;
  let env: Env;
  let inside: readonly string[];
  let config: string;
  beforeAll(async () => {
    keys = await openKeyBench();
    // Short: the agent socket's path begins with it.
    home = join(keys.dir, 'h');
    mkdirSync(home);
    const etc = join(keys.dir, 'etc');
    mkdirSync(etc);
    writeFileSync(join(etc, 'ssh_host_x_key.pub'), `${keys.sshd.hostPublicKey} node\n`);
    const passwd = readFileSync('/etc/passwd', 'utf8').replace(
      /^(root:x:0:0:[^:]*):[^:]*/m,
      `$1:${home}`,
    );
    writeFileSync(join(keys.dir, 'passwd'), passwd);
    inside = [
      'unshare',
      '-m',
      'sh',
      '-c',
      `mount --bind '${keys.dir}/passwd' /etc/passwd && exec "$@"`,
      'sh',
    ];
    keys.emulator.setNode({
      ...keys.emulator.node(keys.node),
      runCommand: {
        wrap: ['unshare', '-m', 'sh', '-c', `mount --bind '${etc}' /etc/ssh && exec "$@"`, 'sh'],
      },
    });
    config = join(keys.dir, 'printed');
    env = { ...keys.env, HOME: home };
  });
  afterEach(() => keys.assertClean());
  afterAll(() => keys.close());

  async function printed(...options: string[]): Promise<void> {
    const argv = [
      ...inside,
      ...keys.program.split(' '),
      'config',
      '--absolute',
      '--push-key',
      'auto',
      '--user',
      'root',
      '--verify-host-keys',
      ...options,
    ];
    const { stdout } = await must(argv, { env });
    const after =
      'Host *\n  StrictHostKeyChecking yes\n  BatchMode yes\n  IdentitiesOnly yes\n  IdentityFile /nonexistent/other\n';
    writeFileSync(config, `${stdout.toString()}${after}`);
  }

  async function logIn(extra: Env = {}): Promise<void> {
    const done = await run([...inside, 'ssh', '-F', config, keys.node, 'echo in'], {
      env: { ...env, ...extra },
    });
    expect([done.code, done.stdout.toString(), done.stderr]).toEqual([0, 'in\n', '']);
  }

  async function userAgent(...comments: string[]): Promise<{ env: Env; stop(): Promise<void> }> {
    const socket = join(keys.dir, `agent-${comments.length}`);
    const agent = start(['ssh-agent', '-D', '-a', socket], { env });
    await eventually('the agent listens', () => existsSync(socket), 5000);
    for (const comment of comments) {
      const file = join(keys.dir, `agent-key-${comment}`);
      await must(['ssh-keygen', '-q', '-t', 'ed25519', '-N', '', '-C', comment, '-f', file], {
        env,
      });
      await must(['ssh-add', '-q', file], { env: { ...env, SSH_AUTH_SOCK: socket } });
    }
    return {
      env: { SSH_AUTH_SOCK: socket },
      async stop() {
        agent.signal('SIGTERM');
        await agent.exited;
      },
    };
  }

  it('works for an ephemeral key, and leaves no socket in ~/.ssh/ssm-bridge', async () => {
    await printed();
    await logIn();
    await eventually(
      'the socket is gone',
      () => readdirSync(join(home, '.ssh/ssm-bridge')).length === 0,
      5000,
    );
    expect(statSync(join(home, '.ssh/ssm-bridge')).mode & 0o777).toBe(0o700);
  });

  it('works for a key of the user’s', async () => {
    await must(['ssh-keygen', '-q', '-t', 'ed25519', '-N', '', '-f', join(home, 'mine')], { env });
    await printed('--key', '~/mine.pub');
    await logIn();
  });

  it('works for an agent’s first key', async () => {
    const agent = await userAgent('a1', 'a2', 'a3');
    await printed('--key', 'agent');
    await logIn(agent.env);
    await agent.stop();
  });

  it('works for an agent’s eighth key by its comment', async () => {
    const agent = await userAgent('b1', 'b2', 'b3', 'b4', 'b5', 'b6', 'b7', 'b8');
    const before = env;
    env = { ...env, ...agent.env };
    await printed('--key', 'agent:b8');
    await logIn();
    env = before;
    await agent.stop();
    expect(readFileSync(config, 'utf8')).toMatch(/IdentityFile \S+\/agent-\w{16}$/m);
  });

  it('works for a key file, which the first login makes', async () => {
    await printed('--key', 'file:~/.ssh/made');
    await logIn();
    await logIn();
    expect(statSync(join(home, '.ssh/made')).mode & 0o777).toBe(0o600);
  });
});

describe('a chain', () => {
  let keys: KeyBench;
  /** A private host behind the node, with a key of its own. */
  let behind: Sshd;
  beforeAll(async () => {
    [keys, behind] = await Promise.all([openKeyBench(), startSshd()]);
  });
  afterEach(() => keys.assertClean());
  afterAll(async () => {
    await keys.close();
    await behind.stop();
  });

  const target = (extra: readonly string[]): readonly string[] => [
    ...keys.ephemeral(),
    'Host db',
    '  HostName 127.0.0.1',
    `  Port ${behind.port}`,
    `  IdentityFile ${behind.clientKeyFile}`,
    '  HostKeyAlias db',
    '  StrictHostKeyChecking no',
    '  UserKnownHostsFile /dev/null',
    '  LogLevel ERROR',
    ...extra,
  ];

  it.each([
    ['ProxyJump in the config', ['  ProxyJump i-0123456789abcdef0'], []],
    ['-J', [], ['-J', 'i-0123456789abcdef0']],
    ['-W in a ProxyCommand', ['  ProxyCommand ssh -F %CONFIG -W [%h]:%p i-0123456789abcdef0'], []],
  ])('gets through a node with an ephemeral key by %s', async (_what, extra, options) => {
    let config = keys.config(target(extra));
    if (extra.join().includes('%CONFIG')) {
      // The inner ssh of an explicit ProxyCommand is told its config by the line itself.
      const inner = config;
      config = keys.config(target(extra.map((line) => line.replace('%CONFIG', inner))));
    }
    const done = await keys.ssh(config, [...options, 'db', 'echo in']);
    expect([done.code, done.stdout.toString(), done.stderr]).toEqual([0, 'in\n', '']);
  });

  it('gets through while the user’s agent holds many keys', async () => {
    const socket = join(keys.dir, 'agent');
    const agent = start(['ssh-agent', '-D', '-a', socket], { env: keys.env });
    await eventually('the agent listens', () => existsSync(socket), 5000);
    const env = { ...keys.env, SSH_AUTH_SOCK: socket };
    for (let index = 0; index < 8; index++) {
      const file = join(keys.dir, `many-${index}`);
      await must(['ssh-keygen', '-q', '-t', 'ed25519', '-N', '', '-f', file], { env });
      await must(['ssh-add', '-q', file], { env });
    }
    const config = keys.config(target(['  ProxyJump i-0123456789abcdef0', '  IdentitiesOnly yes']));
    const done = await keys.ssh(config, ['db', 'echo in'], { env });
    agent.signal('SIGTERM');
    await agent.exited;
    expect([done.code, done.stdout.toString(), done.stderr]).toEqual([0, 'in\n', '']);
  });
});
