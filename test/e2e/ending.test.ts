/**
 * How a session ends, and what must not end it: end of input, signals, terminals, readers that stop or
 * go away, with real ssh in the roles that OpenSSH gives it. After each case nothing is left: no process,
 * no open session.
 */
import { randomBytes } from 'node:crypto';
import { closeSync, existsSync, openSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { openBench, type Bench } from '../support/bench.ts';
import { freePort, startSshd, type Sshd } from '../support/openssh.ts';
import { banner, startPeer } from '../support/peer.ts';
import {
  eventually,
  processesWith,
  residentBytes,
  sha256,
  start,
  type Running,
} from '../support/process.ts';

let sshd: Sshd;
let bench: Bench;
beforeAll(async () => {
  sshd = await startSshd();
});
afterAll(() => sshd.stop());

/** The cases with ssh share a bench; each must leave it clean for the next. */
beforeAll(async () => {
  bench = await openBench({ sshd });
});
afterEach(() => bench.assertClean());
afterAll(() => bench.close());

/** ssh with a remote `cat`: alive as long as what is written comes back. */
async function conversation(args: readonly string[] = []): Promise<Running> {
  const running = bench.startSsh([...args, bench.host, 'echo up; cat'], { stdin: 'pipe' });
  await running.waitForStdout(/up\n/);
  return running;
}

let serial = 0;
async function answers(running: Running): Promise<void> {
  const word = `word-${++serial}`;
  running.stdin.write(`${word}\n`);
  await running.waitForStdout(new RegExp(word));
}

async function onlyBridge(): Promise<number> {
  await eventually('one bridge runs', () => bench.bridgePids().length === 1);
  return bench.bridgePids()[0]!;
}

/** A count that has not changed for a while: whatever moves it has come to a stop. */
async function settled(count: () => number): Promise<void> {
  let last = -1;
  let quietSince = performance.now();
  await eventually(
    'nothing moves any more',
    () => {
      if (count() !== last) quietSince = performance.now();
      last = count();
      return performance.now() - quietSince > 700;
    },
    30_000,
  );
}

const lastSession = (): Bench['emulator']['sessions'][number] => bench.emulator.sessions.at(-1)!;
const sessionIsOver = (): Promise<void> =>
  bench.emulator.waitFor(() => bench.emulator.openSessionCount() === 0, 'no open session', 5000);

describe('the session ends by the TerminateSession flag', () => {
  it('when ssh ends normally', async () => {
    const running = await conversation();
    running.stdin.end();
    const done = await running.finished;
    await sessionIsOver();
    expect([done.code, done.stderr]).toEqual([0, '']);
    // sshd closes first when the remote command ends, so either side may have been the first.
    expect(['terminate-flag', 'remote-closed']).toContain(lastSession().endedBy);
  });

  it.each(['SIGKILL', 'SIGTERM', 'SIGHUP', 'SIGINT'] as const)(
    'when ssh gets %s in mid-session',
    async (signal) => {
      const running = await conversation();
      running.signal(signal);
      await running.exited;
      await sessionIsOver();
      expect(['terminate-flag', 'remote-closed']).toContain(lastSession().endedBy);
    },
  );

  it('when ssh is killed during a download', async () => {
    const running = bench.startSsh([bench.host, 'cat /dev/zero'], { hashOnly: true });
    await running.waitForBytes(1_000_000);
    running.signal('SIGKILL');
    await running.exited;
    await sessionIsOver();
    expect(lastSession().endedBy).toBe('terminate-flag');
  });

  it('when the bridge gets SIGTERM', async () => {
    const running = await conversation();
    process.kill(await onlyBridge(), 'SIGTERM');
    const done = await running.finished;
    await sessionIsOver();
    expect([done.code, lastSession().endedBy]).toEqual([255, 'terminate-flag']);
  });

  it('when ssh is killed before the session is there', async () => {
    bench.emulator.faults.set({ api: [{ operation: 'StartSession', delayMs: 700 }] });
    const calls = bench.emulator.apiCalls.length;
    const running = bench.startSsh([bench.host, 'true']);
    await onlyBridge();
    running.signal('SIGKILL');
    await running.exited;
    await eventually('the bridge has gone', () => bench.bridgePids().length === 0);
    bench.emulator.faults.clear();
    await sessionIsOver();
    expect(bench.emulator.apiCalls.length).toBeGreaterThanOrEqual(calls);
  });

  it('when ssh is killed during the handshake', async () => {
    const slow = await openBench({ sshd, node: { agent: { handshakeCompleteDelayMs: 1000 } } });
    try {
      const running = slow.startSsh([slow.host, 'true']);
      await slow.emulator.waitFor(() => slow.emulator.openSessionCount() === 1, 'a session');
      running.signal('SIGKILL');
      await running.exited;
      await slow.assertClean();
    } finally {
      await slow.close();
    }
  });
});

describe('when the data channel cannot carry the flag', () => {
  it('the API ends the session', async () => {
    const running = await conversation();
    bench.emulator.faults.set({ toAgent: { stall: true } });
    running.signal('SIGKILL');
    await running.exited;
    await sessionIsOver();
    bench.emulator.faults.clear();
    expect(lastSession().endedBy).toBe('terminate-api');
  });

  it('a refusal of the API call is not reported', async () => {
    const running = await conversation();
    bench.emulator.faults.set({
      toAgent: { stall: true },
      api: [{ operation: 'TerminateSession', error: { name: 'AccessDeniedException' } }],
    });
    running.stdin.end();
    running.signal('SIGTERM');
    const done = await running.finished;
    await eventually('the bridge has gone', () => bench.bridgePids().length === 0);
    expect(done.stderr).not.toContain('ssm-bridge');
    bench.emulator.faults.clear();
    await sessionIsOver();
  });
});

describe('the bridge outlives', () => {
  it.each(['SIGINT', 'SIGQUIT', 'SIGTSTP'] as const)('%s from the terminal', async (signal) => {
    const running = await conversation();
    process.kill(await onlyBridge(), signal);
    await answers(running);
    running.stdin.end();
    expect((await running.finished).code).toBe(0);
  });

  it('SIGHUP while ssh goes on, as under nohup', async () => {
    const running = await conversation();
    const pid = await onlyBridge();
    process.kill(pid, 'SIGHUP');
    // The bridge gives ssh a second to end too; only when that has passed has it made up its mind.
    await new Promise((resolve) => setTimeout(resolve, 1500));
    await answers(running);
    running.stdin.end();
    expect((await running.finished).code).toBe(0);
  });

  it('being stopped and continued', async () => {
    const running = await conversation();
    const pid = await onlyBridge();
    process.kill(pid, 'SIGSTOP');
    running.stdin.write('while stopped\n');
    process.kill(pid, 'SIGCONT');
    await running.waitForStdout(/while stopped/);
    running.stdin.end();
    expect((await running.finished).code).toBe(0);
  });
});

/** A command on a terminal of its own; what is written to stdin is typed. */
function onTerminal(command: string): Running {
  return start(['script', '-qfec', command, '/dev/null'], { env: bench.env, stdin: 'pipe' });
}

async function forwardAnswers(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1');
    // The forward leads to the sshd, which introduces itself.
    socket.once('data', (bytes: Buffer) => {
      resolve(bytes.toString('latin1').startsWith('SSH-2.0'));
      socket.destroy();
    });
    socket.once('error', () => {
      resolve(false);
    });
    socket.once('close', () => {
      resolve(false);
    });
  });
}

describe('on a terminal', () => {
  it('Ctrl-C in a script does not end the tunnel that ssh -f left in the background', async () => {
    const port = await freePort();
    const script = join(bench.dir, 'tunnel.sh');
    writeFileSync(
      script,
      `ssh -F '${bench.config}' -f -N -o ExitOnForwardFailure=yes -L 127.0.0.1:${port}:127.0.0.1:${sshd.port} ${bench.host}\n` +
        'echo tunnel-up; sleep 60\n',
    );
    const terminal = onTerminal(`sh ${script}`);
    await terminal.waitForStdout(/tunnel-up/);
    const pid = await onlyBridge();
    terminal.stdin.write('\x03');
    await terminal.exited;
    terminal.stdin.end();
    expect(await forwardAnswers(port)).toBe(true);
    expect(bench.bridgePids()).toEqual([pid]);
    for (const one of processesWith(bench.env)) {
      if (one.command.startsWith('ssh ')) process.kill(one.pid, 'SIGTERM');
    }
    await sessionIsOver();
  });

  it('Ctrl-C does not end a ControlPersist master', async () => {
    const options = `-F '${bench.config}' -o ControlMaster=auto -o ControlPath=${join(bench.dir, 'cmi')} -o ControlPersist=60`;
    const script = join(bench.dir, 'master.sh');
    writeFileSync(script, `ssh ${options} ${bench.host} true && echo master-up; sleep 60\n`);
    const terminal = onTerminal(`sh ${script}`);
    await terminal.waitForStdout(/master-up/);
    const pid = await onlyBridge();
    terminal.stdin.write('\x03');
    await terminal.exited;
    terminal.stdin.end();
    const control = (what: string[]): ReturnType<Bench['ssh']> =>
      bench.ssh([
        ...['-o', `ControlPath=${join(bench.dir, 'cmi')}`, '-o', 'ControlMaster=auto'],
        ...what,
      ]);
    const check = await control(['-O', 'check', bench.host]);
    expect([check.code, check.stderr]).toEqual([0, expect.stringMatching(/^Master running/)]);
    const warm = await control([bench.host, 'echo warm']);
    expect(warm.stdout.toString()).toBe('warm\n');
    expect(bench.bridgePids()).toEqual([pid]);
    await control(['-O', 'exit', bench.host]);
  });

  it('Ctrl-C in sftp aborts the transfer and gives the prompt back', async () => {
    const big = join(bench.dir, 'sftp-big');
    writeFileSync(big, Buffer.alloc(64 * 1024 * 1024));
    bench.emulator.faults.set({ toClient: { delayMs: 20 } });
    const terminal = onTerminal(`exec sftp -F '${bench.config}' ${bench.host}`);
    await terminal.waitForStdout(/sftp> /);
    terminal.stdin.write(`get ${big} ${big}.copy\n`);
    await eventually('the transfer runs', () => existsSync(`${big}.copy`));
    terminal.stdin.write('\x03');
    await terminal.waitForStdout(/Interrupt|sftp> [\s\S]*sftp> /);
    bench.emulator.faults.clear();
    terminal.stdin.write('pwd\n');
    await terminal.waitForStdout(/Remote working directory/);
    terminal.stdin.write('bye\n');
    const { code } = await terminal.exited;
    terminal.stdin.end();
    expect(code).toBe(0);
  });

  it('Ctrl-C in a raw remote terminal reaches the remote program only', async () => {
    const terminal = onTerminal(`ssh -tt -F '${bench.config}' ${bench.host}`);
    terminal.stdin.write('echo ready-$((1+1)); sleep 100\n');
    await terminal.waitForStdout(/ready-2/);
    terminal.stdin.write('\x03');
    terminal.stdin.write('echo still-$((2+2)); exit 0\n');
    await terminal.waitForStdout(/still-4/);
    expect((await terminal.exited).code).toBe(0);
    terminal.stdin.end();
  });

  it('Ctrl-C during a remote command without a terminal ends all of it', async () => {
    const terminal = onTerminal(`ssh -F '${bench.config}' ${bench.host} 'echo up; sleep 100'`);
    await terminal.waitForStdout(/up/);
    terminal.stdin.write('\x03');
    await terminal.exited;
    terminal.stdin.end();
    await sessionIsOver();
  });

  it('a closed window ends a foreground ssh', async () => {
    const terminal = onTerminal(`ssh -tt -F '${bench.config}' ${bench.host} 'echo up; sleep 100'`);
    await terminal.waitForStdout(/up/);
    terminal.signal('SIGKILL');
    await terminal.exited;
    await sessionIsOver();
  });

  it('a closed window does not end ssh under nohup', async () => {
    const out = join(bench.dir, 'nohup-out');
    const script = join(bench.dir, 'nohup.sh');
    const go = join(bench.dir, 'nohup-go');
    writeFileSync(
      script,
      `nohup ssh -n -F '${bench.config}' ${bench.host} 'echo running; while ! test -e ${go}; do sleep 0.05; done; echo later' >${out} 2>&1\n`,
    );
    const terminal = onTerminal(`sh ${script}`);
    // Not what nohup itself says, which comes before ssh has even started.
    const said = (): string => (existsSync(out) ? readFileSync(out, 'utf8') : '');
    await eventually('the command runs', () => said().includes('running'));
    terminal.signal('SIGKILL');
    await terminal.exited;
    // As above: a bridge that means to leave does so after a second.
    await new Promise((resolve) => setTimeout(resolve, 1500));
    writeFileSync(go, '');
    await eventually('the command went on', () => readFileSync(out, 'utf8').includes('later'));
  });
});

describe('around the bridge', () => {
  it('LocalCommand that keeps the pipes open does not keep the session', async () => {
    const done = await bench.ssh([
      ...['-o', 'PermitLocalCommand=yes', '-o', 'LocalCommand=sleep 30 >/dev/null 2>&1 &'],
      ...[bench.host, 'echo ok'],
    ]);
    expect(done.stdout.toString()).toBe('ok\n');
    await sessionIsOver();
    for (const one of processesWith(bench.env)) {
      if (one.command.startsWith('sleep')) process.kill(one.pid, 'SIGKILL');
    }
  });

  it('a captured stderr is closed with ssh, although the bridge still says goodbye', async () => {
    const running = await conversation();
    bench.emulator.faults.set({
      toAgent: { stall: true },
      api: [{ operation: 'TerminateSession', delayMs: 1500 }],
    });
    running.signal('SIGKILL');
    // `finished` needs every holder of stderr to have closed it; the bridge is still there then.
    await running.finished;
    expect(bench.bridgePids()).toHaveLength(1);
    bench.emulator.faults.clear();
    await sessionIsOver();
  });

  it('ssh says the same thing each time the server goes first', async () => {
    for (let round = 0; round < 6; round++) {
      const done = await bench.ssh([bench.host, 'kill -9 $PPID; sleep 100']);
      expect([done.code, done.stderr.trim()]).toEqual([
        255,
        `Connection to ${bench.host} closed by remote host.`,
      ]);
    }
  });

  it('ssh ends at once when the bridge is killed, and masters remove their socket', async () => {
    const path = join(bench.dir, 'cmk');
    const options = ['-o', 'ControlMaster=auto', '-o', `ControlPath=${path}`];
    const running = bench.startSsh(
      [...options, '-o', 'ControlPersist=60', bench.host, 'echo up; sleep 100'],
      { stdout: 'read' },
    );
    await running.waitForStdout(/up/);
    process.kill(await onlyBridge(), 'SIGKILL');
    expect((await running.exited).code).toBe(255);
    await eventually('the control socket is gone', () => !existsSync(path));
    // Nobody is left to end the session: at the service that is for the idle timeout to do.
    lastSession().end('idle-timeout');
  });
});

describe('readers and writers that stop', () => {
  it('a stopped ssh does not make the bridge grow, and loses nothing', async () => {
    const file = join(bench.dir, 'stopped');
    const bytes = randomBytes(48 * 1024 * 1024);
    writeFileSync(file, bytes);
    const running = bench.startSsh([bench.host, `cat ${file}`], { hashOnly: true });
    await running.waitForBytes(1_000_000);
    const pid = await onlyBridge();
    running.signal('SIGSTOP');
    const session = lastSession();
    await settled(() => session.counters.sentBytes);
    const resident = residentBytes(pid);
    expect(session.counters.sentBytes).toBeLessThan(bytes.length);
    expect(resident).toBeLessThan(220 * 1024 * 1024);
    running.signal('SIGCONT');
    const done = await running.finished;
    expect([done.code, done.stdoutSha256, done.stderr]).toEqual([0, sha256(bytes), '']);
  });
});

describe('without ssh', () => {
  it('a reader that stops holds the node back, and memory stays bounded', async () => {
    const bytes = randomBytes(48 * 1024 * 1024);
    const peer = await startPeer();
    const own = await openBench({ withoutSshd: true, node: { ports: { 22: peer.address } } });
    try {
      // No SSH window limits what is under way here.
      const bridge = own.bridge(['connect', own.host], { stdin: 'pipe', stdout: 'paused' });
      (await peer.first()).socket.end(bytes);
      const [session] = own.emulator.sessions;
      await settled(() => session!.counters.sentBytes);
      expect(session!.counters.sentBytes).toBeLessThan(24 * 1024 * 1024);
      expect(residentBytes(bridge.pid)).toBeLessThan(160 * 1024 * 1024);
      bridge.resumeStdout();
      const done = await bridge.finished;
      expect([done.code, done.stdoutBytes]).toEqual([0, banner.length + bytes.length]);
      expect(done.stdoutSha256).toBe(sha256(Buffer.concat([Buffer.from(banner), bytes])));
      await own.assertClean();
    } finally {
      await own.close();
      await peer.close();
    }
  });

  it('a node that stops reading stops stdin, and memory stays bounded', async () => {
    const peer = await startPeer({
      onConnection: ({ socket }) => {
        socket.pause();
      },
    });
    const own = await openBench({ withoutSshd: true, node: { ports: { 22: peer.address } } });
    try {
      const bridge = own.bridge(['connect', own.host], { stdin: 'pipe' });
      await bridge.waitForBytes(banner.length);
      const total = 64 * 1024 * 1024;
      const bytes = randomBytes(total);
      bridge.stdin.write(bytes);
      const [session] = own.emulator.sessions;
      await settled(() => session!.counters.bytes);
      expect(session!.counters.bytes).toBeLessThan(total / 2);
      expect(residentBytes(bridge.pid)).toBeLessThan(220 * 1024 * 1024);
      const connection = await peer.first();
      connection.socket.resume();
      await connection.hasReceived(total);
      expect(sha256(connection.received())).toBe(sha256(bytes));
      bridge.stdin.end();
      expect((await bridge.finished).code).toBe(0);
      await own.assertClean();
    } finally {
      await own.close();
      await peer.close();
    }
  });

  it('a reader that goes away ends the session although stdin stays open', async () => {
    const peer = await startPeer();
    const own = await openBench({ withoutSshd: true, node: { ports: { 22: peer.address } } });
    try {
      const bridge = own.bridge(['connect', own.host], { stdin: 'pipe' });
      await bridge.waitForBytes(banner.length);
      bridge.child.stdout?.destroy();
      const connection = await peer.first();
      connection.socket.write(randomBytes(1_000_000));
      const done = await bridge.finished;
      expect(done.stderr).toBe('');
      await own.assertClean();
      expect(own.emulator.sessions[0]?.endedBy).toBe('terminate-flag');
    } finally {
      await own.close();
      await peer.close();
    }
  });

  it('output to a slow file descriptor is drained before the end', async () => {
    const bytes = randomBytes(6_000_000);
    const peer = await startPeer({
      greeting: Buffer.concat([Buffer.from(banner), bytes]),
      onConnection: ({ socket }) => socket.end(),
    });
    const own = await openBench({ withoutSshd: true, node: { ports: { 22: peer.address } } });
    try {
      const bridge = own.bridge(['connect', own.host], { stdin: 'pipe', stdout: 'paused' });
      // The node has sent all and closed; the reader starts only then.
      await own.emulator.waitFor(() => own.emulator.openSessionCount() === 1, 'a session');
      await peer.first();
      bridge.resumeStdout();
      const done = await bridge.finished;
      expect([done.code, done.stdoutBytes]).toEqual([0, banner.length + bytes.length]);
      expect(sha256(done.stdout.subarray(banner.length))).toBe(sha256(bytes));
      await own.assertClean();
    } finally {
      await own.close();
      await peer.close();
    }
  });

  it('output to a file is complete', async () => {
    const bytes = randomBytes(3_000_000);
    const peer = await startPeer({
      greeting: bytes,
      onConnection: ({ socket }) => socket.end(),
    });
    const own = await openBench({ withoutSshd: true, node: { ports: { 22: peer.address } } });
    const path = join(own.dir, 'out');
    const descriptor = openSync(path, 'w');
    try {
      const bridge = own.bridge(['connect', own.host], { stdin: 'pipe', stdout: descriptor });
      await bridge.finished;
      expect(statSync(path).size).toBe(bytes.length);
      expect(sha256(readFileSync(path))).toBe(sha256(bytes));
      await own.assertClean();
    } finally {
      closeSync(descriptor);
      await own.close();
      await peer.close();
    }
  });

  it('end of input in a pipeline still gets the answer', async () => {
    const peer = await startPeer({
      onConnection: (connection) => {
        void connection.hasReceived(5).then(() => {
          connection.socket.end('the answer');
        });
      },
    });
    const own = await openBench({ withoutSshd: true, node: { ports: { 22: peer.address } } });
    try {
      const done = await own.bridge(['connect', own.host], { input: 'query' }).finished;
      expect([done.code, done.stdout.toString(), done.stderr]).toEqual([
        0,
        `${banner}the answer`,
        '',
      ]);
      await own.assertClean();
    } finally {
      await own.close();
      await peer.close();
    }
  });
});
