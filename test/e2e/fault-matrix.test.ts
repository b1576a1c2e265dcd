/**
 * Every fault of the emulator in every phase of a session. Whatever happens, what comes out of either
 * end is a prefix of what went in at the other, and exit status 0 means all of it: never a short
 * success. Beyond that each fault says whether the session must survive it or how it must fail.
 */
import { randomBytes } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import type { EmulatorOptions, Faults, SessionRecord } from '../emulator/types.ts';
import { openBench, type Bench } from '../support/bench.ts';
import { banner, startPeer, type Peer } from '../support/peer.ts';
import { eventually, type Finished, type Running } from '../support/process.ts';

const phases = ['upload', 'download', 'both', 'idle', 'handshake', 'closing'] as const;
type Phase = (typeof phases)[number];

const size = 256 * 1024;

type Outcome =
  /** All bytes, exit status 0. */
  | 'delivered'
  /** Exit status of the failure's class; what arrived is a prefix. */
  | { readonly status: number; readonly says: RegExp };

interface Row {
  readonly fault: string;
  readonly faults?: Faults;
  /** Done to the session when the phase begins; for what is not a standing fault. */
  readonly strike?: (session: SessionRecord) => void;
  /** Taken back after this long: for faults that stop everything. */
  readonly healAfterMs?: number;
  readonly heal?: (session: SessionRecord) => void;
  readonly outcome?: Outcome;
  readonly except?: Partial<Record<Phase, Outcome | 'either' | 'skip'>>;
  readonly args?: readonly string[];
  /** The fault is met when a lost connection is resumed: a case without a resume has tested nothing. */
  readonly needsResume?: boolean;
  /** The service claims that the session is gone while it is not: nobody can end it then. */
  readonly isDisowned?: boolean;
  readonly emulator?: Omit<EmulatorOptions, 'nodes'>;
}

/** Reset in mid-transfer, so that what the resume meets can be tested. */
const cut: NonNullable<Faults['socket']> = [{ how: 'reset', after: { bytes: 20_000 } }];

/** The same in the middle of the handshake: its request has arrived, its completion has not. */
const cutHandshake: NonNullable<Faults['socket']> = [{ how: 'reset', after: { messages: 1 } }];

/** A fault that only a lost connection can meet; while idle the connection is cut by hand. */
const onResume = (row: Row): Row => ({
  ...row,
  faults: { socket: cut, ...row.faults },
  needsResume: true,
  strike: (session) => {
    session.resetSocket();
  },
});

const both = (faults: NonNullable<Faults['toAgent']>): Faults => ({
  toAgent: faults,
  toClient: faults,
});

/** The node's end may win against a damaged tail: then the loss must be reported, not hidden. */
const tailAtRisk = { closing: 'either' } as const;

const rows: readonly Row[] = [
  { fault: 'delay', faults: both({ delayMs: 40, jitterMs: 40 }) },
  { fault: 'loss', faults: both({ loss: 0.03 }), except: tailAtRisk },
  { fault: 'duplication', faults: both({ duplicate: 0.3 }) },
  { fault: 'reordering', faults: both({ reorder: 0.2, reorderMs: 25 }), except: tailAtRisk },
  { fault: 'corrupt digests', faults: both({ corruptDigest: 0.01 }), except: tailAtRisk },
  { fault: 'corrupt payloads', faults: both({ corruptPayload: 0.01 }), except: tailAtRisk },
  { fault: 'truncated frames', faults: both({ truncate: 0.02 }), except: tailAtRisk },
  { fault: 'oversize headers', faults: both({ oversizeHeader: 0.02 }), except: tailAtRisk },
  { fault: 'unknown message types', faults: both({ unknownType: 0.1 }) },
  {
    fault: 'everything at once',
    faults: both({
      delayMs: 5,
      jitterMs: 10,
      loss: 0.01,
      duplicate: 0.05,
      reorder: 0.05,
      truncate: 0.005,
      corruptDigest: 0.002,
    }),
    except: tailAtRisk,
  },
  {
    fault: 'acknowledgements withheld for a while',
    faults: both({ withholdAcks: true }),
    healAfterMs: 1200,
    except: tailAtRisk,
  },
  {
    fault: 'a stall of both directions',
    faults: both({ stall: true }),
    healAfterMs: 1200,
    except: tailAtRisk,
  },
  {
    fault: 'the service not reading for a while',
    faults: { toAgent: { stall: true } },
    healAfterMs: 1200,
    except: tailAtRisk,
  },
  ...(
    [
      ['close 1000', { how: 'close', code: 1000, reason: 'Bye' }],
      ['close 1001', { how: 'close', code: 1001 }],
      ['close 1011', { how: 'close', code: 1011 }],
      ['close without a code', { how: 'close' }],
      ['TCP end', { how: 'end' }],
      ['TCP reset', { how: 'reset' }],
    ] as const
  ).map(([fault, socket]): Row => ({
    fault: `${fault}, three times`,
    faults: { socket: [{ ...socket, after: { bytes: 40_000 }, times: 3 }] },
    strike: (session) => {
      if (socket.how === 'close') session.closeSocket('code' in socket ? socket.code : undefined);
      else session.resetSocket();
    },
    except: tailAtRisk,
  })),
  {
    // Once: a service that refuses the small messages too is reported, and is no fault to outlive.
    fault: 'close 1009, for a message too big',
    faults: { socket: [{ how: 'close', code: 1009, after: { bytes: 60_000 } }] },
    strike: (session) => {
      session.closeSocket(1009);
    },
    except: tailAtRisk,
  },
  {
    fault: 'a close at every odd byte',
    faults: {
      socket: [1, 119, 120, 121, 4097, 20_011].map((bytes) => ({
        how: 'reset' as const,
        after: { bytes },
      })),
    },
    // Before the handshake is complete the bridge gives up after a few connections.
    except: { ...tailAtRisk, handshake: 'either' },
  },
  {
    fault: 'a black hole',
    faults: { socket: [{ how: 'blackhole', after: { bytes: 50_000 } }] },
    strike: (session) => {
      session.blackholeSocket();
    },
    args: ['--keepalive', '500ms'],
    except: tailAtRisk,
  },
  {
    fault: 'publication paused and started',
    strike: (session) => {
      session.publication('pause');
    },
    healAfterMs: 300,
    heal: (session) => {
      session.publication('start');
    },
    except: { handshake: 'skip' },
  },
  {
    fault: 'the agent losing its own connection for a while',
    strike: (session) => {
      session.setAgentConnected(false);
    },
    healAfterMs: 500,
    heal: (session) => {
      session.setAgentConnected(true);
    },
    except: { handshake: 'skip', ...tailAtRisk },
  },
  {
    fault: 'the service ending the session with a reason',
    strike: (session) => {
      session.end('emulator', 'Session timed out.');
    },
    outcome: { status: 9, says: /Session timed out\./ },
    except: { handshake: 'skip' },
  },
  {
    fault: 'hostile frames',
    strike: (session) => {
      const frames: (Buffer | string)[] = [
        Buffer.alloc(0),
        Buffer.alloc(3),
        Buffer.alloc(200),
        Buffer.alloc(300, 0xff),
        randomBytes(5000),
        'hello',
        '{"MessageType":"output_stream_data"}',
        'x'.repeat(500_000),
      ];
      for (const frame of frames) session.inject(frame);
    },
    except: { handshake: 'skip' },
  },
  onResume({
    fault: 'ResumeSession failing twice',
    faults: {
      api: [
        {
          operation: 'ResumeSession',
          error: { name: 'InternalServerError', status: 500 },
          times: 2,
        },
      ],
    },
    except: tailAtRisk,
  }),
  onResume({
    fault: 'ResumeSession throttled',
    faults: {
      api: [
        {
          operation: 'ResumeSession',
          error: { name: 'ThrottlingException', status: 400 },
          times: 2,
        },
      ],
    },
    except: tailAtRisk,
  }),
  onResume({
    fault: 'ResumeSession slow',
    faults: { api: [{ operation: 'ResumeSession', delayMs: 700 }] },
    except: tailAtRisk,
  }),
  onResume({
    fault: 'ResumeSession reset',
    faults: { api: [{ operation: 'ResumeSession', reset: true, times: 2 }] },
    except: tailAtRisk,
  }),
  onResume({
    fault: 'ResumeSession answered by a captive portal',
    faults: { api: [{ operation: 'ResumeSession', html: '<html>Log in</html>', times: 2 }] },
    except: tailAtRisk,
  }),
  onResume({
    fault: 'ResumeSession denied',
    faults: {
      api: [{ operation: 'ResumeSession', error: { name: 'AccessDeniedException', status: 400 } }],
    },
    outcome: { status: 4, says: /ResumeSession/ },
    except: { handshake: 'either', closing: 'either' },
  }),
  onResume({
    fault: 'ResumeSession saying that the session is gone',
    faults: {
      api: [{ operation: 'ResumeSession', error: { name: 'DoesNotExistException', status: 400 } }],
    },
    isDisowned: true,
    outcome: { status: 8, says: /session/ },
    except: { handshake: 'either', closing: 'either' },
  }),
  onResume({
    fault: 'a resume that never succeeds',
    faults: { api: [{ operation: 'ResumeSession', reset: true }] },
    args: ['--resume-timeout', '2s'],
    outcome: { status: 8, says: /could not be resumed/ },
    except: { handshake: 'either', closing: 'either' },
  }),
  onResume({
    fault: 'a new stream URL at resume',
    emulator: { resumeUrl: 'other' },
    except: tailAtRisk,
  }),
  onResume({
    fault: 'no stream URL at resume',
    emulator: { resumeUrl: 'absent' },
    except: tailAtRisk,
  }),
  onResume({
    fault: 'the upgrade refused twice at resume',
    faults: { upgrade: [{ status: 503, times: 2 }] },
    except: { ...tailAtRisk, handshake: 'either' },
  }),
  onResume({
    fault: 'the upgrade answered by a proxy page at resume',
    faults: { upgrade: [{ html: '<html>blocked</html>', times: 1 }] },
    except: { ...tailAtRisk, handshake: 'either' },
  }),
  onResume({
    fault: 'the upgrade reset at resume',
    faults: { upgrade: [{ reset: true, times: 2 }] },
    except: { ...tailAtRisk, handshake: 'either' },
  }),
  onResume({
    fault: 'the upgrade closed at once at resume',
    faults: { upgrade: [{ closeCode: 1011, times: 2 }] },
    except: { ...tailAtRisk, handshake: 'either' },
  }),
  onResume({
    fault: 'TLS connections reset at resume',
    faults: { connect: [{ how: 'reset', times: 3 }] },
    except: { ...tailAtRisk, handshake: 'either' },
  }),
  onResume({
    fault: 'garbage instead of TLS at resume',
    faults: { connect: [{ how: 'garbage', times: 2 }] },
    except: { ...tailAtRisk, handshake: 'either' },
  }),
];

interface Transfer {
  readonly up: Buffer;
  readonly down: Buffer;
}

/** What goes which way in a phase. */
function transferOf(phase: Phase): Transfer {
  const none = Buffer.alloc(0);
  switch (phase) {
    case 'upload':
      return { up: randomBytes(size), down: none };
    case 'download':
      return { up: none, down: randomBytes(size) };
    case 'both':
      return { up: randomBytes(size), down: randomBytes(size) };
    case 'idle':
      return { up: randomBytes(100), down: randomBytes(100) };
    case 'handshake':
      return { up: randomBytes(20_000), down: randomBytes(20_000) };
    case 'closing':
      return { up: none, down: randomBytes(64 * 1024) };
  }
}

async function play(row: Row, phase: Phase): Promise<void> {
  const peer = await startPeer();
  const bench = await openBench({
    withoutSshd: true,
    node: { ports: { 22: peer.address } },
    emulator: { agent: { readPauseMs: 0, resend: 'all' }, ...row.emulator },
  });
  try {
    if (phase === 'handshake') {
      const { faults } = row;
      bench.emulator.faults.set(
        row.needsResume === true ? { ...faults, socket: cutHandshake } : (faults ?? {}),
      );
    }
    const bridge = bench.bridge(['connect', ...(row.args ?? []), bench.host], {
      stdin: 'pipe',
      timeoutMs: 45_000,
    });
    const transfer = transferOf(phase);
    if (phase === 'handshake') healLater(row, bench);
    // A session that is to fail makes the exchange fail; the verdict below tells which was right.
    const exchanged = await exchange(row, phase, { bench, bridge, peer, transfer }).then(
      () => true,
      () => false,
    );
    bridge.stdin.end();
    const done = await bridge.finished;
    judge(row, phase, { done, peer, transfer, exchanged });
    if (row.needsResume === true && phase !== 'closing') {
      const calls = bench.emulator.apiCalls.map(({ operation }) => operation);
      const isInitial = phase === 'handshake' && bench.emulator.sessions[0]?.handshakeDone !== true;
      if (!isInitial) expect(calls, 'the fault was met').toContain('ResumeSession');
    }
    if (row.isDisowned === true) bench.emulator.sessions[0]?.end('emulator');
    await bench.assertClean(6000);
  } finally {
    await bench.close();
    await peer.close();
  }
}

function healLater(row: Row, bench: Bench): void {
  const { healAfterMs } = row;
  if (healAfterMs === undefined) return;
  setTimeout(() => {
    bench.emulator.faults.clear();
    const [session] = bench.emulator.sessions;
    if (session !== undefined) row.heal?.(session);
  }, healAfterMs);
}

interface Stage {
  readonly bench: Bench;
  readonly bridge: Running;
  readonly peer: Peer;
  readonly transfer: Transfer;
}

async function exchange(row: Row, phase: Phase, stage: Stage): Promise<void> {
  const { bench, bridge, peer, transfer } = stage;
  await bridge.waitForBytes(banner.length, 30_000);
  const connection = await peer.first();
  const [session] = bench.emulator.sessions;
  if (session === undefined) throw new Error('no session');
  if (phase !== 'handshake') {
    bench.emulator.faults.set(row.faults ?? {});
    if (phase === 'idle' || row.faults?.socket === undefined) row.strike?.(session);
    healLater(row, bench);
  }
  if (phase === 'idle') {
    // The fault has its moment with nothing under way; then life goes on.
    await eventually('the connection is back', () => session.isConnected, 20_000);
  }
  bridge.stdin.write(transfer.up);
  connection.socket.write(transfer.down);
  if (phase === 'closing') {
    connection.socket.end();
    await bridge.exited;
    return;
  }
  await Promise.all([
    connection.hasReceived(transfer.up.length),
    bridge.waitForBytes(banner.length + transfer.down.length, 40_000),
    // Whichever happens first ends the case: an exchange that can no longer finish must not wait.
    Promise.race([connection.hasReceived(transfer.up.length), bridge.exited.then(endedEarly)]),
  ]);
}

function endedEarly(): never {
  throw new Error('the bridge ended before the exchange did');
}

interface Result {
  readonly done: Finished;
  readonly peer: Peer;
  readonly transfer: Transfer;
  readonly exchanged: boolean;
}

function judge(row: Row, phase: Phase, result: Result): void {
  const { done, transfer, exchanged } = result;
  const expectedOut = Buffer.concat([Buffer.from(banner), transfer.down]);
  const arrived = result.peer.connections[0]?.received() ?? Buffer.alloc(0);
  const isPrefix = (part: Buffer, whole: Buffer): boolean =>
    part.length <= whole.length && part.equals(whole.subarray(0, part.length));
  expect(isPrefix(done.stdout, expectedOut), 'stdout is a prefix of what the node sent').toBe(true);
  expect(isPrefix(arrived, transfer.up), 'the node received a prefix of stdin').toBe(true);
  const isWhole = exchanged && done.stdout.equals(expectedOut) && arrived.equals(transfer.up);
  const why = `exit ${String(done.code ?? done.signal)}, out ${done.stdout.length} of ${expectedOut.length}, in ${arrived.length} of ${transfer.up.length}, stderr: ${done.stderr}`;
  if (done.code === 0) expect(isWhole, `a short success: ${why}`).toBe(true);
  else expect(done.stderr, why).toMatch(/^ssm-bridge: /);

  const outcome = row.except?.[phase] ?? row.outcome ?? 'delivered';
  if (outcome === 'either' || outcome === 'skip') return;
  if (outcome === 'delivered') {
    expect(done.code, why).toBe(0);
  } else {
    expect(done.code, why).toBe(outcome.status);
    expect(done.stderr).toMatch(outcome.says);
  }
}

const cases = rows.flatMap((row) =>
  phases
    .filter((phase) => row.except?.[phase] !== 'skip')
    .map((phase) => ({ name: `${row.fault}: ${phase}`, row, phase })),
);

describe.concurrent('fault matrix', () => {
  it.each(cases)('$name', async ({ row, phase }) => {
    await play(row, phase);
  });
});
