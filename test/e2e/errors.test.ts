/** Each failure: its exit status, and one line on stderr that says what, why and what to do. */
import { chmodSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Credentials, EmulatorOptions, Faults, NodeOptions } from '../emulator/types.ts';
import { bridgeProgram, nodeId, openBench, type Bench } from '../support/bench.ts';
import { freePort, startSshd, type Sshd } from '../support/openssh.ts';
import { banner, startPeer } from '../support/peer.ts';
import { eventually, start, type Env } from '../support/process.ts';

const good: Credentials = {
  accessKeyId: 'AKIAIOSFODNN7EXAMPLE',
  secretAccessKey: 'wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY',
};

interface Failure {
  readonly name: string;
  readonly status: number;
  /** What the line must contain, in any order. */
  readonly says: readonly RegExp[];
  readonly args?: readonly string[];
  readonly node?: Partial<NodeOptions>;
  readonly emulator?: Omit<EmulatorOptions, 'nodes'>;
  readonly faults?: Faults;
  /** Changes to the environment; undefined removes a variable. */
  readonly env?: Readonly<Record<string, string | undefined>>;
  /** Before the line, warnings may come. */
  readonly warns?: RegExp;
}

const connect = ['connect', nodeId];

const failures: readonly Failure[] = [
  // The four that people meet first.
  {
    name: 'a target that is not connected',
    status: 5,
    node: { online: false },
    says: [/not connected to Session Manager/, /region|SSM Agent|agent/i],
  },
  {
    name: 'StartSession denied',
    status: 4,
    emulator: { credentials: [{ ...good, denied: ['ssm:StartSession'] }] },
    says: [/ssm:StartSession/, /denied/],
  },
  {
    name: 'no credentials',
    status: 3,
    env: {
      AWS_ACCESS_KEY_ID: undefined,
      AWS_SECRET_ACCESS_KEY: undefined,
      AWS_SESSION_TOKEN: undefined,
      AWS_EC2_METADATA_DISABLED: 'true',
      HOME: '/nonexistent',
    },
    says: [/credentials/],
  },
  {
    name: 'expired credentials',
    status: 3,
    emulator: { credentials: [{ ...good, state: 'expired' }] },
    says: [/expired/],
  },
  {
    name: 'the WebSocket answered by a proxy page',
    status: 6,
    faults: { upgrade: [{ status: 403, html: '<html>Access blocked by policy</html>' }] },
    says: [/proxy|firewall/, /WebSocket/i],
  },
  // The rest.
  { name: 'no target', status: 2, args: ['connect'], says: [/target/] },
  { name: 'a target that is no node id', status: 2, args: ['connect', 'web 1'], says: [/web 1/] },
  { name: 'a port that is no port', status: 2, args: [...connect, '70000'], says: [/70000/] },
  { name: 'an unknown option', status: 2, args: [...connect, '--nope'], says: [/--nope/] },
  {
    name: 'an unknown profile',
    status: 2,
    args: [...connect, '--profile', 'nope'],
    env: { AWS_ACCESS_KEY_ID: undefined, AWS_SECRET_ACCESS_KEY: undefined, HOME: '/nonexistent' },
    says: [/nope/],
  },
  {
    name: 'no region',
    status: 2,
    env: { AWS_REGION: undefined, AWS_DEFAULT_REGION: undefined, HOME: '/nonexistent' },
    says: [/region/],
  },
  {
    name: 'a wrong secret key',
    status: 3,
    env: { AWS_SECRET_ACCESS_KEY: 'wrong', AWS_SESSION_TOKEN: undefined },
    emulator: { credentials: [good] },
    says: [/signature|SignatureDoesNotMatch/],
  },
  {
    name: 'opening the data channel denied',
    status: 4,
    emulator: { credentials: [{ ...good, denied: ['ssmmessages:OpenDataChannel'] }] },
    says: [/ssmmessages:OpenDataChannel/],
  },
  {
    name: 'a certificate that is not trusted',
    status: 6,
    env: { AWS_CA_BUNDLE: undefined },
    says: [/TLS|certificate/, /AWS_CA_BUNDLE/],
  },
  {
    name: 'StartSession throttled for good',
    status: 12,
    faults: {
      api: [{ operation: 'StartSession', error: { name: 'ThrottlingException', status: 400 } }],
    },
    says: [/throttled/],
  },
  {
    name: 'the API failing for good',
    status: 12,
    faults: {
      api: [{ operation: 'StartSession', error: { name: 'InternalServerError', status: 500 } }],
    },
    says: [/StartSession/],
  },
  {
    name: 'the API answered by a captive portal',
    status: 6,
    faults: { api: [{ operation: 'StartSession', html: '<html>Please log in</html>' }] },
    says: [/not from AWS/],
  },
  {
    name: 'an agent that hands out a shell after the handshake',
    status: 7,
    node: { behaviour: 'shell-handshake' },
    says: [/session/i],
  },
  { name: 'an agent that asks for KMS', status: 7, node: { kms: true }, says: [/KMS|encrypt/] },
  {
    name: 'an agent without the port plugin',
    status: 9,
    node: { behaviour: 'no-port-plugin' },
    says: [/Port/],
  },
  {
    name: 'an agent from before the handshake',
    status: 7,
    node: { behaviour: 'shell' },
    args: [...connect, '--connect-timeout', '4s'],
    says: [/agent/i],
  },
];

describe.concurrent('each failure has its exit status and one line', () => {
  it.each(failures)('$name: $status', async (failure) => {
    const bench = await openBench({
      withoutSshd: true,
      node: { ports: { 22: { host: '127.0.0.1', port: 1 } }, ...failure.node },
      ...(failure.emulator === undefined ? {} : { emulator: failure.emulator }),
    });
    try {
      bench.emulator.faults.set(failure.faults ?? {});
      const env: Env = Object.fromEntries(
        Object.entries({ ...bench.env, ...failure.env }).filter(
          (entry): entry is [string, string] => entry[1] !== undefined,
        ),
      );
      const bridge = bench.bridge(failure.args ?? connect, { env, stdin: 'pipe' });
      const done = await bridge.finished;
      expect([done.code, done.stdout.toString()], done.stderr).toEqual([failure.status, '']);
      expect(done.stderr).toMatch(/^ssm-bridge: [^\n]+\n$/);
      for (const part of failure.says) expect(done.stderr).toMatch(part);
      expect(done.stderr).not.toMatch(/undefined|\[object|Error:|node:|token|X-Amz-Signature/);
      expect(done.stderr).not.toContain(good.secretAccessKey);
      await bench.assertClean();
    } finally {
      await bench.close();
    }
  });
});

describe('what the node says goes to the one who waits', () => {
  async function connectTo(greeting: string): Promise<{ code: number | null; stderr: string }> {
    const peer = await startPeer({
      greeting,
      onConnection: ({ socket }) => socket.end(),
    });
    const bench = await openBench({ withoutSshd: true, node: { ports: { 22: peer.address } } });
    try {
      const bridge = bench.bridge(connect, { stdin: 'pipe' });
      const done = await bridge.finished;
      expect(done.stdout.toString()).toBe(greeting);
      return done;
    } finally {
      await bench.close();
      await peer.close();
    }
  }

  it('repeats a line that sshd sends instead of its banner', async () => {
    const { stderr } = await connectTo('Exceeded MaxStartups\r\n');
    expect(stderr).toMatch(/^ssm-bridge: i-\w+: .*Exceeded MaxStartups/);
  });

  it('names a web server', async () => {
    const { stderr } = await connectTo('HTTP/1.1 400 Bad Request\r\n\r\n');
    expect(stderr).toMatch(/^ssm-bridge: i-\w+: .*web server/);
  });

  it('is silent about an sshd', async () => {
    const { stderr } = await connectTo(banner);
    expect(stderr).toBe('');
  });

  it('says that nothing listens on the port', async () => {
    const port = await freePort();
    const bench = await openBench({
      withoutSshd: true,
      node: { ports: { 22: { host: '127.0.0.1', port } } },
    });
    try {
      const done = await bench.bridge(connect, { stdin: 'pipe' }).finished;
      expect([done.code, done.stderr]).toEqual([
        9,
        expect.stringMatching(/^ssm-bridge: [^\n]*port[^\n]*\n$/),
      ]);
      await bench.assertClean();
    } finally {
      await bench.close();
    }
  });
});

describe('through ssh', () => {
  let sshd: Sshd;
  let bench: Bench;
  beforeAll(async () => {
    sshd = await startSshd();
    bench = await openBench({ sshd, node: { online: false } });
  });
  afterAll(async () => {
    await bench.close();
    await sshd.stop();
  });

  const ours = /^ssm-bridge: i-0123456789abcdef0: [^\n]*not connected[^\n]*\n/;

  it("our line comes first, ssh's after it, and ssh exits 255", async () => {
    const done = await bench.ssh([bench.host, 'true']);
    expect(done.code).toBe(255);
    expect(done.stderr).toMatch(ours);
    expect(done.stderr.replace(ours, '')).toMatch(/Connection closed/);
    expect(done.stderr.match(/ssm-bridge:/g)).toHaveLength(1);
  });

  it('with -q only our line is left', async () => {
    const done = await bench.ssh(['-q', bench.host, 'true']);
    expect([done.code, done.stderr.replace(ours, '')]).toEqual([255, '']);
    expect(done.stderr).toMatch(ours);
  });

  it("with -E ssh's lines go to the file and ours stays on stderr", async () => {
    const log = join(bench.dir, 'ssh.log');
    const done = await bench.ssh(['-E', log, bench.host, 'true']);
    expect(done.stderr.replace(ours, '')).toBe('');
    expect(readFileSync(log, 'utf8')).not.toContain('ssm-bridge');
  });

  it('under ControlPersist, where stderr is the null device, the failure is kept in a file', async () => {
    const state = join(bench.dir, 'state');
    mkdirSync(state);
    const done = await bench.ssh(
      [
        ...['-o', `ControlPath=${join(bench.dir, 'cm')}`, '-o', 'ControlMaster=auto'],
        ...['-o', 'ControlPersist=30', bench.host, 'true'],
      ],
      { env: { ...bench.env, XDG_STATE_HOME: state } },
    );
    expect([done.code, done.stderr.includes('ssm-bridge')]).toEqual([255, false]);
    const kept = join(state, 'ssm-bridge/last-error');
    await eventually('the failure is written', () => existsSync(kept));
    expect(readFileSync(kept, 'utf8')).toMatch(/ssm-bridge: i-\w+: .*not connected/);
  });

  it('survives a stderr whose reader is gone', async () => {
    const script = '"$@" 2>&1 >/dev/null | true';
    const running = start(['sh', '-c', script, 'sh', 'ssh', '-F', bench.config, bench.host], {
      env: bench.env,
    });
    await running.finished;
    await bench.assertClean();
  });
});

describe('run by hand on a terminal', () => {
  it('explains itself, and Ctrl-C ends it and the session', async () => {
    const peer = await startPeer();
    const bench = await openBench({ withoutSshd: true, node: { ports: { 22: peer.address } } });
    try {
      const shim = join(bench.dir, 'by-hand');
      writeFileSync(shim, `#!/bin/sh\nexec "$BRIDGE_NODE" "$BRIDGE_BIN" connect ${bench.host}\n`);
      chmodSync(shim, 0o755);
      const env = { ...bench.env, BRIDGE_NODE: process.execPath, BRIDGE_BIN: bridgeProgram() };
      const terminal = start(['script', '-qfec', shim, '/dev/null'], { env, stdin: 'pipe' });
      await terminal.waitForStdout(/meant to be started by ssh[\s\S]*config[\s\S]*SSH-2\.0-peer/);
      terminal.stdin.write('\x03');
      await terminal.exited;
      terminal.stdin.end();
      await bench.assertClean();
    } finally {
      await bench.close();
      await peer.close();
    }
  });
});
