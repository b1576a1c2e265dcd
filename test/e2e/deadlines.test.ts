/** Nothing that stands still for ever can make the bridge stand still for ever. */
import { createServer, type AddressInfo, type Server } from 'node:net';
import { PassThrough } from 'node:stream';
import { describe, expect, it } from 'vitest';
import type { Faults, NodeOptions } from '../emulator/types.ts';
import { openBench } from '../support/bench.ts';
import { startPeer } from '../support/peer.ts';

interface Standstill {
  readonly name: string;
  readonly status: number;
  readonly says: RegExp;
  readonly faults?: Faults;
  readonly node?: Partial<NodeOptions>;
  readonly args?: (silentPort: number) => readonly string[];
}

const hour = 3_600_000;

const standstills: readonly Standstill[] = [
  {
    name: 'StartSession that is never answered',
    status: 6,
    says: /StartSession|in time/,
    faults: { api: [{ operation: 'StartSession', hang: true }] },
  },
  {
    name: 'a TCP connection on which TLS is never answered',
    status: 6,
    says: /in time|timed out|too long/,
    faults: { connect: [{ how: 'silent', times: 100 }] },
  },
  {
    name: 'an upgrade that is never answered',
    status: 6,
    says: /in time|timed out|too long/,
    faults: { upgrade: [{ hang: true }] },
  },
  {
    name: 'a WebSocket that opens and then is silent',
    status: 7,
    says: /handshake/,
    faults: { upgrade: [{ silent: true }] },
  },
  {
    name: 'an agent that never begins the handshake',
    status: 7,
    says: /did not begin the handshake/,
    node: { behaviour: 'silent' },
  },
  {
    name: 'an agent that never completes the handshake',
    status: 7,
    says: /did not complete the handshake/,
    node: { agent: { handshakeCompleteDelayMs: hour } },
  },
  {
    name: 'phases that are each in time but not together',
    status: 7,
    says: /handshake/,
    faults: { api: [{ operation: 'StartSession', delayMs: 900 }] },
    node: { agent: { handshakeRequestDelayMs: 900, handshakeCompleteDelayMs: 900 } },
  },
  {
    name: 'a proxy that accepts and then is silent',
    status: 6,
    says: /proxy/,
    args: (port) => ['--proxy', `http://127.0.0.1:${port}`],
  },
  {
    name: 'a SOCKS proxy that accepts and then is silent',
    status: 6,
    says: /proxy/,
    args: (port) => ['--proxy', `socks5://127.0.0.1:${port}`],
  },
];

async function silentServer(): Promise<{ server: Server; port: number }> {
  const server = createServer((socket) => socket.on('error', () => undefined).resume());
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  // A TCP server's address is always an AddressInfo.
  return { server, port: (server.address() as AddressInfo).port };
}

describe.concurrent('within --connect-timeout', () => {
  it.each(standstills)('$name ends with exit status $status', async (one) => {
    const peer = await startPeer();
    const { server, port } = await silentServer();
    const bench = await openBench({
      withoutSshd: true,
      node: { ports: { 22: peer.address }, ...one.node },
    });
    try {
      bench.emulator.faults.set(one.faults ?? {});
      const bridge = bench.bridge(
        ['connect', '--connect-timeout', '2s', ...(one.args?.(port) ?? []), bench.host],
        { stdin: 'pipe', timeoutMs: 15_000 },
      );
      const done = await bridge.finished;
      expect([done.code, done.stdout.toString()], done.stderr).toEqual([one.status, '']);
      expect(done.stderr).toMatch(/^ssm-bridge: [^\n]+\n$/);
      expect(done.stderr).toMatch(one.says);
      bench.emulator.faults.clear();
      await bench.assertClean();
    } finally {
      await bench.close();
      server.close();
      await peer.close();
    }
  });
});

describe.concurrent('a node whose port never speaks', () => {
  it('is reported when the first bytes are late', async () => {
    const bench = await openBench({
      withoutSshd: true,
      // The dial succeeds and nothing ever comes of it.
      node: { dial: () => Promise.resolve(new PassThrough({ read: () => undefined })) },
    });
    try {
      const bridge = bench.bridge(['connect', '--connect-timeout', '2s', bench.host], {
        stdin: 'pipe',
        timeoutMs: 20_000,
      });
      await bridge.waitForStderr(/^ssm-bridge: [^\n]+\n/, 15_000);
      bridge.stdin.end();
      const done = await bridge.finished;
      expect(done.stdout.toString()).toBe('');
      await bench.assertClean();
    } finally {
      await bench.close();
    }
  });

  it('is reported when the agent never gets to dial', async () => {
    const bench = await openBench({
      withoutSshd: true,
      node: { dial: () => new Promise(() => undefined) },
    });
    try {
      const bridge = bench.bridge(['connect', '--connect-timeout', '2s', bench.host], {
        stdin: 'pipe',
        timeoutMs: 20_000,
      });
      await bridge.waitForStderr(/^ssm-bridge: [^\n]+\n/, 15_000);
      bridge.stdin.end();
      await bridge.finished;
      await bench.assertClean();
    } finally {
      await bench.close();
    }
  });
});

it('a session that StartSession starts after all, seconds after it was given up, is ended', async () => {
  const bench = await openBench({ withoutSshd: true });
  try {
    bench.emulator.faults.set({ api: [{ operation: 'StartSession', delayMs: 4500 }] });
    const bridge = bench.bridge(['connect', '--connect-timeout', '1s', bench.host], {
      stdin: 'pipe',
      timeoutMs: 20_000,
    });
    expect((await bridge.finished).code).toBe(6);
    expect(bench.emulator.sessions).toHaveLength(1);
    expect(bench.emulator.openSessionCount()).toBe(0);
  } finally {
    await bench.close();
  }
});

describe.concurrent('ended before StartSession has been sent, nothing is waited for', () => {
  it.each([
    ['connect', 'http'],
    ['connect', 'socks5'],
    ['connect', 'endpoint'],
    ['forward', 'http'],
    ['forward', 'endpoint'],
  ])('%s with a silent %s', async (command, kind) => {
    const { server, port } = await silentServer();
    const asked = new Promise((resolve) => server.once('connection', resolve));
    const bench = await openBench({ withoutSshd: true });
    try {
      if (kind === 'endpoint') {
        bench.emulator.faults.set({ connect: [{ how: 'silent', times: 100 }] });
      }
      const proxy = kind === 'endpoint' ? [] : ['--proxy', `${kind}://127.0.0.1:${port}`];
      const forwards = command === 'forward' ? ['0:80'] : [];
      const bridge = bench.bridge([command, ...proxy, bench.host, ...forwards], { stdin: 'pipe' });
      if (kind === 'endpoint') await new Promise((resolve) => setTimeout(resolve, 700));
      else await asked;
      const from = performance.now();
      bridge.signal('SIGTERM');
      expect(await bridge.exited).toEqual({ code: 143, signal: null });
      expect(performance.now() - from).toBeLessThan(2000);
      expect(bench.emulator.sessions).toEqual([]);
    } finally {
      await bench.close();
      server.close();
    }
  });
});

describe.concurrent('ended while StartSession is on its way, its session is ended', () => {
  it.each(['connect', 'forward'])('by %s', async (command) => {
    const bench = await openBench({ withoutSshd: true });
    try {
      bench.emulator.faults.set({ api: [{ operation: 'StartSession', delayMs: 4000 }] });
      const forwards = command === 'forward' ? ['0:80'] : [];
      const bridge = bench.bridge([command, bench.host, ...forwards], { stdin: 'pipe' });
      // Nothing tells from outside that the request is there: the emulator records a call with its answer.
      await new Promise((resolve) => setTimeout(resolve, 1500));
      expect(bench.emulator.sessions).toEqual([]);
      bridge.signal('SIGTERM');
      expect((await bridge.exited).code).toBe(143);
      expect(bench.emulator.sessions).toHaveLength(1);
      await bench.assertClean();
    } finally {
      await bench.close();
    }
  });
});

describe.concurrent('ended while the data channel is being opened, its session is ended', () => {
  it.each(['connect', 'forward'])('by %s', async (command) => {
    const bench = await openBench({
      withoutSshd: true,
      node: { agent: { handshakeCompleteDelayMs: 1000 } },
    });
    try {
      const forwards = command === 'forward' ? ['0:80'] : [];
      const bridge = bench.bridge([command, bench.host, ...forwards], { stdin: 'pipe' });
      await bench.emulator.waitFor(() => bench.emulator.openSessionCount() === 1, 'a session');
      const from = performance.now();
      bridge.signal('SIGTERM');
      expect((await bridge.exited).code).toBe(143);
      expect(performance.now() - from).toBeLessThan(3000);
      await bench.assertClean();
    } finally {
      await bench.close();
    }
  });
});
