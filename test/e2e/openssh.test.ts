/** What people run over the bridge every day, with real OpenSSH tools, byte for byte. */
import { randomBytes } from 'node:crypto';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { connect, createServer, type AddressInfo, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { openBench, type Bench } from '../support/bench.ts';
import { freePort } from '../support/openssh.ts';
import { eventually, must, run, sha256, sha256File, start } from '../support/process.ts';

const mebibyte = 1024 * 1024;

let bench: Bench;
beforeAll(async () => {
  bench = await openBench();
});
afterEach(() => bench.assertClean());
afterAll(() => bench.close());

function randomFile(name: string, size: number): { path: string; hash: string } {
  const path = join(bench.dir, name);
  const bytes = randomBytes(size);
  writeFileSync(path, bytes);
  return { path, hash: sha256(bytes) };
}

describe('ssh with a command', () => {
  it.each([0, 1, 7, 127])('gives its exit status %i', async (status) => {
    const done = await bench.ssh([bench.host, `exit ${status}`]);
    expect([done.code, done.stdout.toString(), done.stderr]).toEqual([status, '', '']);
  });

  it('puts nothing on stdout but what the command wrote, and nothing on stderr', async () => {
    const done = await bench.ssh([bench.host, 'printf out; printf err >&2']);
    expect([done.code, done.stdout.toString(), done.stderr]).toEqual([0, 'out', 'err']);
  });

  it('reports a remote command that died of a signal as ssh does', async () => {
    const done = await bench.ssh([bench.host, 'kill -9 $$']);
    expect([done.code, done.stderr]).toEqual([255, '']);
  });

  it('gives the exit status through a remote terminal', async () => {
    const done = await bench.ssh(['-tt', bench.host, 'test -t 0 && exit 3']);
    expect(done.code).toBe(3);
    expect(done.stderr.trim()).toMatch(/^(Connection to \S+ closed\.)?$/);
  });

  it('starts a login shell without a terminal', async () => {
    const done = await bench.ssh(['-T', bench.host], { input: 'echo $((6 * 7)); exit 5\n' });
    expect([done.code, done.stdout.toString().split('\n').at(-2)]).toEqual([5, '42']);
  });

  it.each([
    ['a lone line feed', Buffer.from('\n')],
    ['one byte', Buffer.from([0xff])],
    ['64 KiB - 1', randomBytes(65_535)],
    ['64 KiB', randomBytes(65_536)],
    ['64 KiB + 1', randomBytes(65_537)],
    ['3 MB', randomBytes(3_000_000)],
  ])('echoes %s unchanged', async (_, bytes) => {
    const done = await bench.ssh([bench.host, 'cat'], { input: bytes });
    expect([done.code, done.stdoutBytes, done.stdoutSha256, done.stderr]).toEqual([
      0,
      bytes.length,
      sha256(bytes),
      '',
    ]);
  });
});

describe('64 MiB', () => {
  it('arrives whole at the other side', async () => {
    const { path, hash } = randomFile('up64', 64 * mebibyte);
    const done = await bench.ssh([bench.host, 'sha256sum'], { input: { file: path } });
    expect([done.code, done.stdout.toString().split(' ')[0], done.stderr]).toEqual([0, hash, '']);
  });

  it('comes back whole', async () => {
    const { path, hash } = randomFile('down64', 64 * mebibyte);
    const done = await bench.ssh([bench.host, `cat ${path}`], { hashOnly: true });
    expect([done.code, done.stdoutSha256, done.stderr]).toEqual([0, hash, '']);
  });
});

it('leaves nothing behind when the reader of an endless output stops early', async () => {
  const done = await run(
    ['sh', '-c', `ssh -F '${bench.config}' ${bench.host} 'cat /dev/zero' | head -c 5000000`],
    { env: bench.env },
  );
  expect([done.code, done.stdoutBytes]).toEqual([0, 5_000_000]);
});

describe('an interactive shell in a terminal', () => {
  it('prompts, answers and ends with the exit status of the shell', async () => {
    const terminal = start(
      ['script', '-qfec', `ssh -F '${bench.config}' ${bench.host}`, '/dev/null'],
      { env: bench.env, stdin: 'pipe' },
    );
    await terminal.waitForStdout(/[#$>] ?/);
    terminal.stdin.write('echo answer=$((40 + 2)); tty\n');
    await terminal.waitForStdout(/answer=42[\s\S]*\/dev\/pts\//);
    terminal.stdin.write('exit 9\n');
    const { code } = await terminal.exited;
    terminal.stdin.end();
    expect(code).toBe(9);
  });
});

describe('scp', () => {
  it.each([
    ['SFTP mode', []],
    ['the legacy protocol', ['-O']],
  ])('copies both ways in %s', async (name, mode) => {
    const source = randomFile(`scp-${mode.length}`, 5_000_000);
    const remote = join(bench.dir, `scp-remote-${mode.length}`);
    const back = join(bench.dir, `scp-back-${mode.length}`);
    const scp = ['scp', '-q', ...mode, '-F', bench.config];
    const up = await run([...scp, source.path, `${bench.host}:${remote}`], { env: bench.env });
    const down = await run([...scp, `${bench.host}:${remote}`, back], { env: bench.env });
    expect([name, up.code, up.stderr, down.code, down.stderr]).toEqual([name, 0, '', 0, '']);
    expect([await sha256File(remote), await sha256File(back)]).toEqual([source.hash, source.hash]);
  });

  it('copies between two remote hosts through two bridges', async () => {
    const source = randomFile('scp3', 1_000_000);
    const remote = join(bench.dir, 'scp3-remote');
    const done = await run(
      [
        ...['scp', '-q', '-3', '-F', bench.config],
        ...[`${bench.host}:${source.path}`, `${bench.host}:${remote}`],
      ],
      { env: bench.env },
    );
    expect([done.code, done.stderr, await sha256File(remote)]).toEqual([0, '', source.hash]);
  });
});

describe('sftp', () => {
  it('runs a batch', async () => {
    const source = randomFile('sftp', 2_000_000);
    const [remote, back] = [join(bench.dir, 'sftp-remote'), join(bench.dir, 'sftp-back')];
    const batch = join(bench.dir, 'sftp-batch');
    writeFileSync(batch, `put ${source.path} ${remote}\nget ${remote} ${back}\n`);
    const done = await run(['sftp', '-q', '-F', bench.config, '-b', batch, bench.host], {
      env: bench.env,
    });
    expect([done.code, done.stderr, await sha256File(back)]).toEqual([0, '', source.hash]);
  });
});

describe('rsync', () => {
  function tree(name: string): string {
    const dir = join(bench.dir, name);
    mkdirSync(join(dir, 'deep/er'), { recursive: true });
    for (const [index, size] of [0, 1, 70_000, 3_000_000].entries()) {
      writeFileSync(join(dir, 'deep/er', `file ${index}`), randomBytes(size));
    }
    return dir;
  }
  const rsync = (from: string, to: string): Promise<string> =>
    must(['rsync', '-a', '--checksum', '--no-whole-file', '--stats', '-e', shell(), from, to], {
      env: bench.env,
    }).then((done) => {
      expect(done.stderr).toBe('');
      return done.stdout.toString();
    });
  const shell = (): string => `ssh -F '${bench.config}'`;
  const literalBytes = (stats: string): number =>
    Number(/Literal data: ([\d,]+)/.exec(stats)?.[1]?.replaceAll(',', ''));

  it.each(['up', 'down'])('%s: a whole tree first, only the differences second', async (way) => {
    const source = tree(`rsync-${way}-source`);
    const target = join(bench.dir, `rsync-${way}-target`);
    const from = way === 'up' ? `${source}/` : `${bench.host}:${source}/`;
    const to = way === 'up' ? `${bench.host}:${target}` : target;
    expect(literalBytes(await rsync(from, to))).toBe(3_070_001);
    const big = join(source, 'deep/er/file 3');
    const bytes = readFileSync(big);
    randomBytes(100).copy(bytes, 1_000_000);
    writeFileSync(big, bytes);
    const second = literalBytes(await rsync(from, to));
    expect(second).toBeGreaterThan(0);
    expect(second).toBeLessThan(20_000);
    await must(['diff', '-r', source, target], { env: bench.env });
  });
});

it('git clones, fetches and pushes', async () => {
  const env = {
    ...bench.env,
    GIT_SSH_COMMAND: `ssh -F '${bench.config}'`,
    GIT_CONFIG_GLOBAL: '/dev/null',
    GIT_CONFIG_NOSYSTEM: '1',
    ...{ GIT_AUTHOR_NAME: 'a', GIT_AUTHOR_EMAIL: 'a@example.com' },
    ...{ GIT_COMMITTER_NAME: 'a', GIT_COMMITTER_EMAIL: 'a@example.com' },
  };
  const origin = join(bench.dir, 'origin.git');
  const url = `${bench.host}:${origin}`;
  const git = (cwd: string, ...args: string[]): Promise<string> =>
    must(['git', ...args], { env, cwd }).then((done) => {
      expect(done.stderr).toBe('');
      return done.stdout.toString().trim();
    });
  const commit = async (cwd: string): Promise<string> => {
    writeFileSync(join(cwd, 'data.bin'), randomBytes(2_000_000));
    await git(cwd, 'add', '.');
    await git(cwd, 'commit', '-q', '-m', 'data');
    return git(cwd, 'rev-parse', 'HEAD');
  };
  await git(bench.dir, 'init', '-q', '--bare', '-b', 'main', origin);
  const [first, second] = [join(bench.dir, 'git-first'), join(bench.dir, 'git-second')];
  mkdirSync(first);
  await git(first, 'init', '-q', '-b', 'main');
  const pushed = await commit(first);
  await git(first, 'push', '-q', url, 'main');
  await git(bench.dir, 'clone', '-q', url, second);
  expect(await git(second, 'rev-parse', 'HEAD')).toBe(pushed);
  const later = await commit(second);
  await git(second, 'push', '-q');
  await git(first, 'fetch', '-q', url, 'main');
  expect(await git(first, 'rev-parse', 'FETCH_HEAD')).toBe(later);
  await git(first, 'fsck', '--full', '--strict');
});

describe('forwards', () => {
  let echo: Server;
  let echoPort: number;
  beforeAll(async () => {
    echo = createServer((socket) => {
      socket.on('error', () => undefined);
      socket.pipe(socket);
    });
    await new Promise<void>((resolve) => echo.listen(0, '127.0.0.1', resolve));
    // A TCP server's address is always an AddressInfo.
    echoPort = (echo.address() as AddressInfo).port;
  });
  afterAll(() => {
    echo.close();
  });

  /** Sends random bytes, waits for as many, compares. */
  function echoes(socket: Socket, size = 1_500_000): Promise<boolean> {
    const sent = randomBytes(size);
    const received: Buffer[] = [];
    let count = 0;
    return new Promise((resolve, reject) => {
      socket.on('error', reject);
      socket.on('close', () => {
        reject(new Error(`closed after ${count} of ${size} bytes`));
      });
      socket.on('data', (chunk: Buffer) => {
        received.push(chunk);
        count += chunk.length;
        if (count < size) return;
        resolve(sha256(Buffer.concat(received)) === sha256(sent));
        socket.destroy();
      });
      socket.write(sent);
    });
  }

  async function fourAtOnce(open: () => Promise<Socket>): Promise<void> {
    const results = await Promise.all([1, 2, 3, 4].map(async () => echoes(await open())));
    expect(results).toEqual([true, true, true, true]);
  }

  const dial = (port: number): Promise<Socket> =>
    new Promise((resolve, reject) => {
      const socket = connect(port, '127.0.0.1', () => {
        resolve(socket);
      });
      socket.once('error', reject);
    });

  async function withForward(args: readonly string[], use: () => Promise<void>): Promise<void> {
    const running = start(
      [
        ...['ssh', '-F', bench.config, '-v', '-N', '-o', 'ExitOnForwardFailure=yes'],
        ...[...args, bench.host],
      ],
      { env: bench.env },
    );
    try {
      // At -v ssh says when its forwards stand: local ones before "Entering", remote ones after.
      await running.waitForStderr(/Entering interactive session/);
      await use();
    } finally {
      running.signal('SIGTERM');
      await running.finished;
    }
  }

  it('-L carries four streams at once', async () => {
    const port = await freePort();
    await withForward(['-L', `127.0.0.1:${port}:127.0.0.1:${echoPort}`], () =>
      fourAtOnce(() => dial(port)),
    );
  });

  it('-R carries four streams at once', async () => {
    const port = await freePort();
    await withForward(['-R', `127.0.0.1:${port}:127.0.0.1:${echoPort}`], async () => {
      await eventually('the remote forward stands', () =>
        dial(port).then(
          (socket) => {
            socket.destroy();
            return true;
          },
          () => false,
        ),
      );
      await fourAtOnce(() => dial(port));
    });
  });

  it('-D carries four streams at once', async () => {
    const port = await freePort();
    /** SOCKS5 (RFC 1928) without authentication, CONNECT to an IPv4 address. */
    const openThroughSocks = async (): Promise<Socket> => {
      const socket = await dial(port);
      const answer = (size: number): Promise<Buffer> =>
        new Promise((resolve, reject) => {
          const check = (): void => {
            // read() of a socket without an encoding gives a Buffer or null.
            const bytes = socket.read(size) as Buffer | null;
            if (bytes === null) return;
            socket.off('readable', check);
            resolve(bytes);
          };
          socket.on('readable', check);
          socket.once('error', reject);
          check();
        });
      socket.write(Buffer.from([5, 1, 0]));
      expect([...(await answer(2))]).toEqual([5, 0]);
      socket.write(Buffer.from([5, 1, 0, 1, 127, 0, 0, 1, echoPort >> 8, echoPort & 255]));
      expect([...(await answer(10))].slice(0, 2)).toEqual([5, 0]);
      return socket;
    };
    await withForward(['-D', `127.0.0.1:${port}`], () => fourAtOnce(openThroughSocks));
  });

  it('-W joins stdio to a remote port', async () => {
    const bytes = randomBytes(500_000);
    const running = start(['ssh', '-F', bench.config, '-W', `127.0.0.1:${echoPort}`, bench.host], {
      env: bench.env,
      stdin: 'pipe',
    });
    running.stdin.write(bytes);
    await running.waitForBytes(bytes.length);
    running.stdin.end();
    const done = await running.finished;
    expect([done.code, done.stdoutSha256, done.stderr]).toEqual([0, sha256(bytes), '']);
  });
});

describe('ControlMaster', () => {
  const options = (): string[] => [
    ...['-o', 'ControlMaster=auto', '-o', `ControlPath=${join(bench.dir, 'cm')}`],
    ...['-o', 'ControlPersist=60'],
  ];

  it('runs one bridge for a cold and a warm login, answers -O check and leaves on -O exit', async () => {
    const before = bench.emulator.sessions.length;
    const cold = await bench.ssh([...options(), bench.host, 'echo cold']);
    expect([cold.code, cold.stdout.toString(), cold.stderr]).toEqual([0, 'cold\n', '']);
    const warm = await bench.ssh([...options(), bench.host, 'echo warm; exit 4']);
    expect([warm.code, warm.stdout.toString(), warm.stderr]).toEqual([4, 'warm\n', '']);
    expect(bench.emulator.sessions.length).toBe(before + 1);
    const check = await bench.ssh([...options(), '-O', 'check', bench.host]);
    expect([check.code, check.stderr]).toEqual([0, expect.stringMatching(/^Master running/)]);
    const exit = await bench.ssh([...options(), '-O', 'exit', bench.host]);
    expect([exit.code, exit.stderr.trim()]).toEqual([0, 'Exit request sent.']);
  });

  it('serves ten logins that start at once on a cold master', async () => {
    const all = await Promise.all(
      Array.from({ length: 10 }, (_, index) =>
        bench.ssh([...options(), bench.host, `echo ${index}`]),
      ),
    );
    expect(all.map((done) => [done.code, done.stdout.toString()])).toEqual(
      all.map((_, index) => [0, `${index}\n`]),
    );
    await bench.ssh([...options(), '-O', 'exit', bench.host]);
  });
});

it('50 logins in parallel all work', { timeout: 180_000 }, async () => {
  const all = await Promise.all(
    Array.from({ length: 50 }, (_, index) =>
      bench.ssh([bench.host, `echo ${index}`], { timeoutMs: 150_000 }),
    ),
  );
  expect(all.map((done) => [done.code, done.stdout.toString(), done.stderr])).toEqual(
    all.map((_, index) => [0, `${index}\n`, '']),
  );
});

describe('odd surroundings', () => {
  it.each(['/bin/bash', '/bin/dash', ''])('works with SHELL=%s', async (shell) => {
    const done = await bench.ssh([bench.host, 'echo ok'], { env: { ...bench.env, SHELL: shell } });
    expect([done.code, done.stdout.toString(), done.stderr]).toEqual([0, 'ok\n', '']);
  });

  it('works without HOME and with a bare PATH', async () => {
    const env = Object.fromEntries(Object.entries(bench.env).filter(([name]) => name !== 'HOME'));
    const done = await bench.ssh([bench.host, 'echo ok'], {
      env: { ...env, PATH: '/usr/bin:/bin' },
    });
    expect([done.code, done.stdout.toString(), done.stderr]).toEqual([0, 'ok\n', '']);
  });

  it('works in a directory that was removed', async () => {
    const script = 'mkdir gone && cd gone && rmdir ../gone && exec "$@"';
    const done = await run(
      ['sh', '-c', script, 'sh', 'ssh', '-F', bench.config, bench.host, 'echo ok'],
      { env: bench.env, cwd: bench.dir },
    );
    // The shell that ssh starts may complain about its directory; that line is not ours.
    const ours = done.stderr.split('\n').filter((line) => !/getcwd|shell-init/.test(line));
    expect([done.code, done.stdout.toString(), ours.join('')]).toEqual([0, 'ok\n', '']);
  });

  it('works with stderr closed', async () => {
    const done = await run(
      ['sh', '-c', 'exec "$@" 2>&-', 'sh', 'ssh', '-F', bench.config, bench.host, 'echo ok'],
      { env: bench.env },
    );
    expect([done.code, done.stdout.toString()]).toEqual([0, 'ok\n']);
  });
});
