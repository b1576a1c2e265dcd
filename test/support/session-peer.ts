/**
 * A session and, as its peer, a test that speaks the wire format by hand: what the session is fed
 * is made by the naive codec, and what it transmits is read by it.
 */
import { Session, type Output, type SessionOptions } from '../../src/protocol/session.ts';
import { naiveDecode, naiveEncode, type NaiveFields, type NaiveMessage } from './naive-codec.ts';
import { SeededRandom } from './random.ts';

export const CLIENT_ID = '51103438-0f13-4a5d-917d-6d2fe721e5b9';
export const GRANT = { tokenValue: 'token', requestId: 'd490b7e8-7e4e-460c-930c-d9ddd057f132' };

export interface RequestFields {
  agentVersion?: string;
  sessionType?: unknown;
  properties?: unknown;
  actions?: unknown;
}

export function handshakeRequestJson(fields: RequestFields = {}): string {
  const { agentVersion = '3.3.0.0', sessionType = 'Port' } = fields;
  const { properties = { portNumber: '22' } } = fields;
  const port = {
    ActionType: 'SessionType',
    ActionParameters: { SessionType: sessionType, Properties: properties },
  };
  const actions = fields.actions ?? [port];
  return JSON.stringify({ AgentVersion: agentVersion, RequestedClientActions: actions });
}

export class SessionPeer {
  readonly session: Session;
  now = 1000;
  /** Every output since the last `take`. */
  #outputs: Output[] = [];
  #nextSeq = 0;

  constructor(options: Partial<SessionOptions> = {}) {
    const random = new SeededRandom(1);
    this.session = new Session({
      clientId: CLIENT_ID,
      clientVersion: '1.2.764.0',
      maxPayloadBytes: 16_384,
      maxInFlightBytes: 4 * 1024 * 1024,
      maxInFlightMessages: 4000,
      messagesPerSecond: 950,
      randomBytes: (size) => random.bytes(size),
      ...options,
    });
  }

  /** A session that is open: handshake done, nothing unacknowledged, outputs taken. */
  static open(options: Partial<SessionOptions> = {}, request: RequestFields = {}): SessionPeer {
    const peer = new SessionPeer(options);
    peer.connect();
    peer.request(request);
    peer.acknowledge(0);
    peer.complete();
    peer.take();
    return peer;
  }

  get instant(): { now: number; wallNow: number } {
    return { now: this.now, wallNow: 1_700_000_000_000 + this.now };
  }

  get nextSeq(): number {
    return this.#nextSeq;
  }

  connect(): void {
    this.#record(this.session.socketOpened(GRANT, this.instant));
  }

  disconnect(closeCode?: number): void {
    this.#record(this.session.socketLost(closeCode, this.instant));
  }

  receive(fields: NaiveFields): void {
    this.#record(this.session.receive(naiveEncode(fields), this.instant));
  }

  /** A stream message of the agent's, with the next number unless one is given. */
  stream(
    payloadType: number,
    payload: Uint8Array | string,
    fields: Partial<NaiveFields> = {},
  ): void {
    const seq = fields.seq ?? this.#nextSeq;
    if (fields.seq === undefined) this.#nextSeq += 1;
    this.receive({ messageType: 'output_stream_data', payloadType, payload, ...fields, seq });
  }

  output(payload: Uint8Array | string, fields: Partial<NaiveFields> = {}): void {
    this.stream(1, payload, fields);
  }

  request(fields: RequestFields = {}): void {
    this.stream(5, handshakeRequestJson(fields), { flags: 1 });
  }

  complete(): void {
    this.stream(7, '{"HandshakeTimeToComplete":5186156,"CustomerMessage":""}');
  }

  acknowledge(seq: number): void {
    this.receive({
      messageType: 'acknowledge',
      flags: 3,
      payload: JSON.stringify({
        AcknowledgedMessageType: 'input_stream_data',
        AcknowledgedMessageId: 'db7d586f-be4d-4969-9c13-23c5a42269a5',
        AcknowledgedMessageSequenceNumber: seq,
        IsSequentialMessage: true,
      }),
    });
  }

  close(json = '{"Output":""}', fields: Partial<NaiveFields> = {}): void {
    this.receive({ messageType: 'channel_closed', payload: json, ...fields });
  }

  capacity(): number {
    return this.session.sendCapacity(this.instant);
  }

  /** Sends `size` bytes of 0x61, or the bytes given. */
  send(payload: number | Uint8Array): void {
    const bytes = typeof payload === 'number' ? new Uint8Array(payload).fill(0x61) : payload;
    this.#record(this.session.send(bytes, this.instant));
  }

  terminate(): void {
    this.#record(this.session.terminate(this.instant));
  }

  wake(at: number = this.now): void {
    this.now = at;
    this.#record(this.session.wake(this.instant));
  }

  /** Moves time to the session's own deadline and wakes it; false when it has none. */
  wakeNext(): boolean {
    const at = this.session.nextWakeAt();
    if (at === undefined) return false;
    this.wake(Math.max(at, this.now));
    return true;
  }

  /** Frames and payloads are lent for the length of a call only. */
  #record(outputs: readonly Output[]): void {
    for (const output of outputs) {
      if (output.kind === 'transmit') {
        this.#outputs.push({ ...output, frame: new Uint8Array(output.frame) });
      } else this.#outputs.push(output);
    }
  }

  take(): Taken {
    const outputs = this.#outputs;
    this.#outputs = [];
    return new Taken(outputs);
  }
}

/** Outputs, with views of them that tests ask for. */
export class Taken {
  readonly all: readonly Output[];

  constructor(outputs: readonly Output[]) {
    this.all = outputs.map((output) =>
      output.kind === 'deliver' ? { ...output, payload: new Uint8Array(output.payload) } : output,
    );
  }

  get kinds(): string[] {
    return this.all.map((output) => output.kind);
  }

  of<K extends Output['kind']>(kind: K): Extract<Output, { kind: K }>[] {
    return this.all.filter(
      (output): output is Extract<Output, { kind: K }> => output.kind === kind,
    );
  }

  get messages(): NaiveMessage[] {
    return this.of('transmit').map(({ frame }) => {
      const message = naiveDecode(frame);
      if (message === undefined) throw new Error('transmitted bytes that are no message');
      return message;
    });
  }

  /** Sequence numbers of the stream messages transmitted. */
  get sent(): number[] {
    return this.messages
      .filter((message) => message.messageType === 'input_stream_data')
      .map((message) => Number(message.seq));
  }

  /** Sequence numbers acknowledged. */
  get acknowledged(): number[] {
    return this.messages
      .filter((message) => message.messageType === 'acknowledge')
      .map((message) => {
        const json = JSON.parse(new TextDecoder().decode(message.payload)) as Record<
          string,
          unknown
        >;
        return Number(json['AcknowledgedMessageSequenceNumber']);
      });
  }

  get delivered(): string {
    return this.of('deliver')
      .map(({ payload }) => new TextDecoder().decode(payload))
      .join('');
  }

  get ignored(): string[] {
    return this.of('ignored').map(({ reason }) => reason);
  }
}
