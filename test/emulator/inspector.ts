import * as codec from './codec.ts';

export interface InspectorOptions {
  readonly violation: (text: string, isFatal: boolean) => void;
  readonly now: () => number;
  readonly ackDeadlineMs: number;
  readonly gapDeadlineMs: number;
}

const UUID4 = /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;
const DAY_MS = 86_400_000;
/** A date below this one (2001) was not given in milliseconds. */
const MILLISECONDS = 1e12;
/** Messages whose identity is kept behind the newest one, to compare resends with. */
const REMEMBERED = 20_000;

interface Sent {
  readonly messageId: string;
  /** When an intact copy first went out; undefined when all copies were damaged. */
  intactAt: number | undefined;
}

/** Watches a client's frames as they come off the socket and says what is wrong with them. */
export class Inspector {
  readonly #options: InspectorOptions;
  readonly #identity = new Map<number, string>();
  readonly #ids = new Map<string, number>();
  readonly #missing = new Set<number>();
  #gapSince: number | undefined;
  #nextSeq = 0;
  readonly #sent = new Map<number, Sent>();
  #highestSent = -1;
  #oldestSent = 0;

  constructor(options: InspectorOptions) {
    this.#options = options;
  }

  /** A message on its way to the client; acknowledgements are checked against it. */
  sent(frame: Buffer, isIntact: boolean): void {
    if (frame.length < codec.PAYLOAD_AT) return; // cut short by a fault: names no message
    const seq = frame.readUInt32BE(48) * 2 ** 32 + frame.readUInt32BE(52);
    const known = this.#sent.get(seq);
    if (known !== undefined) {
      if (isIntact) known.intactAt ??= this.#options.now();
    } else if (seq > this.#highestSent || seq >= this.#oldestSent) {
      const intactAt = isIntact ? this.#options.now() : undefined;
      this.#sent.set(seq, { messageId: codec.messageIdOf(frame), intactAt });
    }
    this.#highestSent = Math.max(this.#highestSent, seq);
  }

  /** Checks one binary frame; undefined when it is no message at all. 'new' is a first stream message. */
  check(
    frame: Buffer,
  ): { message: codec.AgentMessage; kind: 'new' | 'resend' | 'ack' } | undefined {
    const message = codec.decode(frame);
    if (message === undefined || message.headerLength !== codec.HEADER) {
      this.#report('frame is no AgentMessage of header length 116');
      return undefined;
    }
    this.#checkHeader(frame, message);
    if (message.type === 'acknowledge') {
      this.#checkAck(message);
      return { message, kind: 'ack' };
    }
    if (message.type !== 'input_stream_data') {
      this.#report(`message type '${message.type}'`);
      return undefined;
    }
    return { message, kind: this.#checkStream(frame, message) };
  }

  /** Deadlines that no frame of the client's would reveal. */
  tick(isConnected: boolean): void {
    const { ackDeadlineMs, gapDeadlineMs, now } = this.#options;
    if (!isConnected) {
      this.#gapSince = undefined;
      return;
    }
    if (this.#missing.size === 0) this.#gapSince = undefined;
    else this.#gapSince ??= now();
    if (this.#gapSince !== undefined && now() - this.#gapSince > gapDeadlineMs) {
      this.#report(`sequence numbers never sent: ${[...this.#missing].slice(0, 5).join(', ')}`);
      this.#missing.clear();
    }
    if (ackDeadlineMs === 0) return;
    for (const [seq, entry] of this.#sent) {
      if (entry.intactAt === undefined) continue;
      if (now() - entry.intactAt <= ackDeadlineMs) return;
      this.#report(`message ${seq} not acknowledged for ${ackDeadlineMs} ms`);
      this.#sent.delete(seq);
    }
  }

  /** A new socket: whatever the old one swallowed was not the client's doing. */
  reconnected(): void {
    this.#gapSince = undefined;
    for (const entry of this.#sent.values()) entry.intactAt &&= this.#options.now();
  }

  #checkHeader(frame: Buffer, message: codec.AgentMessage): void {
    const name = frame.toString('latin1', 4, 36);
    if (name !== message.type.padEnd(32, ' ')) this.#report('message type not padded with spaces');
    if (message.schemaVersion !== 1) this.#report(`schema version ${message.schemaVersion}`);
    if (message.createdDate < MILLISECONDS || message.createdDate > Date.now() + DAY_MS) {
      this.#report(`created date ${message.createdDate}`);
    }
    if (!UUID4.test(message.messageId)) this.#report(`message id ${message.messageId}`);
    if (message.payload.length === 0) this.#report('empty payload');
    if (message.payloadLength !== message.payload.length) {
      this.#report(`payload length ${message.payloadLength}, really ${message.payload.length}`);
    }
    if (!codec.sha256(message.payload).equals(message.digest)) this.#report('payload digest wrong');
    if (!Number.isSafeInteger(message.seq)) this.#report('sequence number out of range');
  }

  #checkStream(frame: Buffer, message: codec.AgentMessage): 'new' | 'resend' {
    const { seq } = message;
    if (message.flags !== 0) this.#report(`flags ${message.flags} on a stream message`);
    const { handshakeResponse, output, flag } = codec.payloadTypes;
    if (![handshakeResponse, output, flag].includes(message.payloadType as 1 | 6 | 10)) {
      this.#report(`payload type ${message.payloadType}`);
    }
    if ((message.payloadType === handshakeResponse) !== (seq === 0)) {
      this.#report(`payload type ${message.payloadType} with sequence number ${seq}`);
    }
    if (message.payloadType === flag && message.payload.length !== 4) this.#report('flag size');
    // Created date, sequence number, flags, id and digest; with the digest the payload too.
    const identity = frame.toString('latin1', 40, 116);
    const known = this.#identity.get(seq);
    if (known !== undefined) {
      if (known !== identity) this.#report(`message ${seq} resent with other bytes`);
      return 'resend';
    }
    if (seq < this.#nextSeq && !this.#missing.delete(seq)) return 'resend'; // long forgotten
    const twin = this.#ids.get(message.messageId);
    if (twin !== undefined) this.#report(`message id of ${twin} used again for ${seq}`);
    if (seq - this.#nextSeq > REMEMBERED) {
      this.#report(`sequence jumps from ${this.#nextSeq} to ${seq}`);
    } else {
      for (let skipped = this.#nextSeq; skipped < seq; skipped++) this.#missing.add(skipped);
    }
    this.#nextSeq = Math.max(this.#nextSeq, seq + 1);
    this.#identity.set(seq, identity);
    this.#ids.set(message.messageId, seq);
    if (this.#identity.size > REMEMBERED) this.#forgetOldest();
    return 'new';
  }

  #forgetOldest(): void {
    const [seq] = this.#identity.keys();
    this.#identity.delete(seq!);
    const [id] = this.#ids.keys();
    this.#ids.delete(id!);
  }

  #checkAck(message: codec.AgentMessage): void {
    if (message.seq !== 0 || message.flags !== 3 || message.payloadType !== 0) {
      this.#report(`acknowledge with seq ${message.seq}, flags ${message.flags}`);
    }
    const ack = parseAck(message.payload);
    if (ack === undefined) {
      this.#report('acknowledge content malformed');
      return;
    }
    if (ack.type !== 'output_stream_data') {
      this.#report(`acknowledged a message of type ${ack.type}`);
      return;
    }
    if (ack.seq > this.#highestSent) {
      this.#report(`acknowledged ${ack.seq}, which was never sent`);
      return;
    }
    const sent = this.#sent.get(ack.seq);
    if (sent === undefined) return; // a duplicate's second acknowledgement
    if (sent.messageId !== ack.id) {
      this.#report(`acknowledged ${ack.seq} with message id ${ack.id}`);
    } else if (sent.intactAt === undefined) {
      this.#report(`acknowledged ${ack.seq}, of which only damaged copies were sent`);
    } else {
      this.#sent.delete(ack.seq);
      while (this.#oldestSent <= this.#highestSent && !this.#sent.has(this.#oldestSent)) {
        this.#oldestSent += 1;
      }
    }
  }

  #report(text: string): void {
    this.#options.violation(text, true);
  }
}

const ACK =
  /^\{"AcknowledgedMessageType":"([a-z_]+)","AcknowledgedMessageId":"([0-9a-f-]{36})","AcknowledgedMessageSequenceNumber":(\d+),"IsSequentialMessage":true\}$/;

function parseAck(payload: Buffer): { type: string; id: string; seq: number } | undefined {
  const match = ACK.exec(payload.toString('latin1'));
  if (match !== null) return { type: match[1]!, id: match[2]!, seq: Number(match[3]) };
  return undefined;
}
