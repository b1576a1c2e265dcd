import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, openSync, readFileSync, rmSync, closeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { bridgeProgram } from '../support/bench.ts';

const program = bridgeProgram();
let home: string;

beforeEach(() => {
  home = mkdtempSync(path.join(tmpdir(), 'program-'));
});
afterEach(() => {
  rmSync(home, { recursive: true });
});

interface Ended {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

function run(...argv: readonly string[]): Ended {
  return spawnSync(process.execPath, [program, ...argv], {
    encoding: 'utf8',
    env: { HOME: home, PATH: '/usr/bin:/bin' },
    input: '',
    timeout: 20_000,
  });
}

describe('the built program', () => {
  test('says its version', () => {
    const { version } = JSON.parse(
      readFileSync(new URL('../../package.json', import.meta.url), 'utf8'),
    ) as { version: string }; // package.json is ours
    expect(run('--version')).toMatchObject({ status: 0, stdout: `${version}\n`, stderr: '' });
  });

  test.each([
    [['--help'], /^Usage: ssm-bridge <command> \[options\]\n/],
    [['connect', '--help'], /^Usage: ssm-bridge connect <target> \[port\] \[options\]\n/],
    [['forward', '--help'], /^Usage: ssm-bridge forward <node> <forwards…> \[options\]\n/],
    [['help', 'config'], /^Usage: ssm-bridge config \[options\]\n/],
  ])('answers %j on stdout', (argv, usage) => {
    const ended = run(...argv);
    expect(ended).toMatchObject({ status: 0, stderr: '' });
    expect(ended.stdout).toMatch(usage);
  });

  test('survives a reader that leaves', () => {
    const script = `"${process.execPath}" "${program}" connect --help | true; exit \${PIPESTATUS[0]}`;
    const ended = spawnSync('bash', ['-c', script], { encoding: 'utf8', env: { HOME: home } });
    expect(ended).toMatchObject({ status: 0, stderr: '' });
  });

  test.runIf(existsSync('/dev/full'))('reports output that could not be written', () => {
    const full = openSync('/dev/full', 'w');
    const ended = spawnSync(process.execPath, [program, 'config'], {
      encoding: 'utf8',
      env: { HOME: home },
      stdio: ['ignore', full, 'pipe'],
    });
    closeSync(full);
    expect(ended.status).toBe(13);
    expect(ended.stderr).toMatch(/^ssm-bridge: cannot write to stdout: .*ENOSPC/);
  });

  test('prints one line on stderr and nothing on stdout for a mistake', () => {
    expect(run('connect', '--profle', 'x', 'i-0123456789abcdef0')).toMatchObject({
      status: 2,
      stdout: '',
      stderr:
        "ssm-bridge: i-0123456789abcdef0: there is no option '--profle'; did you mean --profile?\n",
    });
  });

  test('keeps the line in a file when stderr is the null device', () => {
    const none = openSync('/dev/null', 'r+');
    const ended = spawnSync(process.execPath, [program, 'connect', 'web'], {
      env: { HOME: home },
      stdio: [none, none, none],
    });
    closeSync(none);
    expect(ended.status).toBe(2);
    const file = path.join(home, '.local/state/ssm-bridge/last-error');
    expect(readFileSync(file, 'utf8')).toMatch(
      /Z ssm-bridge: 'web' is not a node id; expected i- .*, as in i-0123456789abcdef0/,
    );
  });

  test('ends with its status when stderr is closed or its reader gone', () => {
    const start = `"${process.execPath}" "${program}" connect web`;
    for (const script of [`${start} 2>&-`, `{ ${start}; echo $? >&3; } 3>&1 2>&1 >&3 | true`]) {
      const ended = spawnSync('bash', ['-c', `${script}; true`], { env: { HOME: home } });
      expect(ended.status).toBe(0);
    }
    const closed = spawnSync('bash', ['-c', `${start} 2>&-`], { env: { HOME: home } });
    expect(closed.status).toBe(2);
  });

  test('ends with its status when stderr takes nothing', () => {
    // ssh makes the description that it shares with us non-blocking; its reader may have stopped.
    const script = `
import os, subprocess, sys
reader, writer = os.pipe()
os.set_blocking(writer, False)
try:
    while True: os.write(writer, b'x' * 4096)
except BlockingIOError: pass
sys.exit(subprocess.call(sys.argv[1:], stderr=writer, timeout=20))`;
    const ended = spawnSync(
      'python3',
      ['-c', script, process.execPath, program, 'connect', 'web'],
      {
        encoding: 'utf8',
        env: { HOME: home, PATH: '/usr/bin:/bin' },
      },
    );
    expect(ended).toMatchObject({ status: 2, stdout: '', stderr: '' });
  });

  test('loads neither yargs nor pino to refuse an argument', () => {
    const ended = execFileSync(
      process.execPath,
      [
        '-e',
        `process.argv.splice(1, 0, ${JSON.stringify(program)});
         const read = require('node:fs').readFileSync;
         const files = [];
         require('node:fs').readFileSync = (file, ...rest) => { files.push(String(file)); return read(file, ...rest); };
         process.on('exit', () => { console.log(files.join(' ')); process.exitCode = 0; });
         require(${JSON.stringify(program)});`,
        'connect',
        'web',
      ],
      { encoding: 'utf8', env: { HOME: home }, stdio: ['ignore', 'pipe', 'ignore'] },
    );
    const names = ended
      .trim()
      .split(' ')
      .map((file) => path.basename(file));
    const chunks = new Set(names.filter((name) => name.endsWith('.cjs')));
    expect(chunks).toEqual(new Set(['ssm-bridge.cjs', 'main.cjs']));
  });
});
