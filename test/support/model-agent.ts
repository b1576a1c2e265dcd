/**
 * The remote agent's session code as the public sources of amazon-ssm-agent describe it, reduced to
 * what a client can see and written for plainness: no windows, no estimates, only the oldest
 * message is ever resent. Time is an argument; what it sends goes to a callback.
 */
import { naiveDecode, naiveEncode } from './naive-codec.ts';

export interface AgentTraits {
  readonly agentVersion: string;
  readonly properties: Readonly<Record<string, string>> | null;
  /** How long it takes to reach the port after the handshake. */
  readonly dialMs: number;
  /** Before 3.0.655.0: data that arrives while dialing is acknowledged and dropped. */
  readonly dropsEarlyData: boolean;
  /** Before 3.2.1041.0: a message that was processed is never acknowledged again. */
  readonly ignoresDuplicates: boolean;
  /** Sends its handshake request a second time, as a message of its own. */
  readonly repeatsRequest: boolean;
  /** Early messages it keeps. */
  readonly earlyCapacity: number;
}

export const MODERN_AGENT: AgentTraits = {
  agentVersion: '3.3.987.0',
  properties: { portNumber: '22' },
  dialMs: 0,
  dropsEarlyData: false,
  ignoresDuplicates: false,
  repeatsRequest: false,
  earlyCapacity: 100_000,
};

const TICK_MS = 100;
const RESEND_AFTER_MS = 300;

interface Unacked {
  readonly seq: number;
  readonly frame: Uint8Array;
  sentAt: number;
}

export class ModelAgent {
  readonly #traits: AgentTraits;
  readonly #transmit: (frame: Uint8Array) => void;
  readonly #unacked: Unacked[] = [];
  readonly #early = new Map<number, { type: number; payload: Uint8Array }>();
  /** What arrived while the destination did not read: nobody looks at it, acknowledgements included. */
  readonly #unread: Uint8Array[] = [];
  readonly #received: Uint8Array[] = [];
  #expected = 0;
  #nextSeq = 0;
  #isStalled = false;
  #isPaused = false;
  #connectedAt = Number.POSITIVE_INFINITY;
  #receivedBytes = 0;
  clientVersion: string | undefined;
  handshakeResponses = 0;
  isTerminated = false;

  constructor(traits: AgentTraits, transmit: (frame: Uint8Array) => void) {
    this.#traits = traits;
    this.#transmit = transmit;
  }

  get receivedBytes(): number {
    return this.#receivedBytes;
  }

  get unackedMessages(): number {
    return this.#unacked.length;
  }

  get isPaused(): boolean {
    return this.#isPaused;
  }

  takeReceived(): Uint8Array[] {
    return this.#received.splice(0);
  }

  isConnected(now: number): boolean {
    return now >= this.#connectedAt;
  }

  start(now: number): void {
    const { agentVersion, properties, repeatsRequest } = this.#traits;
    const request = JSON.stringify({
      AgentVersion: agentVersion,
      RequestedClientActions: [
        {
          ActionType: 'SessionType',
          ActionParameters: { SessionType: 'Port', Properties: properties },
        },
      ],
    });
    this.#sendStream(5, request, now);
    if (repeatsRequest) this.#sendStream(5, request, now);
  }

  sendOutput(payload: Uint8Array, now: number): void {
    this.#sendStream(1, payload, now);
  }

  sendFlag(value: number, now: number): void {
    this.#sendStream(10, new Uint8Array([0, 0, 0, value]), now);
  }

  /** The destination stops, or starts again, to read what the agent writes. */
  setStalled(isStalled: boolean, now: number): void {
    this.#isStalled = isStalled;
    while (!this.#isStalled) {
      const frame = this.#unread.shift();
      if (frame === undefined) return;
      this.receive(frame, now);
    }
  }

  /** pause_publication or start_publication from the service. */
  setPaused(isPaused: boolean): void {
    this.#isPaused = isPaused;
  }

  /** To be called every `TICK_MS`. */
  tick(now: number): void {
    const oldest = this.#unacked[0];
    if (this.#isPaused || oldest === undefined || now - oldest.sentAt < RESEND_AFTER_MS) return;
    oldest.sentAt = now;
    this.#transmit(oldest.frame);
  }

  receive(frame: Uint8Array, now: number): void {
    if (this.#isStalled) {
      this.#unread.push(frame);
      return;
    }
    const message = naiveDecode(frame);
    if (message === undefined) throw new Error('the agent was sent bytes that are no message');
    this.#isPaused = false;
    if (message.messageType === 'acknowledge') {
      const { AcknowledgedMessageSequenceNumber: seq } = JSON.parse(
        new TextDecoder().decode(message.payload),
      ) as { AcknowledgedMessageSequenceNumber: number };
      const index = this.#unacked.findIndex((unacked) => unacked.seq === seq);
      if (index >= 0) this.#unacked.splice(index, 1);
      return;
    }
    if (message.messageType !== 'input_stream_data') {
      throw new Error(`the agent was sent a ${message.messageType}`);
    }
    const seq = Number(message.seq);
    const type = message.payloadType ?? -1;
    if (seq < this.#expected) {
      if (!this.#traits.ignoresDuplicates) this.#acknowledge(seq, message.messageId);
    } else if (seq > this.#expected) {
      if (this.#early.size >= this.#traits.earlyCapacity) return;
      this.#acknowledge(seq, message.messageId);
      this.#early.set(seq, { type, payload: message.payload });
    } else if (this.#process(type, message.payload, now)) {
      this.#acknowledge(seq, message.messageId);
      this.#expected += 1;
      for (;;) {
        const next = this.#early.get(this.#expected);
        if (next === undefined || !this.#process(next.type, next.payload, now)) break;
        this.#early.delete(this.#expected);
        this.#expected += 1;
      }
    }
  }

  /** False when the handler is not ready: then nothing is acknowledged. */
  #process(type: number, payload: Uint8Array, now: number): boolean {
    if (payload.length === 0) throw new Error('the agent was sent an empty payload');
    switch (type) {
      case 6: {
        const response = JSON.parse(new TextDecoder().decode(payload)) as {
          ClientVersion: string;
          ProcessedClientActions: { ActionStatus: number }[];
        };
        this.clientVersion = response.ClientVersion;
        this.handshakeResponses += 1;
        if (response.ProcessedClientActions.some((action) => action.ActionStatus !== 1)) {
          throw new Error('an action failed on the client');
        }
        this.#connectedAt = now + this.#traits.dialMs;
        this.#sendStream(7, '{"HandshakeTimeToComplete":1,"CustomerMessage":""}', now);
        return true;
      }
      case 1:
        if (!this.isConnected(now)) return this.#traits.dropsEarlyData;
        this.#received.push(payload);
        this.#receivedBytes += payload.length;
        return true;
      case 10:
        if (payload[3] === 2) this.isTerminated = true;
        return true;
      default:
        return true;
    }
  }

  #acknowledge(seq: number, messageId: string): void {
    const payload = JSON.stringify({
      AcknowledgedMessageType: 'input_stream_data',
      AcknowledgedMessageId: messageId,
      AcknowledgedMessageSequenceNumber: seq,
      IsSequentialMessage: true,
    });
    this.#transmit(naiveEncode({ messageType: 'acknowledge', flags: 3, payload }));
  }

  #sendStream(payloadType: number, payload: Uint8Array | string, now: number): void {
    const seq = this.#nextSeq;
    this.#nextSeq += 1;
    const flags = seq === 0 ? 1 : 0;
    const frame = naiveEncode({
      messageType: 'output_stream_data',
      seq,
      flags,
      payloadType,
      payload,
    });
    this.#unacked.push({ seq, frame, sentAt: now });
    if (!this.#isPaused) this.#transmit(frame);
  }
}

export const AGENT_TICK_MS: number = TICK_MS;
