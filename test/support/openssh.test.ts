import { randomBytes } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startSshd, writeSshConfig, type Sshd } from './openssh.ts';
import { baseEnv, marker, processesWith, run, sha256, start } from './process.ts';

// Plain TCP on stdin and stdout: the harness must work before anything of ours is in the path.
const dial = `const s=require('net').connect(+process.argv[1],'127.0.0.1');process.stdin.pipe(s).pipe(process.stdout)`;

describe('the OpenSSH harness', () => {
  let sshd: Sshd;
  let config: string;
  beforeAll(async () => {
    sshd = await startSshd();
    config = writeSshConfig(sshd, {
      proxyCommand: [process.execPath, '-e', dial, String(sshd.port)],
    }).file;
  });
  afterAll(() => sshd.stop());

  it('logs in through a ProxyCommand with silent stderr and the exit status of the command', async () => {
    const done = await run(['ssh', '-F', config, 'i-0abc', 'echo hello; exit 7'], {
      env: baseEnv(),
    });
    expect([done.code, done.stdout.toString(), done.stderr]).toEqual([7, 'hello\n', '']);
  });

  it('hashes output without holding it', async () => {
    const bytes = randomBytes(3_000_000);
    const done = await run(['ssh', '-F', config, 'i-0abc', 'cat'], {
      env: baseEnv(),
      input: bytes,
      hashOnly: true,
    });
    expect([done.stdoutBytes, done.stdoutSha256, done.stdout.length]).toEqual([
      bytes.length,
      sha256(bytes),
      0,
    ]);
  });

  it('lists and kills what a marked process started', async () => {
    const mark = marker();
    const running = start(['ssh', '-F', config, 'i-0abc', 'echo up; cat'], {
      env: baseEnv(mark),
      stdin: 'pipe',
    });
    await running.waitForStdout(/up/);
    expect(processesWith(mark).map((one) => one.command.split(' ')[0])).toEqual(
      expect.arrayContaining(['ssh', process.execPath]),
    );
    running.signalGroup('SIGKILL');
    await running.finished;
    expect(processesWith(mark)).toEqual([]);
  });

  it('kills a process that exceeds its time limit', async () => {
    await expect(run(['sleep', '60'], { env: baseEnv(), timeoutMs: 50 })).rejects.toThrow(
      /still running/,
    );
  });
});
