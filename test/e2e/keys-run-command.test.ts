/** Keys for nodes that have no Instance Connect: the pushed script really runs, for several homes. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { canHaveAccounts, makeAccounts, type Accounts } from '../ssh/accounts.ts';
import { openKeyBench, type KeyBench } from '../ssh/key-bench.ts';
import { eventually, start } from '../support/process.ts';

const node = 'mi-0123456789abcdef0';
const instance = 'i-0123456789abcdef0';

describe.skipIf(!canHaveAccounts)('a managed node that is no EC2 instance', () => {
  let accounts: Accounts;
  let keys: KeyBench;
  let config: string;
  beforeAll(async () => {
    accounts = makeAccounts();
    keys = await openKeyBench({
      nodes: [node, instance],
      node: { runCommand: { wrap: accounts.wrap } },
      sshd: { prefix: accounts.wrap, extraConfig: ['AuthorizedKeysFile .ssh/authorized_keys'] },
    });
    config = keys.config(keys.ephemeral());
  });
  afterEach(() => keys.assertClean());
  afterAll(async () => {
    await keys.close();
    accounts.remove();
  });

  const marks = (name: string): number =>
    accounts.authorizedKeys(name).match(/ssm-bridge:/g)?.length ?? 0;
  const ours = (stderr: string) =>
    stderr.split('\n').filter((line) => line.startsWith('ssm-bridge:'));

  it.each(['alice', 'b.ob', 'carol', 'admin'])(
    'lets %s in and takes the key away again',
    async (name) => {
      accounts.writeAuthorizedKeys(name, '# mine\nssh-rsa AAAA me\n');
      const file = `'${accounts.account(name).home}/.ssh/authorized_keys'`;
      const done = await keys.ssh(config, ['-l', name, node, `id -u; cat ${file}`]);
      expect([done.code, done.stderr]).toEqual([0, '']);
      const [uid, ...during] = done.stdout.toString().split('\n');
      expect(uid).toBe(String(accounts.account(name).uid));
      expect(during.filter((line) => line.includes(' ssm-bridge:'))).toHaveLength(1);
      await eventually('the line is gone', () => marks(name) === 0, 5000);
      expect(accounts.authorizedKeys(name)).toBe('# mine\nssh-rsa AAAA me\n');
    },
  );

  it('lets several in at once and keeps every other line', async () => {
    accounts.writeAuthorizedKeys('alice', '# mine\n');
    const all = await Promise.all(
      Array.from({ length: 8 }, () => keys.ssh(config, ['-l', 'alice', node, 'true'])),
    );
    expect(all.map(({ code, stderr }) => [code, stderr])).toEqual(all.map(() => [0, '']));
    await eventually(
      'the lines are gone',
      () => accounts.authorizedKeys('alice') === '# mine\n',
      5000,
    );
  });

  it('gets a key of the user’s, in a line of its own for each session', async () => {
    accounts.writeAuthorizedKeys('alice', '');
    const block = [
      `ProxyCommand ${keys.program} connect --push-key auto --key ${keys.sshd.clientKeyFile}.pub --user '%r' '%h' %p`,
      `IdentityFile ${keys.sshd.clientKeyFile}`,
    ];
    const own = keys.config(block);
    const first = keys.startSsh(own, ['-l', 'alice', node, 'echo in; cat'], { stdin: 'pipe' });
    await first.waitForStdout(/in/);
    const second = await keys.ssh(own, ['-l', 'alice', node, 'true']);
    expect(second.code).toBe(0);
    await eventually('one line is left', () => marks('alice') === 1, 5000);
    first.stdin.end();
    await first.exited;
    await eventually('no line is left', () => marks('alice') === 0, 5000);
  });

  it('keeps a key that expires by itself when the bridge is killed', async () => {
    accounts.writeAuthorizedKeys('alice', '');
    const child = keys.startSsh(config, ['-l', 'alice', node, 'echo in; cat'], { stdin: 'pipe' });
    await child.waitForStdout(/in/);
    for (const pid of keys.bench.bridgePids()) process.kill(pid, 'SIGKILL');
    await child.exited;
    for (const session of keys.emulator.sessions)
      if (session.state === 'open') session.end('emulator');
    const line = accounts.authorizedKeys('alice');
    const [, stamp = '', epoch = ''] =
      /^expiry-time="(\d{14})Z" \S+ \S+ ssm-bridge:\w+:(\d+)\n$/.exec(line) ?? [];
    const leftMs = Number(epoch) * 1000 - Date.now();
    expect(leftMs).toBeGreaterThan(0);
    expect(leftMs).toBeLessThanOrEqual(180_000);
    expect(stamp).toBe(new Date(Number(epoch) * 1000).toISOString().replace(/[-:T]|\.\d+Z/g, ''));
    // As if that time had passed: the next session sweeps it.
    writeFileSync(
      join(accounts.account('alice').home, '.ssh/authorized_keys'),
      line.replace(epoch, '1700000000').replace(stamp, '20231114221320'),
    );
    expect((await keys.ssh(config, ['-l', 'alice', node, 'true'])).code).toBe(0);
    await eventually('no line is left', () => marks('alice') === 0, 5000);
  });

  it('still logs in when the host key question is answered late', async () => {
    accounts.writeAuthorizedKeys('alice', '');
    const options = '-o BatchMode=no -o StrictHostKeyChecking=ask -o UserKnownHostsFile=/dev/null';
    const terminal = start(
      ['script', '-qfec', `ssh -F ${config} ${options} -l alice ${node} echo in`, '/dev/null'],
      { env: keys.env, stdin: 'pipe' },
    );
    await terminal.waitForStdout(/fingerprint\]\)\?/);
    expect(accounts.authorizedKeys('alice')).toBe('');
    terminal.stdin.write('yes\n');
    await terminal.waitForStdout(/\nin\r/);
    terminal.stdin.end();
    await terminal.exited;
  });

  it('is said to have no such user', async () => {
    const done = await keys.ssh(config, ['-l', 'nobody-here', node, 'true']);
    expect(done.code).toBe(255);
    expect(ours(done.stderr)).toEqual([
      expect.stringMatching(/there is no user nobody-here on mi-\w+; check the login name/),
    ]);
  });

  it('is named when it is refused by policy', async () => {
    keys.emulator.setNode({ ...keys.emulator.node(node), runCommand: { denied: true } });
    const done = await keys.ssh(config, ['-l', 'alice', node, 'true']);
    keys.emulator.setNode({ ...keys.emulator.node(node), runCommand: { wrap: accounts.wrap } });
    expect(done.code).toBe(255);
    expect(ours(done.stderr)).toEqual([expect.stringMatching(/ssm:SendCommand/)]);
  });

  it('may be an EC2 instance too, when asked for', async () => {
    accounts.writeAuthorizedKeys('alice', '');
    const block = keys
      .ephemeral()
      .map((line) => line.replace('--push-key auto', '--push-key run-command'));
    const before = keys.pushes();
    const done = await keys.ssh(keys.config(block), ['-l', 'alice', instance, 'true']);
    expect([done.code, done.stderr, keys.pushes() - before]).toEqual([0, '', 0]);
  });
});
