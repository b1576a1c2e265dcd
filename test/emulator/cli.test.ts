import { spawn, type ChildProcess } from 'node:child_process';
import { existsSync } from 'node:fs';
import { dirname } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, expect, test } from 'vitest';
import { isRefused } from './fixtures.ts';

const program = fileURLToPath(new URL('../../scripts/emulator', import.meta.url));

let child: ChildProcess | undefined;

afterEach(() => {
  child?.kill('SIGKILL');
});

interface Started {
  readonly output: () => string;
  readonly exit: Promise<number | null>;
}

function start(...args: string[]): Started {
  let text = '';
  const started = spawn(process.execPath, [program, ...args], {
    env: { PATH: process.env['PATH'], HOME: '/nonexistent' },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  child = started;
  started.stdout.on('data', (chunk: Buffer) => (text += chunk.toString()));
  started.stderr.on('data', (chunk: Buffer) => (text += chunk.toString()));
  const exit = new Promise<number | null>((resolve) => {
    started.on('exit', resolve);
  });
  return { output: () => text, exit };
}

test.each(['SIGINT', 'SIGTERM'] as const)(
  'prints what to export, serves, and leaves nothing after %s',
  async (signal) => {
    const { output, exit } = start('--port-map', 'i-0123456789abcdef0:22=127.0.0.1:2222');
    await expect.poll(output, { timeout: 20_000 }).toContain('Ctrl-C ends it');
    const port = Number(/AWS_ENDPOINT_URL_SSM='https:\/\/localhost:(\d+)'/.exec(output())?.[1]);
    const caFile = /AWS_CA_BUNDLE='([^']+)'/.exec(output())?.[1] ?? '';
    expect(existsSync(caFile)).toBe(true);
    expect(await isRefused(port)).toBe(false);
    expect(output()).toContain('ProxyCommand');
    child?.kill(signal);
    expect(await exit).toBe(0);
    expect(existsSync(dirname(caFile))).toBe(false);
    expect(await isRefused(port)).toBe(true);
  },
);

test('says what is wrong with a port mapping', async () => {
  const { output, exit } = start('--port-map', 'nonsense');
  expect(await exit).toBe(2);
  expect(output()).toContain('not NODE:PORT=HOST:PORT');
});
