import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type AddressInfo, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { bridgeProgram, nodeId, openBench, type Bench } from '../support/bench.ts';
import { start, type Running } from '../support/process.ts';

// Faults in the program itself: what happens at SIGUSR2 is put into it by a preloaded script.

let directory: string;
let server: Server;
let bench: Bench;

beforeEach(async () => {
  directory = mkdtempSync(path.join(tmpdir(), 'faults-'));
  server = createServer((socket) => {
    socket.on('error', () => undefined);
    socket.write('SSH-2.0-test\r\n');
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  // A server that listens on TCP has such an address.
  const { port } = server.address() as AddressInfo;
  bench = await openBench({
    withoutSshd: true,
    node: { ports: { 22: { host: '127.0.0.1', port } } },
  });
});

afterEach(async () => {
  await bench.close();
  server.close();
  rmSync(directory, { recursive: true });
});

/** A bridge with an open session that runs this code at SIGUSR2. */
async function startWith(code: string): Promise<Running> {
  const preload = path.join(directory, 'preload.cjs');
  writeFileSync(preload, `process.on('SIGUSR2', () => { ${code} });`);
  const running = start(
    [process.execPath, '--require', preload, bridgeProgram(), 'connect', nodeId],
    { env: bench.env, stdin: 'pipe', timeoutMs: 20_000 },
  );
  await running.waitForStdout(/SSH-2\.0-test/);
  return running;
}

test.each([
  ['an exception that nobody catches', "throw new Error('boom')"],
  ['a rejection that nobody handles', "Promise.reject(new Error('boom'))"],
])('%s is one line, status 1, and the end of the session', async (_, code) => {
  const running = await startWith(code);
  running.signal('SIGUSR2');
  const ended = await running.finished;
  expect(ended.stderr).toBe('ssm-bridge: internal error: Error: boom\n');
  expect(ended.code).toBe(1);
  await bench.assertClean();
});

test('a timer that somebody forgot does not keep the process', async () => {
  const running = await startWith('setInterval(() => {}, 1000); process.stderr.write("set");');
  running.signal('SIGUSR2');
  await running.waitForStderr(/set/);
  running.stdin.end();
  const ended = await running.finished;
  expect(ended.code).toBe(0);
  await bench.assertClean();
});
