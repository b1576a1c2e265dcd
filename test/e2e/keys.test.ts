/** Logins with a key that exists for one connection, against a real sshd that knows no other keys. */
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { openKeyBench, type KeyBench } from '../ssh/key-bench.ts';
import { generateKey } from '../support/openssh.ts';
import { eventually, must, run, start } from '../support/process.ts';

let keys: KeyBench;
beforeAll(async () => {
  keys = await openKeyBench();
});
afterEach(() => keys.assertClean());
afterAll(() => keys.close());

/** An ssh-agent with this many keys, the last of which has the comment `last`. */
async function userAgent(
  name: string,
  count: number,
): Promise<{ env: { SSH_AUTH_SOCK: string }; stop: () => Promise<void>; lastPublicKey: string }> {
  const socket = join(keys.dir, name);
  const agent = start(['ssh-agent', '-D', '-a', socket], {
    env: { PATH: process.env['PATH'] ?? '' },
  });
  await eventually('the agent listens', () => existsSync(socket), 5000);
  const env = { ...keys.env, SSH_AUTH_SOCK: socket };
  for (let index = 0; index < count; index++) {
    const file = join(keys.dir, `${name}-${index}`);
    const comment = index === count - 1 ? 'last' : `other${index}`;
    await must(['ssh-keygen', '-q', '-t', 'ed25519', '-N', '', '-C', comment, '-f', file], { env });
    await must(['ssh-add', '-q', file], { env });
  }
  return {
    env: { SSH_AUTH_SOCK: socket },
    lastPublicKey: join(keys.dir, `${name}-${count - 1}.pub`),
    async stop() {
      agent.signal('SIGTERM');
      await agent.exited;
    },
  };
}

describe('an ephemeral key', () => {
  it('logs in, is pushed once, and leaves nothing behind', async () => {
    const config = keys.config(keys.ephemeral());
    const before = keys.pushes();
    const done = await keys.ssh(config, [keys.node, 'echo in']);
    expect([done.code, done.stdout.toString(), done.stderr]).toEqual([0, 'in\n', '']);
    expect(keys.pushes() - before).toBe(1);
    await eventually(
      'the socket is gone',
      () => readdirSync(keys.agentDirectory).length === 0,
      5000,
    );
  });

  it('is another one each time', async () => {
    const config = keys.config(keys.ephemeral());
    await keys.ssh(config, [keys.node, 'true']);
    await keys.assertClean();
    await keys.ssh(config, [keys.node, 'true']);
    const [first, second] = keys.emulator.keys.slice(-2).map(({ publicKey }) => publicKey);
    expect(first).not.toBe(second);
  });

  it.each([
    ['IdentitiesOnly yes', ['IdentitiesOnly yes']],
    [
      'many identity files',
      Array.from({ length: 8 }, (_, index) => `IdentityFile /nonexistent/k${index}`),
    ],
    ['AddKeysToAgent yes', ['AddKeysToAgent yes']],
    ['ForwardAgent yes', ['ForwardAgent yes']],
  ])('logs in with %s in a later block', async (_what, after) => {
    const done = await keys.ssh(keys.config(keys.ephemeral(), after), [keys.node, 'true']);
    expect([done.code, done.stderr]).toEqual([0, '']);
  });

  it('is the only one offered under an agent with many keys', async () => {
    const agent = await userAgent('many', 8);
    const done = await keys.ssh(keys.config(keys.ephemeral()), ['-v', keys.node, 'true'], {
      env: { ...keys.env, ...agent.env },
    });
    await agent.stop();
    expect(done.code).toBe(0);
    expect(done.stderr.match(/Offering public key/g)).toHaveLength(1);
  });

  it('logs in through a shared connection that outlives the first ssh', async () => {
    const control = [
      `ControlPath ${join(keys.dir, 'cm-%C')}`,
      'ControlMaster auto',
      'ControlPersist 60',
    ];
    const config = keys.config(keys.ephemeral(), control);
    const before = keys.pushes();
    const first = await keys.ssh(config, [keys.node, 'true']);
    const second = await keys.ssh(config, [keys.node, 'true']);
    expect([first.code, second.code, keys.pushes() - before]).toEqual([0, 0, 1]);
    await eventually(
      'the unused socket is gone',
      () => readdirSync(keys.agentDirectory).length === 0,
      8000,
    );
    await keys.ssh(config, ['-O', 'exit', keys.node]);
  });

  it('never has its private half written anywhere', async () => {
    const config = keys.config(keys.ephemeral());
    const trace = join(keys.dir, 'trace');
    const done = await run(
      [
        'strace',
        '-f',
        '-qq',
        '-y',
        '-s',
        '1000000',
        '-xx',
        '-o',
        trace,
        '-e',
        'trace=open,openat,creat,write,pwrite64,writev,sendto,sendmsg',
        'ssh',
        '-F',
        config,
        keys.node,
        'true',
      ],
      { env: keys.env, timeoutMs: 100_000 },
    );
    expect(done.code).toBe(0);
    const lines = readFileSync(trace, 'utf8').split('\n');
    const path = (line: string): string =>
      Buffer.from(
        (/"((?:\\x[0-9a-f]{2})*)"/.exec(line)?.[1] ?? '').replaceAll('\\x', ''),
        'hex',
      ).toString();
    const opened = lines
      .filter(
        (line) =>
          /(?:open|openat|creat)\(/.test(line) && /O_WRONLY|O_RDWR|O_CREAT|creat\(/.test(line),
      )
      .map(path)
      .filter((each) => !/^\/dev\/(?:null|tty)$|^\/proc\/self\//.test(each));
    // The compiled code of the program, cached by the loader, is the one thing that may be written.
    expect(opened.filter((each) => !/ssm-bridge/.test(each))).toEqual([]);
    const publicKey = keys.emulator.keys.at(-1)!.publicKey.split(' ')[1]!;
    const publicHex = Buffer.from(publicKey, 'base64')
      .subarray(-32)
      .toString('hex')
      .replace(/../g, '\\x$&');
    const marker = Buffer.from('PRIVATE KEY').toString('hex').replace(/../g, '\\x$&');
    const pkcs8 = '302e020100300506032b6570'.replace(/../g, '\\x$&');
    const written = lines.filter((line) => /(?:write|writev|pwrite64|send\w+)\(/.test(line));
    // The trace sees what is written: the public half is in it.
    expect(written.some((line) => line.includes(publicHex))).toBe(true);
    expect(written.filter((line) => line.includes(marker) || line.includes(pkcs8))).toEqual([]);
  });

  it('that has expired no longer logs in', async () => {
    const key = join(keys.dir, 'expiring');
    await generateKey(key);
    const block = [
      `ProxyCommand ${keys.program} connect --push-key auto --key ${key}.pub --user '%r' '%h' %p`,
      `IdentityFile ${key}`,
      'IdentitiesOnly yes',
    ];
    expect((await keys.ssh(keys.config(block), [keys.node, 'true'])).code).toBe(0);
    const without = keys.config([
      `ProxyCommand ${keys.program} connect '%h' %p`,
      `IdentityFile ${key}`,
      'IdentitiesOnly yes',
    ]);
    expect((await keys.ssh(without, [keys.node, 'true'])).code).toBe(0);
    keys.emulator.clock.advance(61_000);
    const late = await keys.ssh(without, [keys.node, 'true']);
    expect(late.code).toBe(255);
    expect(late.stderr).toContain('Permission denied (publickey)');
  });

  it('is pushed in spite of throttling', async () => {
    const error = { name: 'ThrottlingException', message: 'Rate exceeded', status: 429 };
    keys.emulator.faults.set({ api: [{ operation: 'SendSSHPublicKey', error, times: 6 }] });
    const before = keys.emulator.apiCalls.length;
    const done = await keys.ssh(keys.config(keys.ephemeral()), [keys.node, 'true']);
    keys.emulator.faults.clear();
    const tries = keys.emulator.apiCalls
      .slice(before)
      .filter(({ operation }) => operation === 'SendSSHPublicKey');
    expect([done.code, done.stderr, tries.length]).toEqual([0, '', 7]);
  });

  it('pushed for one user does not log in another', async () => {
    const block = keys.ephemeral().map((line) => line.replaceAll("'%r'", 'somebody'));
    const done = await keys.ssh(keys.config(block), [keys.node, 'true']);
    expect(done.code).toBe(255);
    expect(done.stderr).toContain('Permission denied (publickey)');
  });

  it('is not pushed to a host whose key is refused', async () => {
    const config = keys.config(keys.ephemeral());
    const other = join(keys.dir, 'other_hosts');
    const otherKey = join(keys.dir, 'other_host_key');
    await generateKey(otherKey);
    writeFileSync(other, `* ${readFileSync(`${otherKey}.pub`, 'utf8')}`);
    const before = keys.pushes();
    const done = await keys.ssh(config, ['-o', `UserKnownHostsFile=${other}`, keys.node, 'true']);
    expect([done.code, keys.pushes() - before]).toEqual([255, 0]);
  });

  it('still logs in when the host key question is answered after the key’s life', async () => {
    const config = keys.config(keys.ephemeral());
    const empty = join(keys.dir, 'empty_hosts');
    const terminal = start(
      [
        'script',
        '-qfec',
        `ssh -F ${config} -o BatchMode=no -o StrictHostKeyChecking=ask -o UserKnownHostsFile=${empty} ${keys.node} echo in`,
        '/dev/null',
      ],
      { env: keys.env, stdin: 'pipe' },
    );
    await terminal.waitForStdout(/fingerprint\]\)\?/);
    keys.emulator.clock.advance(120_000);
    terminal.stdin.write('yes\n');
    await terminal.waitForStdout(/\nin\r/);
    terminal.stdin.end();
    expect((await terminal.exited).code).toBe(0);
  });
});

describe('a key that the user has', () => {
  it.each([
    ['IdentitiesOnly no', 'IdentitiesOnly no'],
    ['IdentitiesOnly yes', 'IdentitiesOnly yes'],
  ])('in a file is pushed by its public half, %s elsewhere', async (_what, after) => {
    const key = join(keys.dir, `mine-${after.at(-1) ?? ''}`);
    await generateKey(key);
    const block = [
      `ProxyCommand ${keys.program} connect --push-key auto --key ${key}.pub --user '%r' '%h' %p`,
      `IdentityFile ${key}`,
      'IdentitiesOnly yes',
    ];
    const done = await keys.ssh(keys.config(block, [after]), [keys.node, 'true']);
    expect([done.code, done.stderr]).toEqual([0, '']);
  });

  it('in an agent is found by the file of its public half, though it is the ninth', async () => {
    const agent = await userAgent('nine', 9);
    const block = [
      `ProxyCommand ${keys.program} connect --push-key auto --key ${agent.lastPublicKey} --user '%r' '%h' %p`,
      `IdentityFile ${agent.lastPublicKey.replace(/\.pub$/, '')}`,
      'IdentitiesOnly yes',
    ];
    const done = await keys.ssh(keys.config(block), [keys.node, 'true'], {
      env: { ...keys.env, ...agent.env },
    });
    await agent.stop();
    expect([done.code, done.stderr]).toEqual([0, '']);
  });

  it.each([
    ['the first', '--key agent', 8],
    ['one with a comment', '--key agent:last', 3],
  ])('in an agent with others: %s', async (name, option, count) => {
    const agent = await userAgent(`ag${name.length}`, count);
    const block = [
      `ProxyCommand ${keys.program} connect --push-key auto ${option} --user '%r' '%h' %p`,
      'IdentitiesOnly no',
      'IdentityFile none',
    ];
    const done = await keys.ssh(keys.config(block, ['IdentitiesOnly yes']), [keys.node, 'true'], {
      env: { ...keys.env, ...agent.env },
    });
    await agent.stop();
    expect([done.code, done.stderr]).toEqual([0, '']);
  });

  it.each([
    ['IdentitiesOnly no', 'IdentitiesOnly no'],
    ['IdentitiesOnly yes', 'IdentitiesOnly yes'],
  ])('in a file that the first login makes, %s elsewhere', async (_what, after) => {
    const key = join(keys.dir, `made-${after.length}`, 'key');
    const block = [
      `ProxyCommand ${keys.program} connect --push-key auto --key file:${key} --user '%r' '%h' %p`,
      `IdentityFile ${key}`,
      'IdentitiesOnly yes',
    ];
    const config = keys.config(block, [after]);
    const first = await keys.ssh(config, [keys.node, 'true']);
    expect([first.code, first.stderr]).toEqual([0, '']);
    const made = readFileSync(key, 'utf8');
    const second = await keys.ssh(config, [keys.node, 'true']);
    expect([second.code, second.stderr]).toEqual([0, '']);
    expect(readFileSync(key, 'utf8')).toBe(made);
  });
});

describe('what cannot be pushed', () => {
  const failing = async (block: readonly string[]) =>
    keys.ssh(keys.config(block), [keys.node, 'true']);
  const ours = (stderr: string) =>
    stderr.split('\n').filter((line) => line.startsWith('ssm-bridge:'));

  it('says so for a key that Instance Connect does not take', async () => {
    const key = join(keys.dir, 'ecdsa');
    await generateKey(key, 'ecdsa');
    const done = await failing([
      `ProxyCommand ${keys.program} connect --push-key auto --key ${key}.pub --user '%r' '%h' %p`,
    ]);
    expect(ours(done.stderr)).toEqual([
      expect.stringMatching(/takes ed25519 and RSA keys, and this one is ecdsa/),
    ]);
  });

  it('names the action and the condition when it is not allowed', async () => {
    keys.emulator.faults.set({
      api: [
        { operation: 'SendSSHPublicKey', error: { name: 'AccessDeniedException', status: 403 } },
      ],
    });
    const done = await failing(keys.ephemeral());
    keys.emulator.faults.clear();
    expect(ours(done.stderr)).toEqual([
      expect.stringMatching(/ec2-instance-connect:SendSSHPublicKey.*ec2:osuser/),
    ]);
  });

  it('says so when there is no agent to take a key from', async () => {
    const done = await failing([
      `ProxyCommand ${keys.program} connect --push-key auto --key agent --user '%r' '%h' %p`,
    ]);
    expect(ours(done.stderr)).toEqual([expect.stringMatching(/no ssh agent to take a key from/)]);
  });

  it('says so when the socket’s directory is open to others', async () => {
    const done = await failing(
      keys.ephemeral().map((line) => line.replaceAll(keys.agentDirectory, '/tmp')),
    );
    expect(ours(done.stderr)).toEqual([
      expect.stringMatching(/\/tmp is open to other users; chmod 700/),
    ]);
  });

  it('says so when the socket’s path is too long', async () => {
    const long = join(keys.agentDirectory, 'x'.repeat(120));
    const done = await failing(
      keys.ephemeral().map((line) => line.replaceAll(keys.agentDirectory, long)),
    );
    expect(ours(done.stderr)).toEqual([
      expect.stringMatching(/a socket's may be 103.*--agent-socket/),
    ]);
  });
});
