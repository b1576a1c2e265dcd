import { performance } from 'node:perf_hooks';
import { randomBytes } from 'node:crypto';
import { Session, type Output } from '../../src/protocol/session.ts';
import { decode, encode, encodeAck } from '../emulator/codec.ts';
import { format, row, type SectionSettings } from './rows.ts';
import { median, type Row } from './stats.ts';

/**
 * Cost per message of the core against the number of messages in flight, and against the size of a
 * gap in what is received. A flat line means that the whole is linear.
 */
export function growth({ isQuick }: SectionSettings): Promise<Row[]> {
  const sizes = [100, 1_000, 10_000, ...(isQuick ? [] : [100_000])];
  // The core keeps 10,000 early messages at most.
  const gapSizes = [100, 1_000, 9_000];
  return Promise.resolve([
    line('send + acknowledgement in order, by messages in flight', sizes, (size) =>
      acknowledged(size, false),
    ),
    line('… acknowledged in reverse', sizes, (size) => acknowledged(size, true)),
    line('received behind a gap, by size of the gap', gapSizes, gap),
  ]);
}

const repetitions = 5;

function line(what: string, sizes: readonly number[], work: (size: number) => number): Row {
  const perMessageUs = sizes.map((size) => {
    work(size);
    const measured = Array.from({ length: repetitions }, () => work(size));
    return (median(measured) * 1000) / size;
  });
  // From 1,000 on: with 100 messages what is measured is mostly fixed cost.
  const ratio = (perMessageUs.at(-1) ?? Number.NaN) / (perMessageUs[1] ?? Number.NaN);
  const text = perMessageUs.map((us, index) => `${sizes[index] ?? ''}: ${format(us)}`).join(', ');
  const target = { text: 'flat (<= 2x)', isMet: ratio <= 2 };
  return row('growth', `${what}, us per message`, ratio, text, target);
}

function acknowledged(size: number, isReversed: boolean): number {
  const session = openSession();
  const payload = new Uint8Array(1024);
  let now = 0;
  const startedAt = performance.now();
  const acks: Buffer[] = [];
  let encodingMs = 0;
  for (let index = 0; index < size; index += 1) {
    now += 0.001;
    const frame = transmitted(session.send(payload, { now, wallNow: 1 }));
    const before = performance.now();
    const message = decode(Buffer.from(frame));
    if (message !== undefined) acks.push(encodeAck(message.type, message.messageId, message.seq));
    encodingMs += performance.now() - before;
  }
  if (isReversed) acks.reverse();
  for (const ack of acks) session.receive(ack, { now, wallNow: 1 });
  if (session.unackedMessages !== 0) throw new Error('acknowledgements were not taken');
  return performance.now() - startedAt - encodingMs;
}

function gap(size: number): number {
  const session = openSession();
  const payload = Buffer.alloc(64, 'g');
  const messages = Array.from({ length: size }, (_, index) =>
    encode({ type: 'output_stream_data', seq: 2 + index, payloadType: 1, payload }),
  );
  const startedAt = performance.now();
  let delivered = 0;
  for (const message of [...messages.slice(1), ...messages.slice(0, 1)]) {
    for (const output of session.receive(message, { now: 1, wallNow: 1 })) {
      if (output.kind === 'deliver') delivered += 1;
    }
  }
  if (delivered !== size) throw new Error('messages were not delivered');
  return performance.now() - startedAt;
}

/** A session past its handshake, without pacing or a window in the way. */
function openSession(): Session {
  const session = new Session({
    clientId: '00112233-4455-4677-8899-aabbccddeeff',
    clientVersion: '1.2.764.0',
    maxPayloadBytes: 1024,
    maxInFlightBytes: Number.MAX_SAFE_INTEGER,
    maxInFlightMessages: Number.MAX_SAFE_INTEGER,
    messagesPerSecond: 1e12,
    randomBytes,
  });
  const at = { now: 0, wallNow: 1 };
  session.socketOpened({ tokenValue: 't', requestId: 'r' }, at);
  const request = { AgentVersion: '3.3.0.0', RequestedClientActions: [portAction] };
  for (const [seq, payloadType, body] of [
    [0, 5, request],
    [1, 7, { HandshakeTimeToComplete: 1, CustomerMessage: '' }],
  ] as const) {
    const payload = Buffer.from(JSON.stringify(body));
    for (const output of session.receive(
      encode({ type: 'output_stream_data', seq, payloadType, payload }),
      at,
    )) {
      // The handshake response waits for its acknowledgement like any stream message.
      if (output.kind !== 'transmit') continue;
      const message = decode(Buffer.from(output.frame));
      if (message?.type === 'input_stream_data') {
        session.receive(encodeAck(message.type, message.messageId, message.seq), at);
      }
    }
  }
  if (session.phase !== 'open') throw new Error('the session did not open');
  return session;
}

const portAction = {
  ActionType: 'SessionType',
  ActionParameters: { SessionType: 'Port', Properties: { portNumber: '22' } },
};

function transmitted(outputs: readonly Output[]): Uint8Array {
  for (const output of outputs) if (output.kind === 'transmit') return output.frame;
  throw new Error('nothing was sent');
}
