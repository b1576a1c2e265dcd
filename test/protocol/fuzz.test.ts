/**
 * A fixed number of hostile inputs: messages that were valid until they were damaged, in any order,
 * between everything else that can happen to a session. Seeded, so that a failure repeats.
 */
import { describe, expect, it } from 'vitest';
import { isBridgeError } from '../../src/errors.ts';
import { decodeMessage } from '../../src/protocol/codec.ts';
import { Session, type Output } from '../../src/protocol/session.ts';
import { naiveEncode, type NaiveFields } from '../support/naive-codec.ts';
import { SeededRandom } from '../support/random.ts';
import { handshakeRequestJson } from '../support/session-peer.ts';
import vectors from '../vectors/messages.json' with { type: 'json' };

const DECODER_INPUTS = 30_000;
const SESSIONS = 150;
const INPUTS_PER_SESSION = 200;

const captured = vectors.messages.map(({ hex }) => new Uint8Array(Buffer.from(hex, 'hex')));

const TYPES = [
  'output_stream_data',
  'output_stream_data',
  'output_stream_data',
  'acknowledge',
  'acknowledge',
  'input_stream_data',
  'pause_publication',
  'start_publication',
  'agent_job',
  '',
] as const;

const PAYLOADS = [
  '',
  '{}',
  'null',
  '[[[[[[[[',
  '{"AcknowledgedMessageSequenceNumber":0}',
  '{"AcknowledgedMessageSequenceNumber":1e300}',
  '{"AcknowledgedMessageSequenceNumber":{"a":1}}',
  '{"AgentVersion":3,"RequestedClientActions":{}}',
  '{"AgentVersion":"3.3.0.0","RequestedClientActions":[{"ActionType":"SessionType"}]}',
  '{"AgentVersion":"3.3.0.0","RequestedClientActions":[null]}',
  handshakeRequestJson(),
  handshakeRequestJson({ properties: { type: 'LocalPortForwarding' }, agentVersion: '3.0.1.0' }),
  `${'['.repeat(30_000)}${']'.repeat(30_000)}`,
  '\0\0\0\u0003',
  'x'.repeat(2000),
];

function message(random: SeededRandom): Uint8Array {
  if (random.chance(0.15)) return mutate(random, random.pick(captured));
  const fields: NaiveFields = {
    messageType: random.pick(TYPES),
    seq: random.chance(0.9) ? random.between(0, 8) : random.pick([-1n, 2n ** 53n, 2n ** 62n]),
    payloadType: random.pick([1, 1, 1, 5, 7, 10, 6, 0, 3, 4_294_967_295]),
    payload: random.pick(PAYLOADS),
    pad: random.pick([' ', '\0', '\t']),
    flags: random.between(0, 99),
  };
  if (random.chance(0.05))
    fields.headerLength = random.pick([0, 3, 112, 115, 117, 5000, 2 ** 32 - 1]);
  if (random.chance(0.1)) fields.digest = random.bytes(32);
  const bytes = naiveEncode(fields);
  return random.chance(0.2) ? mutate(random, bytes) : bytes;
}

function mutate(random: SeededRandom, bytes: Uint8Array): Uint8Array {
  let mutated = new Uint8Array(bytes);
  for (let change = random.between(1, 6); change > 0; change -= 1) {
    const at = random.between(0, Math.max(0, mutated.length - 1));
    switch (random.between(0, 3)) {
      case 0:
        mutated[at] = random.between(0, 255);
        break;
      case 1:
        mutated = mutated.slice(0, at);
        break;
      case 2:
        mutated = Uint8Array.from([
          ...mutated.subarray(0, at),
          ...random.bytes(9),
          ...mutated.subarray(at),
        ]);
        break;
      default:
        mutated[at] = (mutated[at] ?? 0) ^ (1 << random.between(0, 7));
    }
  }
  return mutated;
}

describe('fuzzing', () => {
  it('the decoder takes any bytes', () => {
    const random = new SeededRandom(1);
    const kinds = new Set<string>();
    for (let input = 0; input < DECODER_INPUTS; input += 1) {
      const bytes = random.chance(0.9) ? mutate(random, random.pick(captured)) : random.bytes(200);
      kinds.add(decodeMessage(bytes).kind);
    }
    expect([...kinds].sort()).toEqual(
      ['acknowledge', 'channel-closed', 'malformed', 'other', 'stream'].sort(),
    );
  });

  it('the session takes any messages in any order', () => {
    const phases = new Set<string>();
    for (let seed = 1; seed <= SESSIONS; seed += 1) phases.add(abuse(seed));
    // The inputs are not all dismissed at the door.
    for (const phase of ['open', 'terminating', 'failed', 'closed']) {
      expect(phases).toContain(phase);
    }
  });
});

/** Runs one abused session and returns the phase it ended in. */
function abuse(seed: number): string {
  const random = new SeededRandom(seed);
  const session = new Session({
    clientId: 'client',
    clientVersion: random.pick(['1.2.764.0', '0.1']),
    forceBasicMode: random.chance(0.2),
    maxPayloadBytes: 2048,
    maxInFlightBytes: 8192,
    maxInFlightMessages: 20,
    messagesPerSecond: 50,
    randomBytes: (size) => random.bytes(size),
  });
  let now = 0;
  let transmitted = 0;
  let acknowledgements = 0;
  let inbound = 0;
  let isConnected = false;
  const apply = (outputs: Output[]): void => {
    expect(outputs.length).toBeLessThan(300);
    for (const output of outputs) {
      if (output.kind === 'failed') expect(isBridgeError(output.error)).toBe(true);
      if (output.kind === 'deliver') expect(output.payload.length).toBeGreaterThan(0);
      if (output.kind !== 'transmit') continue;
      expect(isConnected).toBe(true);
      const decoded = decodeMessage(output.frame);
      if (decoded.kind === 'acknowledge') acknowledgements += 1;
      else transmitted += 1;
    }
  };
  if (random.chance(0.7)) {
    const at = { now, wallNow: 1 };
    isConnected = true;
    inbound += 3;
    apply(session.socketOpened({ tokenValue: 't', requestId: 'r' }, at));
    const output = { messageType: 'output_stream_data' };
    const request = handshakeRequestJson();
    apply(session.receive(naiveEncode({ ...output, payloadType: 5, payload: request }), at));
    apply(session.receive(naiveEncode({ ...output, seq: 1, payloadType: 7, payload: '{}' }), at));
  }
  for (let input = 0; input < INPUTS_PER_SESSION; input += 1) {
    const at = { now, wallNow: random.pick([0, 1_700_000_000_000]) };
    switch (random.between(0, 11)) {
      case 0:
        isConnected = true;
        inbound += 1;
        apply(session.socketOpened({ tokenValue: 't', requestId: 'r' }, at));
        break;
      case 1:
        if (random.chance(0.5)) break;
        apply(session.socketLost(random.pick([1000, 1009, undefined]), at));
        isConnected = false;
        break;
      case 2: {
        const capacity = session.sendCapacity(at);
        expect(capacity).toBeLessThanOrEqual(2048);
        if (capacity === 0) session.noteSendBlocked();
        else apply(session.send(random.bytes(random.between(1, capacity)), at));
        break;
      }
      case 3:
        now = Math.max(now, session.nextWakeAt() ?? now);
        apply(session.wake({ now, wallNow: 1 }));
        expect(session.nextWakeAt() ?? Number.POSITIVE_INFINITY).toBeGreaterThan(now);
        break;
      case 4:
        now += random.between(0, 2000);
        break;
      case 5:
        if (random.chance(0.1)) apply(session.terminate(at));
        break;
      case 6:
        apply(session.receiveText(random.chance(0.5) ? '{"a":1}' : 'x'.repeat(70_000), at));
        break;
      default:
        inbound += 1;
        apply(session.receive(message(random), at));
    }
    expect(session.unackedMessages).toBeLessThanOrEqual(20 + 2);
    expect(session.unackedBytes).toBeLessThanOrEqual(8192 + 1000);
    expect(session.earlyMessages).toBeLessThanOrEqual(10_000);
    // At most one acknowledgement for each message or socket, and stream messages at the pace.
    expect(acknowledgements).toBeLessThanOrEqual(inbound);
    expect(transmitted).toBeLessThanOrEqual(5 + (now / 1000) * 50 + 2);
  }
  return session.phase;
}
