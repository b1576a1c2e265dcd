/** A session outlives its sockets: what ssh users see of it, and what they do not. */
import { randomBytes } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Credentials } from '../emulator/types.ts';
import { openBench, type Bench, type BenchOptions } from '../support/bench.ts';
import { startSshd, type Sshd } from '../support/openssh.ts';
import { run, sha256, sha256File, type Running } from '../support/process.ts';

let sshd: Sshd;
beforeAll(async () => {
  sshd = await startSshd();
});
afterAll(() => sshd.stop());

async function withBench(
  options: BenchOptions,
  test: (bench: Bench) => Promise<void>,
): Promise<void> {
  const bench = await openBench({ sshd, ...options });
  try {
    await test(bench);
    await bench.assertClean();
  } finally {
    await bench.close();
  }
}

async function conversation(bench: Bench): Promise<Running> {
  const running = bench.startSsh([bench.host, 'echo up; cat'], { stdin: 'pipe' });
  await running.waitForStdout(/up\n/);
  return running;
}

async function answers(running: Running, word: string): Promise<void> {
  running.stdin.write(`${word}\n`);
  await running.waitForStdout(new RegExp(word), 30_000);
}

describe.concurrent('an ssh session', () => {
  it('goes on through close 1000, a lost TCP connection and a reset, silently', () =>
    withBench({}, async (bench) => {
      const running = await conversation(bench);
      const [session] = bench.emulator.sessions;
      for (const strike of ['closeSocket', 'resetSocket', 'closeSocket'] as const) {
        session![strike](strike === 'closeSocket' ? 1000 : undefined);
        await answers(running, `after-${strike}-${session!.counters.resumes}`);
      }
      expect(session!.counters.resumes).toBe(3);
      running.stdin.end();
      const done = await running.finished;
      expect([done.code, done.stderr]).toEqual([0, '']);
    }));

  it('goes on over a new stream URL', () =>
    withBench({ emulator: { resumeUrl: 'other' } }, async (bench) => {
      const running = await conversation(bench);
      bench.emulator.sessions[0]!.closeSocket(1000, 'Bye');
      await answers(running, 'elsewhere');
      running.stdin.end();
      expect((await running.finished).stderr).toBe('');
    }));

  it('notices a black hole, says so when resuming is hard, and says when it is back', () =>
    withBench({ bridgeArgs: ['--keepalive', '500ms'] }, async (bench) => {
      const running = await conversation(bench);
      bench.emulator.faults.set({ api: [{ operation: 'ResumeSession', reset: true, times: 4 }] });
      bench.emulator.sessions[0]!.blackholeSocket();
      await answers(running, 'typed-meanwhile');
      running.stdin.end();
      const done = await running.finished;
      expect(done.code).toBe(0);
      expect(done.stderr.trim().split('\n')).toEqual([
        expect.stringMatching(/^ssm-bridge: i-\w+: connection lost .*resume/),
        expect.stringMatching(/^ssm-bridge: i-\w+: connection resumed/),
      ]);
    }));

  it('keeps what was typed while the connection was away', () =>
    withBench({}, async (bench) => {
      const running = await conversation(bench);
      bench.emulator.faults.set({ api: [{ operation: 'ResumeSession', delayMs: 1000 }] });
      bench.emulator.sessions[0]!.resetSocket();
      const typed = Array.from({ length: 50 }, (_, index) => `line ${index}\n`).join('');
      running.stdin.write(typed);
      await running.waitForStdout(/line 49\n/, 20_000);
      expect(running.stdoutSoFar()).toBe(`up\n${typed}`);
      running.stdin.end();
      expect((await running.finished).code).toBe(0);
    }));

  it('ends with a reason when resuming is denied', () =>
    withBench({}, async (bench) => {
      const running = await conversation(bench);
      bench.emulator.faults.set({
        api: [{ operation: 'ResumeSession', error: { name: 'AccessDeniedException' } }],
      });
      bench.emulator.sessions[0]!.resetSocket();
      const done = await running.finished;
      expect(done.code).toBe(255);
      expect(done.stderr).toMatch(/^ssm-bridge: i-\w+: [^\n]*ResumeSession[^\n]*denied[^\n]*\n/);
    }));

  it.each(['does-not-exist', 'empty-token'] as const)(
    'ends at once when the service says the session is over (%s)',
    (resumeGone) =>
      withBench({ emulator: { resumeGone } }, async (bench) => {
        const running = await conversation(bench);
        const [session] = bench.emulator.sessions;
        session!.blackholeSocket();
        session!.end('max-duration');
        session!.resetSocket();
        const done = await running.finished;
        expect(done.code).toBe(255);
        expect(done.stderr).toMatch(/^ssm-bridge: i-\w+: [^\n]*session[^\n]*\n/);
      }),
  );

  it('does not try to resume with --resume-timeout 0', () =>
    withBench({ bridgeArgs: ['--resume-timeout', '0'] }, async (bench) => {
      const running = await conversation(bench);
      bench.emulator.sessions[0]!.resetSocket();
      const done = await running.finished;
      expect([done.code, bench.emulator.sessions[0]!.counters.resumes]).toEqual([255, 0]);
      expect(done.stderr).toMatch(/^ssm-bridge: i-\w+: [^\n]*\n/);
    }));

  it('resumes with credentials resolved anew', async () => {
    const key = (name: string): Credentials => ({
      accessKeyId: `AKIA${name.padEnd(16, 'X')}`,
      secretAccessKey: `secret-of-${name}`,
      sessionToken: `session-of-${name}`,
    });
    const [old, fresh] = [key('OLD'), key('FRESH')];
    await withBench({ emulator: { credentials: [old] } }, async (bench) => {
      const current = join(bench.dir, `credentials-${bench.emulator.port}.json`);
      const put = (credentials: Credentials): void => {
        writeFileSync(
          current,
          JSON.stringify({
            Version: 1,
            AccessKeyId: credentials.accessKeyId,
            SecretAccessKey: credentials.secretAccessKey,
            SessionToken: credentials.sessionToken,
            // About to expire: whoever caches longer than that uses dead credentials.
            Expiration: new Date(Date.now() + 2_000).toISOString(),
          }),
        );
      };
      put(old);
      const config = join(bench.dir, `aws-config-${bench.emulator.port}`);
      writeFileSync(
        config,
        `[profile rotating]\nregion = ${bench.env['AWS_REGION'] ?? ''}\ncredential_process = cat ${current}\n`,
      );
      const env: Record<string, string> = { ...bench.env, AWS_CONFIG_FILE: config };
      env['AWS_PROFILE'] = 'rotating';
      for (const name of ['ACCESS_KEY_ID', 'SECRET_ACCESS_KEY', 'SESSION_TOKEN']) {
        Reflect.deleteProperty(env, `AWS_${name}`);
      }
      const running = bench.startSsh([bench.host, 'echo up; cat'], { stdin: 'pipe', env });
      await running.waitForStdout(/up\n/);
      bench.emulator.setCredentials([fresh, { ...old, state: 'expired' }]);
      put(fresh);
      bench.emulator.sessions[0]!.closeSocket(1000, 'Bye');
      await answers(running, 'with-fresh-credentials');
      running.stdin.end();
      const done = await running.finished;
      expect([done.code, done.stderr]).toEqual([0, '']);
      expect(bench.emulator.apiCalls.at(-1)?.accessKeyId).toBe(fresh.accessKeyId);
    });
  });
});

describe('large copies through a socket that is cut all the time', () => {
  const size = 128 * 1024 * 1024;

  it('scp of 128 MiB arrives whole', () =>
    withBench({}, async (bench) => {
      const source = join(bench.dir, 'cut-scp');
      const bytes = randomBytes(size);
      writeFileSync(source, bytes);
      bench.emulator.faults.set({
        socket: [{ how: 'reset', after: { bytes: 12_000_000 }, times: Infinity }],
      });
      const done = await run(
        ['scp', '-q', '-F', bench.config, source, `${bench.host}:${source}.copy`],
        { env: bench.env, timeoutMs: 110_000 },
      );
      expect([done.code, done.stderr]).toEqual([0, '']);
      expect(await sha256File(`${source}.copy`)).toBe(sha256(bytes));
      expect(bench.emulator.sessions[0]!.counters.resumes).toBeGreaterThan(5);
      bench.emulator.faults.clear();
    }));

  it('rsync of 128 MiB back arrives whole', () =>
    withBench({}, async (bench) => {
      const source = join(bench.dir, 'cut-rsync');
      const bytes = randomBytes(size);
      writeFileSync(source, bytes);
      let round = 0;
      const cutting = setInterval(() => {
        const session = bench.emulator.sessions[0];
        if (session?.isConnected !== true) return;
        if (++round % 2 === 0) session.closeSocket(1000, 'Bye');
        else session.resetSocket();
      }, 1000);
      const done = await run(
        [
          ...['rsync', '-a', '-e', `ssh -F '${bench.config}'`],
          ...[`${bench.host}:${source}`, `${source}.copy`],
        ],
        { env: bench.env, timeoutMs: 110_000 },
      );
      clearInterval(cutting);
      expect([done.code, done.stderr]).toEqual([0, '']);
      expect(await sha256File(`${source}.copy`)).toBe(sha256(bytes));
      expect(bench.emulator.sessions[0]!.counters.resumes).toBeGreaterThan(0);
      bench.emulator.faults.clear();
    }));
});
