/**
 * The conformance checklist for a Session Manager data channel client: a stimulus from the peer, and
 * what the bridge, as a process, has to make of it. One test a line.
 */
import { randomBytes } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import type { EmulatorOptions, NodeOptions } from '../emulator/types.ts';
import { openBench, type Bench } from '../support/bench.ts';
import { banner, startPeer, type Peer, type PeerConnection } from '../support/peer.ts';
import { eventually, residentBytes, type Finished, type Running } from '../support/process.ts';

interface Stage {
  readonly bench: Bench;
  readonly peer: Peer;
  readonly bridge: Running;
  readonly connection: PeerConnection;
  readonly session: Bench['emulator']['sessions'][number];
}

interface Setup {
  readonly node?: Partial<NodeOptions>;
  readonly emulator?: Omit<EmulatorOptions, 'nodes'>;
  readonly args?: readonly string[];
  /** Before the bridge starts. */
  readonly prepare?: (bench: Bench) => void;
}

/** Runs the bridge against a peer until its banner has arrived, then the test, then checks that nothing is left. */
async function withStage(setup: Setup, test: (stage: Stage) => Promise<void>): Promise<void> {
  const peer = await startPeer();
  const bench = await openBench({
    withoutSshd: true,
    node: { ports: { 22: peer.address }, ...setup.node },
    ...(setup.emulator === undefined ? {} : { emulator: setup.emulator }),
  });
  try {
    setup.prepare?.(bench);
    const bridge = bench.bridge(['connect', ...(setup.args ?? []), bench.host], {
      stdin: 'pipe',
      timeoutMs: 60_000,
    });
    await bridge.waitForBytes(banner.length, 30_000);
    const connection = await peer.first();
    await test({ bench, peer, bridge, connection, session: bench.emulator.sessions[0]! });
    await bench.assertClean();
  } finally {
    await bench.close();
    await peer.close();
  }
}

async function finish({ bridge }: Stage): Promise<Finished> {
  bridge.stdin.end();
  return bridge.finished;
}

/** Bytes both ways, compared; the session is then known to be in order. */
async function exchange(stage: Stage, size = 20_000): Promise<void> {
  const { bridge, connection } = stage;
  const [up, down] = [randomBytes(size), randomBytes(size)];
  const before = { up: connection.receivedBytes(), down: bridge.stdoutBytesSoFar() };
  bridge.stdin.write(up);
  connection.socket.write(down);
  await Promise.all([
    connection.hasReceived(before.up + size),
    bridge.waitForBytes(before.down + size, 30_000),
  ]);
  expect(connection.received().subarray(before.up).equals(up)).toBe(true);
}

/** True for one frame only: faults by chance 1 would otherwise hit its resends as well. */
function once(matches: (seq: number) => boolean) {
  let isUsed = false;
  return (frame: { type: string; seq: number }): boolean => {
    if (isUsed || frame.type !== 'output_stream_data' || !matches(frame.seq)) return false;
    isUsed = true;
    return true;
  };
}

const allAcknowledged = async ({ bench, session }: Stage): Promise<void> => {
  await bench.emulator.waitFor(() => session.unacked === 0, 'everything is acknowledged', 5000);
};

describe.concurrent('conformance', () => {
  it('1: start_publication with empty payload and zero digest, first: ignored, not acknowledged', () =>
    withStage({ emulator: { startPublication: true } }, async (stage) => {
      await exchange(stage);
      expect((await finish(stage)).stderr).toBe('');
      // An acknowledgement of it would be a violation, which assertClean reports.
      expect(stage.bench.emulator.violations()).toEqual([]);
    }));

  it('2: HandshakeRequest delayed 10 s, then Complete: works', () =>
    withStage({ node: { agent: { handshakeRequestDelayMs: 10_000 } } }, async (stage) => {
      await exchange(stage);
      expect((await finish(stage)).code).toBe(0);
    }));

  it('3: HandshakeRequest twice: both acknowledged, one response', () =>
    withStage({ node: { agent: { handshakeRequestCopies: 2 } } }, async (stage) => {
      await allAcknowledged(stage);
      const { counters } = stage.session;
      // Request twice, HandshakeComplete, banner; and nothing sent but one HandshakeResponse.
      expect(counters.acks).toBeGreaterThanOrEqual(4);
      expect(counters.messages).toBe(1);
      await exchange(stage);
      expect((await finish(stage)).code).toBe(0);
    }));

  it('4: data with sequence number 3 before 2: both acknowledged, delivered in order', () =>
    withStage({}, async (stage) => {
      const { bench, bridge, connection } = stage;
      bench.emulator.faults.set({
        toClient: { reorder: 1, reorderMs: 60, only: once(() => true) },
      });
      const down = randomBytes(8192);
      connection.socket.write(down);
      await bridge.waitForBytes(banner.length + down.length);
      await allAcknowledged(stage);
      expect(bench.emulator.faults.hits['toClient.reorder']).toBe(1);
      const done = await finish(stage);
      expect(done.stdout.subarray(banner.length).equals(down)).toBe(true);
    }));

  it('5: a message again: acknowledged again, not delivered again', () =>
    withStage({}, async (stage) => {
      const { bench, bridge, connection, session } = stage;
      await allAcknowledged(stage);
      const before = { acks: session.counters.acks, sent: session.counters.sentMessages };
      bench.emulator.faults.set({ toClient: { duplicate: 1 } });
      const down = randomBytes(2000);
      connection.socket.write(down);
      await bridge.waitForBytes(banner.length + down.length);
      bench.emulator.faults.clear();
      await bench.emulator.waitFor(
        () =>
          session.counters.acks - before.acks >= 2 * (session.counters.sentMessages - before.sent),
        'two acknowledgements for each message',
      );
      const done = await finish(stage);
      expect(done.stdout.subarray(banner.length).equals(down)).toBe(true);
    }));

  it('6: a Flag between data: acknowledged, the sequence goes on, nothing on stdout', () =>
    withStage({}, async (stage) => {
      const { bridge, connection, session } = stage;
      connection.socket.write('before');
      await bridge.waitForStdout(/before/);
      session.sendFlag(3);
      await allAcknowledged(stage);
      connection.socket.write('after');
      await bridge.waitForStdout(/after/);
      expect((await finish(stage)).stdout.toString()).toBe(`${banner}beforeafter`);
    }));

  it('7: a bad digest: not delivered', () =>
    withStage({}, async (stage) => {
      const { bench, bridge, connection } = stage;
      bench.emulator.faults.set({ toClient: { corruptPayload: 1, only: once(() => true) } });
      const down = randomBytes(4000);
      connection.socket.write(down);
      await bridge.waitForBytes(banner.length + down.length);
      expect(bench.emulator.faults.hits['toClient.corruptPayload']).toBe(1);
      const done = await finish(stage);
      expect(done.stdout.subarray(banner.length).equals(down)).toBe(true);
    }));

  it('8: channel_closed with Output: stdout flushed, the reason on stderr, failure', () =>
    withStage({}, async (stage) => {
      const { bridge, connection, session } = stage;
      const down = randomBytes(200_000);
      connection.socket.write(down);
      await stage.bench.emulator.waitFor(
        () => session.counters.sentBytes >= down.length,
        'all of it was sent',
      );
      session.end('remote-failed', 'the disk is full');
      const done = await bridge.finished;
      expect(done.code).toBe(9);
      expect(done.stderr).toMatch(/^ssm-bridge: i-\w+: [^\n]*the disk is full[^\n]*\n$/);
      expect(done.stdout.subarray(banner.length).equals(down)).toBe(true);
    }));

  it('9: the socket killed while sending continuously: ResumeSession, no byte lost or doubled', () =>
    withStage({}, async (stage) => {
      const { bench, bridge, connection, session } = stage;
      bench.emulator.faults.set({
        socket: [{ how: 'reset', after: { bytes: 300_000, direction: 'toAgent' }, times: 5 }],
      });
      const up = randomBytes(2_000_000);
      bridge.stdin.write(up);
      await connection.hasReceived(up.length);
      expect(connection.received().equals(up)).toBe(true);
      expect(session.counters.resumes).toBe(5);
      const done = await finish(stage);
      expect([done.code, done.stderr]).toEqual([0, '']);
    }));

  it('10: close 1000: resume', () =>
    withStage({}, async (stage) => {
      stage.session.closeSocket(1000, 'Bye');
      await exchange(stage);
      expect(stage.session.counters.resumes).toBe(1);
      const done = await finish(stage);
      expect([done.code, done.stderr]).toEqual([0, '']);
    }));

  it('11: acknowledgements withheld: the session stays, memory bounded, stdin paused', () =>
    withStage({}, async (stage) => {
      const { bench, bridge, connection } = stage;
      bench.emulator.faults.set({ toClient: { withholdAcks: true } });
      const up = randomBytes(40_000_000);
      bridge.stdin.write(up);
      let last = -1;
      let quietSince = performance.now();
      await eventually(
        'the bridge takes no more',
        () => {
          const count = connection.receivedBytes();
          if (count !== last) quietSince = performance.now();
          last = count;
          return performance.now() - quietSince > 1500;
        },
        30_000,
      );
      expect(last).toBeLessThan(8_000_000);
      expect(residentBytes(bridge.pid)).toBeLessThan(200 * 1024 * 1024);
      expect(bench.emulator.openSessionCount()).toBe(1);
      bench.emulator.faults.clear();
      await connection.hasReceived(up.length);
      expect(connection.received().equals(up)).toBe(true);
      expect((await finish(stage)).code).toBe(0);
    }));

  it('12: stdin of one byte 0x0A: 0x0A arrives', () =>
    withStage({}, async (stage) => {
      stage.bridge.stdin.write('\n');
      await stage.connection.hasReceived(1);
      expect([...stage.connection.received()]).toEqual([0x0a]);
      expect((await finish(stage)).code).toBe(0);
    }));

  it('13: end of input with 100 KiB queued: all delivered before exit', () =>
    withStage({}, async (stage) => {
      const up = randomBytes(100 * 1024);
      stage.bridge.stdin.end(up);
      const done = await stage.bridge.finished;
      expect([done.code, stage.connection.received().equals(up)]).toEqual([0, true]);
    }));

  it('14: SIGHUP and the end of input: TerminateSession flag seen, exit', () =>
    withStage({}, async (stage) => {
      stage.bridge.signal('SIGHUP');
      stage.bridge.stdin.end();
      await stage.bridge.finished;
      await stage.bench.emulator.waitFor(() => stage.session.state === 'ended', 'the end');
      expect([stage.session.endedBy, stage.session.flags]).toEqual(['terminate-flag', [2]]);
    }));

  it('15: header length 5000: the message is dropped, the session goes on', () =>
    withStage({}, async (stage) => {
      const frame = Buffer.alloc(400);
      frame.writeUInt32BE(5000, 0);
      frame.write('output_stream_data'.padEnd(32), 4, 'latin1');
      stage.session.inject(frame);
      await exchange(stage);
      const done = await finish(stage);
      expect([done.code, done.stderr]).toEqual([0, '']);
    }));

  it('16: ResumeSession denied: failure with a reason', () =>
    withStage({}, async (stage) => {
      stage.bench.emulator.faults.set({
        api: [{ operation: 'ResumeSession', error: { name: 'AccessDeniedException' } }],
      });
      stage.session.closeSocket(1000, 'Bye');
      const done = await stage.bridge.finished;
      expect(done.code).toBe(4);
      expect(done.stderr).toMatch(/^ssm-bridge: i-\w+: [^\n]*ResumeSession[^\n]*\n$/);
    }));
});
