import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type AddressInfo, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { bridgeProgram, nodeId, openBench, type Bench } from '../support/bench.ts';
import { eventually, start, type Running } from '../support/process.ts';

// What a connection loads is paid for at each start of ssh. These fail when something heavy comes in, without
// measuring time.

/** What Node itself has loaded before it runs a program. */
const present: ReadonlySet<string> = new Set(
  execFileSync(process.execPath, ['--eval', 'fs.writeSync(1, process.moduleLoadList.join())'], {
    encoding: 'utf8',
    env: {},
  }).split(','),
);

const unwanted =
  /undici|webstreams|child_process|worker_threads|inspector|internal\/repl|readline|http2|internal\/test/;

const probe = `
process.on('SIGUSR2', () => {
  require('node:fs').writeFileSync(process.env.PROBE_FILE + '.part', JSON.stringify(process.moduleLoadList));
  require('node:fs').renameSync(process.env.PROBE_FILE + '.part', process.env.PROBE_FILE);
});`;

let directory: string;
let server: Server;
let bench: Bench;
let bridge: Running | undefined;

beforeEach(async () => {
  directory = mkdtempSync(path.join(tmpdir(), 'hot-path-'));
  writeFileSync(path.join(directory, 'probe.cjs'), probe);
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
    env: { XDG_CACHE_HOME: directory },
  });
});

afterEach(async () => {
  bridge?.signal('SIGKILL');
  await bridge?.exited;
  bridge = undefined;
  await bench.close();
  server.close();
  rmSync(directory, { recursive: true });
});

/** The builtin modules that the bridge has loaded by now. */
async function loadedModules(running: Running, file: string): Promise<readonly string[]> {
  running.signal('SIGUSR2');
  await eventually('the list is written', () => readdirSync(directory).includes(file));
  // The probe writes a list of strings.
  return JSON.parse(readFileSync(path.join(directory, file), 'utf8')) as string[];
}

function startProbed(file: string): Running {
  const command = [process.execPath, '--require', path.join(directory, 'probe.cjs')];
  return start([...command, bridgeProgram(), 'connect', nodeId], {
    env: { ...bench.env, PROBE_FILE: path.join(directory, file) },
    stdin: 'pipe',
  });
}

function unwantedIn(modules: readonly string[]): readonly string[] {
  return modules.filter((name) => unwanted.test(name) && !present.has(name));
}

test('nothing that is not needed is loaded by the time StartSession is asked', async () => {
  bench.emulator.faults.set({ api: [{ operation: 'StartSession', hang: true }] });
  bridge = startProbed('modules');
  await bench.emulator.waitFor(() => bench.emulator.apiCalls.length > 0, 'StartSession');
  const modules = await loadedModules(bridge, 'modules');
  expect(modules).toContain('NativeModule https');
  expect(unwantedIn(modules)).toEqual([]);
});

test('nor when the session is up', async () => {
  bridge = startProbed('modules');
  await bridge.waitForStdout(/SSH-2\.0-test/);
  const modules = await loadedModules(bridge, 'modules');
  expect(unwantedIn(modules)).toEqual([]);
});

test('even a short session leaves the code cache for the next', async () => {
  for (const run of ['first', 'second']) {
    const running = bench.bridge(['connect', nodeId], { stdin: 'pipe' });
    await running.waitForStdout(/SSH-2\.0-test/);
    running.stdin.end();
    const ended = await running.finished;
    expect({ run, code: ended.code, stderr: ended.stderr }).toEqual({ run, code: 0, stderr: '' });
    const [cache] = readdirSync(path.join(directory, 'ssm-bridge'));
    expect(readdirSync(path.join(directory, 'ssm-bridge', cache ?? ''))).toEqual(['main.cjs']);
  }
});
