/** `ssm-bridge forward` and `connect --via` as processes, against the emulated service. */
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { connect, createServer, type AddressInfo, type Server, type Socket } from 'node:net';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import type { Faults } from '../emulator/types.ts';
import { openBench, type Bench } from '../support/bench.ts';
import { sha256, type Running } from '../support/process.ts';

let bench: Bench;
let echo: Server;
let greeter: Server;
let closedPort: number;

beforeAll(async () => {
  echo = await serve((socket) => {
    socket.on('error', () => undefined);
    socket.pipe(socket);
  });
  greeter = await serve((socket) => socket.end('220 ready\r\n'));
  const gone = await serve(() => undefined);
  closedPort = portOf(gone);
  gone.close();
  bench = await openBench({
    withoutSshd: true,
    node: {
      hosts: { 'echo.internal': '127.0.0.1', 'greeter.internal': '127.0.0.1' },
      ports: { 80: { host: '127.0.0.1', port: portOf(greeter) } },
    },
  });
});
const children: Running[] = [];
afterEach(async () => {
  for (const child of children.splice(0)) {
    child.signal('SIGTERM');
    await child.exited;
  }
  bench.emulator.faults.clear();
  await bench.assertClean();
});
afterAll(async () => {
  await bench.close();
  echo.close();
  greeter.close();
});

async function serve(onConnection: (socket: Socket) => void): Promise<Server> {
  const server = createServer({ allowHalfOpen: true }, onConnection);
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return server;
}

function portOf(server: Server): number {
  // It listens on TCP.
  return (server.address() as AddressInfo).port;
}

/** Starts the forwards and waits until each has named its address; gives the local ports. */
async function forward(
  specs: readonly string[],
  args: readonly string[] = [],
): Promise<{ child: Running; ports: number[] }> {
  const child = bench.bridge(['forward', ...args, bench.host, ...specs]);
  children.push(child);
  const line = /forwarding 127\.0\.0\.1:(\d+) -> (\S+) via i-0123456789abcdef0/g;
  await child.waitForStderr(new RegExp(`(${line.source}[^]*){${specs.length}}`));
  const found = [...child.stderrSoFar().matchAll(line)];
  const ports = specs.map((spec) => {
    const destination = spec.replace(/^\d+:/, '');
    return Number(
      found.find(
        (match) => match[2] === destination || match[2] === `localhost:${destination}`,
      )?.[1],
    );
  });
  return { child, ports };
}

function open(port: number): Socket {
  return connect({ port, host: '127.0.0.1', allowHalfOpen: true });
}

async function readAll(socket: Socket): Promise<string> {
  let text = '';
  socket.on('data', (chunk: Buffer) => (text += chunk.toString('latin1')));
  return new Promise((resolve) => {
    socket.once('end', () => {
      socket.end();
      resolve(text);
    });
    socket.once('error', (error: NodeJS.ErrnoException) => {
      resolve(error.code ?? error.message);
    });
  });
}

/** Sends bytes to the echo and gives the hash of what came back. */
async function echoed(port: number, bytes: Uint8Array): Promise<string> {
  const socket = open(port);
  const chunks: Buffer[] = [];
  let received = 0;
  const whole = new Promise<string>((resolve) => {
    socket.on('error', (error) => {
      resolve(error.message);
    });
    socket.on('close', () => {
      resolve(`closed after ${received}`);
    });
    socket.on('data', (chunk: Buffer) => {
      chunks.push(chunk);
      received += chunk.length;
      if (received === bytes.length) resolve(sha256(Buffer.concat(chunks)));
    });
  });
  socket.write(bytes);
  const hash = await whole;
  socket.destroy();
  return hash;
}

describe('forward', () => {
  it('serves several forwards at once, ports chosen by the system', async () => {
    const { ports } = await forward([
      `0:echo.internal:${portOf(echo)}`,
      `0:greeter.internal:${portOf(greeter)}`,
      `0:80`,
    ]);
    const bytes = randomBytes(300_000);
    expect(await echoed(ports[0]!, bytes)).toBe(sha256(bytes));
    expect(await readAll(open(ports[1]!))).toBe('220 ready\r\n');
    expect(await readAll(open(ports[2]!))).toBe('220 ready\r\n');
    expect(
      bench.emulator.sessions
        .slice(-3)
        .map((each) => each.documentName)
        .sort(),
    ).toEqual([
      'AWS-StartPortForwardingSession',
      'AWS-StartPortForwardingSessionToRemoteHost',
      'AWS-StartPortForwardingSessionToRemoteHost',
    ]);
  });

  it('carries 40 connections at once over one session', async () => {
    const before = bench.emulator.sessions.length;
    const { ports } = await forward([`0:echo.internal:${portOf(echo)}`]);
    const all = await Promise.all(
      Array.from({ length: 40 }, async (_, index) => {
        const bytes = randomBytes(1 + index * 3001);
        return (await echoed(ports[0]!, bytes)) === sha256(bytes);
      }),
    );
    expect(all.every(Boolean)).toBe(true);
    expect(bench.emulator.sessions.length - before).toBe(1);
  });

  it('resets a refused connection, says why in one line, and serves the next', async () => {
    const { child, ports } = await forward([`0:echo.internal:${closedPort}`]);
    expect(await readAll(open(ports[0]!))).toBe('ECONNRESET');
    await child.waitForStderr(/could not connect/);
    expect(await readAll(open(ports[0]!))).toBe('ECONNRESET');
    await child.waitForStderr(/(?:could not connect[^]*){2}/);
    const line = /^ssm-bridge: i-0123456789abcdef0: 127\.0\.0\.1:\d+ -> echo\.internal:\d+: /gm;
    expect(child.stderrSoFar().match(line)).toHaveLength(2);
  });

  it('says nothing when asked to be quiet', async () => {
    const child = bench.bridge(['forward', '--quiet', bench.host, '0:80']);
    children.push(child);
    await bench.emulator.waitFor(
      () => bench.emulator.sessions.at(-1)?.handshakeDone === true,
      'session open',
    );
    child.signal('SIGTERM');
    await child.exited;
    expect(child.stderrSoFar()).toBe('');
  });

  it.each([
    ['SIGINT', 130],
    ['SIGTERM', 143],
    ['SIGHUP', 129],
  ] as const)('ends on %s with status %i and leaves no session', async (signal, status) => {
    const { child, ports } = await forward([`0:echo.internal:${portOf(echo)}`]);
    const socket = open(ports[0]!);
    socket.write('x');
    await once(socket, 'data');
    const end = readAll(socket);
    child.signal(signal);
    expect(await child.exited).toEqual({ code: status, signal: null });
    expect(await end).toBe('ECONNRESET');
    expect(bench.emulator.sessions.at(-1)?.endedBy).toBe('terminate-flag');
  });

  it('ends with the reason when the session is lost under a connection', async () => {
    const { child, ports } = await forward([`0:echo.internal:${portOf(echo)}`]);
    const socket = open(ports[0]!);
    socket.write('x');
    await once(socket, 'data');
    const end = readAll(socket);
    bench.emulator.sessions.at(-1)?.end('terminate-api', 'terminated by an administrator');
    expect((await child.exited).code).toBe(9);
    expect(child.stderrSoFar()).toContain('terminated by an administrator');
    expect(await end).toBe('ECONNRESET');
  });

  it('opens a new session for the next connection after an idle end', async () => {
    const { child, ports } = await forward(['0:80']);
    bench.emulator.sessions.at(-1)?.end('idle-timeout', '');
    await child.waitForStderr(/next connection opens a new one/);
    expect(await readAll(open(ports[0]!))).toBe('220 ready\r\n');
  });

  it('fails at the start when the local port is taken, with status 13', async () => {
    const before = bench.emulator.sessions.length;
    const child = bench.bridge(['forward', bench.host, `${portOf(echo)}:80`]);
    expect((await child.exited).code).toBe(13);
    expect(child.stderrSoFar()).toMatch(/cannot listen on 127\.0\.0\.1:\d+: the address is in use/);
    expect(bench.emulator.sessions.length).toBe(before);
  });

  it('fails at the start when the name is unknown at the node, with status 9', async () => {
    const child = bench.bridge(['forward', bench.host, '0:nowhere.invalid:80']);
    expect((await child.exited).code).toBe(9);
    expect(child.stderrSoFar()).toMatch(/cannot reach nowhere\.invalid:80: .*no such host/);
  });

  it('fails at the start when the node is unknown, with status 5', async () => {
    const child = bench.bridge(['forward', 'i-0123456789abcdef9', '0:80']);
    expect((await child.exited).code).toBe(5);
  });

  it('asks for a newer agent when this one does not multiplex, with status 5', async () => {
    const node = bench.emulator.node(bench.host);
    bench.emulator.setNode({ ...node, agentVersion: '3.0.161.0' });
    const child = bench.bridge(['forward', bench.host, '0:80']);
    const { code } = await child.exited;
    bench.emulator.setNode(node);
    expect([code, child.stderrSoFar()]).toEqual([5, expect.stringContaining('3.0.161.0')]);
  });
});

describe('forward under faults', () => {
  const faults: [string, Faults][] = [
    ['lost messages', { toAgent: { loss: 0.05 }, toClient: { loss: 0.05 } }],
    ['duplicates', { toAgent: { duplicate: 0.2 }, toClient: { duplicate: 0.2 } }],
    ['reordering', { toAgent: { reorder: 0.1 }, toClient: { reorder: 0.1 } }],
    ['delay', { toAgent: { delayMs: 20, jitterMs: 20 }, toClient: { delayMs: 20, jitterMs: 20 } }],
    ['wrong digests', { toClient: { corruptDigest: 0.005 } }],
    [
      'damaged frames',
      {
        toClient: { truncate: 0.001, oversizeHeader: 0.01, unknownType: 0.05 },
      },
    ],
    ['closes', { socket: [{ how: 'close', code: 1000, after: { messages: 60 }, times: 4 }] }],
    ['resets', { socket: [{ how: 'reset', after: { bytes: 200_000 }, times: 4 }] }],
  ];
  it.each(faults)('loses nothing in 12 streams with %s', async (name, fault) => {
    const { ports } = await forward([`0:echo.internal:${portOf(echo)}`]);
    const hits = (): number => Object.values(bench.emulator.faults.hits).reduce((a, b) => a + b, 0);
    const before = hits();
    bench.emulator.faults.set(fault);
    const results = await Promise.all(
      Array.from({ length: 12 }, async (_, index) => {
        const bytes = randomBytes(index % 3 === 0 ? 150_000 : 500 * (index + 1));
        return (await echoed(ports[0]!, bytes)) === sha256(bytes);
      }),
    );
    expect(results.every(Boolean)).toBe(true);
    if (name !== 'delay') expect(hits()).toBeGreaterThan(before);
  });

  it('closes the connections that a destination resets or refuses, and no others', async () => {
    const resetting = await serve((socket) => {
      socket.on('error', () => undefined);
      socket.once('data', () => socket.resetAndDestroy());
    });
    const { ports } = await forward([
      `0:echo.internal:${portOf(echo)}`,
      `0:echo.internal:${portOf(resetting)}`,
    ]);
    bench.emulator.faults.set({ toClient: { loss: 0.05, reorder: 0.05 }, toAgent: { loss: 0.05 } });
    const bytes = randomBytes(200_000);
    const survivors = Array.from({ length: 4 }, () => echoed(ports[0]!, bytes));
    const ends = await Promise.all(
      Array.from({ length: 8 }, async () => {
        const socket = open(ports[1]!);
        socket.write('x');
        return await readAll(socket);
      }),
    );
    resetting.close();
    expect(ends).toEqual(Array.from({ length: 8 }, () => ''));
    expect(await Promise.all(survivors)).toEqual(survivors.map(() => sha256(bytes)));
  });
});

describe('connect --via', () => {
  const via = (host: string, port: number): Running =>
    bench.bridge(['connect', host, String(port), '--via', bench.host], {
      stdin: 'pipe',
      timeoutMs: 20_000,
    });

  it('joins stdin and stdout to a host behind the node', async () => {
    const child = via('echo.internal', portOf(echo));
    const bytes = Buffer.concat([Buffer.from('SSH-2.0-x\r\n'), randomBytes(200_000)]);
    child.stdin.write(bytes);
    await child.waitForBytes(bytes.length);
    child.stdin.end();
    const done = await child.finished;
    expect([done.stdoutSha256, done.stderr]).toEqual([sha256(bytes), '']);
    expect(bench.emulator.sessions.at(-1)?.mode).toBe('mux');
  });

  it('carries the bare bytes when the agent is too old to multiplex', async () => {
    const node = bench.emulator.node(bench.host);
    bench.emulator.setNode({ ...node, agentVersion: '3.0.161.0' });
    const child = via('echo.internal', portOf(echo));
    child.stdin.write('SSH-2.0-x\r\n');
    await child.waitForStdout(/SSH-2\.0-x\r\n/);
    bench.emulator.setNode(node);
    child.stdin.end();
    await child.finished;
    expect(bench.emulator.sessions.at(-1)?.mode).toBe('basic');
  });

  it('ends when the destination closes, with its last bytes written', async () => {
    const child = via('greeter.internal', portOf(greeter));
    const done = await child.finished;
    expect([done.code, done.stdout.toString()]).toEqual([0, '220 ready\r\n']);
  });

  it('reports a refused destination within seconds, with status 9', async () => {
    const child = via('echo.internal', closedPort);
    const done = await child.finished;
    expect([done.code, done.stdout.toString()]).toEqual([9, '']);
    expect(done.stderr).toMatch(
      /^ssm-bridge: echo\.internal via i-0123456789abcdef0: i-0123456789abcdef0 could not connect to echo\.internal:\d+; [^\n]*\n$/,
    );
  });

  it('reports a name the node cannot resolve, with status 9', async () => {
    const done = await via('nowhere.invalid', 22).finished;
    expect([done.code, done.stderr]).toEqual([9, expect.stringContaining('no such host')]);
  });

  it('reports an address the agent refuses, with status 9', async () => {
    const done = await via('169.254.169.254', 80).finished;
    expect([done.code, done.stderr]).toEqual([9, expect.stringContaining('is forbidden')]);
  });

  it('reports a destination that swallows packets, with status 9', async () => {
    const node = bench.emulator.node(bench.host);
    bench.emulator.setNode({ ...node, dial: () => new Promise(() => undefined) });
    const child = via('10.0.1.20', 22);
    child.stdin.write('SSH-2.0-OpenSSH_9.2\r\n');
    const done = await child.finished;
    bench.emulator.setNode(node);
    expect([done.code, done.stderr]).toEqual([9, expect.stringContaining('did not answer')]);
  });
});
