import { randomBytes, randomUUID } from 'node:crypto';
import { Agent } from './agent.ts';
import * as codec from './codec.ts';
import type { Link } from './link.ts';
import { Inspector } from './inspector.ts';
import type { Service } from './service.ts';
import type { EndCause, NodeOptions, SessionCounters, SessionRecord } from './types.ts';

export interface SessionRequest {
  readonly target: string;
  readonly documentName: string;
  readonly parameters: Readonly<Record<string, readonly string[]>>;
  readonly properties: Readonly<Record<string, string>>;
  readonly reason: string | undefined;
}

interface Token {
  readonly value: string;
  readonly expiresAt: number;
}

/** A frame kept for a client that has not connected yet. */
const HELD_FRAMES = 1000;

/** One session as the service sees it: its tokens, the client's socket, the agent at the other end. */
export class Session implements SessionRecord {
  readonly id: string;
  readonly target: string;
  readonly documentName: string;
  readonly parameters: Readonly<Record<string, readonly string[]>>;
  readonly reason: string | undefined;
  readonly startedAt: number;
  endedAt: number | undefined;
  endedBy: EndCause | undefined;
  output: string | undefined;
  clientId: string | undefined;
  clientVersion: string | undefined;
  handshakeVersion: string | undefined;
  mode: 'basic' | 'mux' | undefined;
  readonly flags: number[] = [];
  readonly closeCodes: number[] = [];
  readonly violations: string[] = [];
  readonly counters: SessionCounters = {
    ...{ connections: 0, resumes: 0, messages: 0, bytes: 0, duplicates: 0, acks: 0, pings: 0 },
    ...{ largestPayload: 0, sentMessages: 0, sentBytes: 0, resent: 0, sentAcks: 0 },
    ...{ dials: 0, failedDials: 0 },
  };

  readonly #service: Service;
  readonly #agent: Agent;
  readonly #inspector: Inspector;
  readonly #requestIds = new Set<string>();
  readonly #timers = new Set<NodeJS.Timeout>();
  #tokens: Token[] = [];
  #link: Link | undefined;
  #held: Buffer[] = [];
  #isAgentConnected = true;
  #isReading = true;
  #lastInputAt: number;
  readonly #ticker: NodeJS.Timeout;
  #bucketAt = 0;
  #bucketCount = 0;
  #hotBuckets = 0;

  constructor(service: Service, node: NodeOptions, request: SessionRequest) {
    this.#service = service;
    this.id = `emulator-${randomUUID().slice(0, 8)}-${randomBytes(9).toString('hex').slice(0, 17)}`;
    this.target = request.target;
    this.documentName = request.documentName;
    this.parameters = request.parameters;
    this.reason = request.reason;
    this.startedAt = Date.now();
    this.#lastInputAt = performance.now();
    this.#inspector = new Inspector({
      now: () => performance.now(),
      ackDeadlineMs: service.settings.ackDeadlineMs,
      gapDeadlineMs: service.settings.gapDeadlineMs,
      violation: (text, isFatal) => {
        this.violation(text);
        if (isFatal) this.#link?.close(1008, 'protocol violation');
      },
    });
    const { version, tuning } = service.agentOf(node);
    this.#agent = new Agent(node, version, tuning, {
      sessionId: this.id,
      properties: request.properties,
      counters: this.counters,
      send: (frame) => {
        this.#toClient(frame);
      },
      isWriteBlocked: () => this.#link?.isBlocked === true,
      setReading: (isReading) => {
        this.#isReading = isReading;
        this.#link?.setReading(isReading);
      },
      handshaken: (version) => {
        this.handshakeVersion = version;
        service.changed();
      },
      opened: (mode) => {
        this.mode = mode;
        service.changed();
      },
      flagReceived: (value) => {
        this.flags.push(value);
        service.changed();
      },
      violation: (text) => {
        this.violation(text);
      },
      ended: (cause, output) => {
        this.#over(cause, output);
      },
      crashed: () => {
        this.#crashed(tuning.crashReportMs);
      },
    });
    this.#ticker = setInterval(() => {
      this.#tick();
    }, 100);
    const { maxDurationMs } = service.settings;
    if (maxDurationMs > 0) {
      this.#later(maxDurationMs, () => {
        this.end('max-duration', 'Session reached its maximum duration');
      });
    }
    if (service.settings.agentStart === 'start-session') this.#agent.start();
  }

  get state(): 'open' | 'ended' {
    return this.endedBy === undefined ? 'open' : 'ended';
  }

  get isConnected(): boolean {
    return this.#link?.isOpen === true;
  }

  get handshakeDone(): boolean {
    return this.mode !== undefined;
  }

  get unacked(): number {
    return this.#agent.unacked;
  }

  newToken(): string {
    const value = `AAEAA${randomBytes(96).toString('base64')}`;
    const expiresAt = this.#service.clock.now() + this.#service.settings.tokenLifetimeMs;
    this.#tokens.push({ value, expiresAt });
    return value;
  }

  resumed(): void {
    this.counters.resumes += 1;
    this.#lastInputAt = performance.now();
  }

  /** The first text frame. A text says why it is refused. */
  admit(text: string): string | undefined {
    const input = parseOpen(text);
    if (input === undefined) return this.#refuse('first frame is no OpenDataChannelInput');
    if (this.#requestIds.has(input.requestId)) return this.#refuse('RequestId used twice');
    this.#requestIds.add(input.requestId);
    if (this.clientId !== undefined && this.clientId !== input.clientId) {
      return this.#refuse('ClientId changed on reconnect');
    }
    const token = this.#tokens.find((known) => known.value === input.token);
    if (token === undefined) return this.#refuse('token unknown or used before');
    this.#tokens = this.#tokens.filter((known) => known !== token);
    if (token.expiresAt <= this.#service.clock.now()) return 'token expired';
    this.clientId = input.clientId;
    this.clientVersion = input.clientVersion;
    return this.#service.acceptsVersion(input.clientVersion)
      ? undefined
      : 'client version no longer supported';
  }

  /** A socket with a good token; it takes the place of an older one. */
  attach(link: Link): void {
    const previous = this.#link;
    this.#link = link;
    previous?.terminate();
    this.counters.connections += 1;
    this.#inspector.reconnected();
    link.setReading(this.#isReading);
    if (this.#service.settings.startPublication && this.#isAgentConnected) {
      link.sendRaw(this.#publicationFrame('start'));
    }
    link.begin();
    for (const frame of this.#held) link.send(frame);
    this.#held = [];
    this.#agent.start();
    this.#agent.publication('start');
    this.#agent.writable();
    this.#service.changed();
  }

  /** A binary frame of the client's; false when it goes no further. */
  inspect(frame: Buffer): boolean {
    const seen = this.#inspector.check(frame);
    if (seen === undefined) return false;
    const { message, kind } = seen;
    if (kind === 'ack') {
      this.counters.acks += 1;
    } else {
      this.#lastInputAt = performance.now();
      if (kind === 'resend') this.counters.duplicates += 1;
      else {
        this.counters.messages += 1;
        this.counters.bytes += message.payload.length;
      }
      const size = message.payload.length;
      this.counters.largestPayload = Math.max(this.counters.largestPayload, size);
      const limit = this.#service.settings.maxPayloadBytes;
      if (limit > 0 && size > limit) {
        this.#link?.close(1009, 'message too big');
        return false;
      }
      this.#countRate();
    }
    this.#service.changed();
    return true;
  }

  fromClient(frame: Buffer): void {
    if (this.#isAgentConnected) this.#agent.receive(frame);
  }

  left(frame: Buffer, isIntact: boolean): void {
    if (codec.typeName(frame) === 'output_stream_data') this.#inspector.sent(frame, isIntact);
  }

  writable(): void {
    this.#agent.writable();
  }

  detached(link: Link, code: number): void {
    this.closeCodes.push(code);
    if (this.#link === link) {
      this.#link = undefined;
      this.#agent.publication('pause');
    }
    this.#service.changed();
  }

  faultsChanged(): void {
    this.#link?.refresh();
  }

  violation(text: string): void {
    if (this.violations.length < 100) this.violations.push(text);
    this.#service.log(`${this.id}: violation: ${text}`);
    this.#service.changed();
  }

  closeSocket(code?: number, reason?: string): void {
    this.#link?.close(code, reason);
  }

  resetSocket(): void {
    this.#link?.reset();
  }

  blackholeSocket(): void {
    this.#link?.blackhole();
  }

  inject(frame: Uint8Array | string): void {
    this.#link?.sendRaw(frame);
  }

  sendFlag(value: number): void {
    this.#agent.send(codec.payloadTypes.flag, codec.uint32(value));
  }

  publication(kind: 'pause' | 'start'): void {
    this.#link?.sendRaw(this.#publicationFrame(kind));
  }

  setAgentConnected(isConnected: boolean): void {
    this.#isAgentConnected = isConnected;
    this.publication(isConnected ? 'start' : 'pause');
    this.#agent.setConnected(isConnected);
  }

  crashAgent(): void {
    this.#agent.crash();
  }

  end(cause: EndCause, output = ''): void {
    if (this.state === 'ended') return;
    this.#agent.cancel();
    this.#over(cause, output);
  }

  /** The emulator closes: no farewell. */
  dispose(): void {
    this.#agent.cancel();
    clearInterval(this.#ticker);
    for (const timer of this.#timers) clearTimeout(timer);
    this.#timers.clear();
    this.#link?.terminate();
    if (this.state === 'open') this.#markEnded('emulator', '');
  }

  #toClient(frame: Buffer): void {
    const link = this.#link;
    if (link !== undefined) link.send(frame);
    else if (this.counters.connections === 0 && this.#held.length < HELD_FRAMES) {
      this.#held.push(frame);
    }
  }

  #crashed(reportMs: number): void {
    this.#isAgentConnected = false;
    this.publication('pause');
    this.#later(reportMs, () => {
      this.#over(
        'agent-crash',
        '----------ERROR-------\ndocument process failed unexpectedly: document worker timed out',
      );
    });
  }

  /** channel_closed to the client, then the end of its socket. */
  #over(cause: EndCause, output: string): void {
    if (this.state === 'ended') return;
    this.#markEnded(cause, output);
    clearInterval(this.#ticker);
    for (const timer of this.#timers) clearTimeout(timer);
    this.#timers.clear();
    const link = this.#link;
    if (link === undefined) return;
    link.setReading(true);
    link.send(this.#channelClosedFrame(output));
    this.#later(1000, () => {
      link.close(1000);
    });
  }

  #markEnded(cause: EndCause, output: string): void {
    this.endedBy = cause;
    this.output = output;
    this.endedAt = Date.now();
    this.#service.log(`${this.id}: ended (${cause})${output === '' ? '' : `: ${output}`}`);
    this.#service.changed();
  }

  #channelClosedFrame(output: string): Buffer {
    const content = {
      MessageType: 'channel_closed',
      MessageId: randomUUID(),
      DestinationId: this.clientId ?? '',
      SessionId: this.id,
      SchemaVersion: 1,
      CreatedDate: new Date().toISOString(),
      Output: output,
    };
    return codec.encode({
      type: 'channel_closed',
      headerLength: 112,
      padding: 'nul',
      payload: Buffer.from(JSON.stringify(content)),
    });
  }

  /** Empty payload, a digest of nothing, no date: what clients have to bear from the service. */
  #publicationFrame(kind: 'pause' | 'start'): Buffer {
    return codec.encode({
      type: `${kind}_publication`,
      headerLength: this.#service.random() < 0.5 ? 112 : 116,
      padding: this.#service.random() < 0.5 ? 'nul' : 'space',
      createdDate: 0,
      digest: Buffer.alloc(32),
      payload: Buffer.alloc(0),
    });
  }

  #refuse(text: string): string {
    this.violation(text);
    return text;
  }

  /** Two whole seconds in a row over the limit, without a stop of our reader to explain them. */
  #countRate(): void {
    const limit = this.#service.settings.messageRateLimit;
    if (limit === 0) return;
    const now = performance.now();
    if (now - this.#bucketAt >= 1000) {
      const isNext = now - this.#bucketAt < 2000;
      this.#hotBuckets = isNext && this.#bucketCount > limit ? this.#hotBuckets + 1 : 0;
      this.#bucketAt = now;
      this.#bucketCount = 0;
    }
    this.#bucketCount += 1;
    const isSteady = now - (this.#link?.readingSince ?? now) > 3000;
    if (this.#hotBuckets < 2 || !isSteady) return;
    this.#hotBuckets = 0;
    this.violation(`more than ${limit} stream messages a second for two seconds`);
    this.publication('pause');
    this.#link?.close(1008, 'rate');
  }

  #tick(): void {
    // A reader that we have stopped makes no deadline of the client's pass.
    this.#inspector.tick(this.isConnected && this.#isReading);
    const { idleTimeoutMs } = this.#service.settings;
    if (idleTimeoutMs > 0 && performance.now() - this.#lastInputAt > idleTimeoutMs) {
      this.end('idle-timeout', 'Session timed out due to inactivity');
    }
  }

  #later(delayMs: number, action: () => void): void {
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      action();
    }, delayMs);
    this.#timers.add(timer);
  }
}

interface OpenInput {
  readonly requestId: string;
  readonly token: string;
  readonly clientId: string;
  readonly clientVersion: string | undefined;
}

const UUID4 = /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;

function parseOpen(text: string): OpenInput | undefined {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch {
    return undefined;
  }
  if (typeof json !== 'object' || json === null) return undefined;
  const input: Readonly<Record<string, unknown>> = { ...json };
  const { MessageSchemaVersion, RequestId, TokenValue, ClientId, ClientVersion } = input;
  if (MessageSchemaVersion !== '1.0' || 'ClientInstanceId' in input) return undefined;
  if (typeof RequestId !== 'string' || !UUID4.test(RequestId)) return undefined;
  if (typeof ClientId !== 'string' || !UUID4.test(ClientId)) return undefined;
  if (typeof TokenValue !== 'string') return undefined;
  if (ClientVersion !== undefined && typeof ClientVersion !== 'string') return undefined;
  return {
    requestId: RequestId,
    token: TokenValue,
    clientId: ClientId,
    clientVersion: ClientVersion,
  };
}
