/**
 * A process that relays its standard input and output to an endpoint which does what the test says over
 * the IPC channel, and tells the test what happens to it. See relay.test.ts.
 */
import { createHash } from 'node:crypto';
import { writeSync } from 'node:fs';
import { replaceWithNull } from '../../src/relay/output.ts';
import { relay, type Endpoint, type LocalSide, type Outcome } from '../../src/relay/relay.ts';
import type { ChannelEnd } from '../../src/transport/channel.ts';
import { systemClock } from '../../src/transport/clock.ts';
import { pattern } from '../transport/harness.ts';
import type { Command, Report } from './driver-messages.ts';

const report = (message: Report): void => {
  process.send?.(message);
};

let local: LocalSide | undefined;
let isPulling = true;
let isPaused = false;
let toDeliver = 0;
let delivered = 0;
let received = 0;
const hash = createHash('sha256');
const whole = pattern(8 * 1024 * 1024);
let end: (end: ChannelEnd) => void = () => undefined;
let release: () => void = () => undefined;
let open: (endpoint: Endpoint) => void = () => undefined;
let refuse: (error: Error) => void = () => undefined;
const fatal = new AbortController();

function pull(): void {
  while (isPulling) {
    const bytes = local?.source.pull(16 * 1024);
    if (bytes === undefined) return;
    hash.update(bytes);
    received += bytes.length;
    report({ event: 'received', bytes: received, sha256: hash.copy().digest('hex') });
  }
}

function deliver(): void {
  while (!isPaused && toDeliver > 0) {
    const bytes = whole.subarray(delivered % whole.length).subarray(0, Math.min(1000, toDeliver));
    toDeliver -= bytes.length;
    delivered += bytes.length;
    local?.deliver(bytes);
    if (toDeliver === 0) report({ event: 'delivered' });
  }
}

const endpoint: Endpoint = {
  start: () => {
    report({ event: 'started' });
    pull();
    deliver();
  },
  sourceReady: pull,
  pauseReceiving: () => {
    isPaused = true;
    report({ event: 'paused', delivered });
  },
  resumeReceiving: () => {
    isPaused = false;
    report({ event: 'resumed', delivered });
    deliver();
  },
  isSending: false,
  probe: () => {
    report({ event: 'probed' });
  },
  terminate: () => {
    pull();
    report({ event: 'terminated', received });
  },
  ended: new Promise((resolve) => (end = resolve)),
  released: new Promise((resolve) => {
    release = (): void => {
      resolve();
    };
  }),
};

/** One byte at a time out of large reads, as a hostile peer would have it. */
function drip(count: number): void {
  let left = count;
  const some = (): void => {
    for (let batch = 0; batch < 2000 && left > 0; batch += 1, left -= 1) {
      local?.deliver(Buffer.alloc(8 * 1024, 0x61).subarray(0, 1));
    }
    if (left > 0) setImmediate(some);
    else report({ event: 'memory', residentBytes: process.memoryUsage().rss });
  };
  some();
}

process.on('message', (command: Command) => {
  switch (command.do) {
    case 'open':
      open(endpoint);
      return;
    case 'refuse':
      refuse(new Error('refused'));
      return;
    case 'deliver':
      toDeliver += command.bytes;
      deliver();
      return;
    case 'finish':
      // In one turn: the end is known before the first write.
      toDeliver += command.bytes;
      deliver();
      end({ kind: 'remote-closed', output: '', isIncomplete: false });
      return;
    case 'drip':
      drip(command.bytes);
      return;
    case 'pull':
      isPulling = command.isPulling;
      pull();
      return;
    case 'fail':
      fatal.abort(new Error('fatal'));
      return;
    case 'end':
      end({ kind: 'remote-closed', output: '', isIncomplete: false });
      return;
    case 'release':
      release();
  }
});

function told(outcome: Outcome): string {
  if (outcome.kind === 'departed') return JSON.stringify(outcome.departure);
  if (outcome.kind === 'ended') return outcome.kind;
  return `failed: ${outcome.error instanceof Error ? outcome.error.message : 'not an Error'}`;
}

void relay({
  clock: systemClock,
  inputBufferBytes: 16 * 1024,
  isTerminal: process.argv[2] === 'terminal',
  open: (side) => {
    local = side;
    report({ event: 'ready' });
    return new Promise<Endpoint>((resolve, reject) => {
      open = resolve;
      refuse = reject;
    });
  },
  conclude: (outcome) => {
    writeSync(2, `${told(outcome)}\n`);
    if (outcome.kind !== 'departed') return outcome.kind === 'ended' ? 0 : 7;
    return outcome.departure.kind === 'left' ? 0 : 1;
  },
  closeStderr: () => {
    replaceWithNull(2);
  },
  tidyUp: () => Promise.resolve(),
  unfinished: () => undefined,
  fatal: fatal.signal,
}).then((status) => {
  process.exitCode = status;
  report({ event: 'done', resources: process.getActiveResourcesInfo() });
  process.disconnect();
});
