/**
 * A data channel over sockets in memory, with the model agent at the other end and a service that does
 * as it is told. Time is a manual clock's.
 */
import type { ResumeGrant } from '../../src/aws/control-plane.ts';
import type { BridgeError } from '../../src/errors.ts';
import type { Logger } from '../../src/logger.ts';
import type { ChannelConsumer, ChannelEnd, ChannelInfo } from '../../src/transport/channel.ts';
import { DataChannel, type DataChannelOptions } from '../../src/transport/data-channel.ts';
import type { ChannelSocket, ChannelSocketEvents, SocketEnd } from '../../src/transport/socket.ts';
import { ManualClock } from '../support/manual-clock.ts';
import {
  AGENT_TICK_MS,
  MODERN_AGENT,
  ModelAgent,
  type AgentTraits,
} from '../support/model-agent.ts';
import { naiveDecode, naiveEncode, type NaiveMessage } from '../support/naive-codec.ts';

export const clientId = '6f0e4a52-5d2f-4a5e-9d0e-3b1f8b1d9a11';

/** One socket of the client, held by its peer. */
export class MemorySocket implements ChannelSocket {
  readonly texts: string[] = [];
  readonly messages: NaiveMessage[] = [];
  readonly frames: Uint8Array[] = [];
  pings = 0;
  isPaused = true;
  isDestroyed = false;
  closeCode: number | undefined;
  bufferedBytes = 0;
  /** Keeps what is written in `bufferedBytes` instead of passing it on. */
  isStuck = false;
  /** Nothing passes either way and nobody notices. */
  isBlackHole = false;
  answersPings = true;
  onFrame: (frame: Uint8Array) => void = () => undefined;
  readonly url: string;
  readonly events: ChannelSocketEvents;
  readonly #waiting: Uint8Array[] = [];
  readonly #gathered: Uint8Array[] = [];
  #turn: NodeJS.Immediate | undefined;

  constructor(url: string, events: ChannelSocketEvents) {
    this.url = url;
    this.events = events;
  }

  get isOver(): boolean {
    return this.isDestroyed || this.closeCode !== undefined;
  }

  sendText(text: string): void {
    this.texts.push(text);
  }

  /** Like the real one, it passes nothing on before the turn of the event loop ends. */
  sendBinary(message: Uint8Array): void {
    // Lent for the length of the call only.
    this.#gathered.push(new Uint8Array(message));
    this.bufferedBytes += message.length;
    this.#turn ??= setImmediate(() => {
      this.flush();
    });
  }

  flush(): void {
    clearImmediate(this.#turn);
    this.#turn = undefined;
    for (const frame of this.#gathered.splice(0)) {
      if (this.isStuck) continue;
      this.bufferedBytes -= frame.length;
      this.frames.push(frame);
      const decoded = naiveDecode(frame);
      if (decoded === undefined) throw new Error('the channel sent bytes that are no message');
      this.messages.push(decoded);
      if (!this.isBlackHole) this.onFrame(frame);
    }
  }

  ping(): void {
    this.pings += 1;
    if (this.answersPings && !this.isBlackHole && !this.isPaused) {
      queueMicrotask(() => {
        if (!this.isOver) this.events.onActivity();
      });
    }
  }

  pause(): void {
    this.isPaused = true;
  }

  resume(): void {
    this.isPaused = false;
    for (const frame of this.#waiting.splice(0)) this.deliver(frame);
  }

  close(code: number): void {
    this.flush();
    this.closeCode = code;
  }

  destroy(): void {
    this.#gathered.length = 0;
    this.isDestroyed = true;
  }

  /** From the peer. Messages wait while the client does not read. */
  deliver(frame: Uint8Array): void {
    if (this.isBlackHole || this.isOver) return;
    if (this.isPaused) this.#waiting.push(frame);
    else this.events.onMessage(frame);
  }

  end(end: SocketEnd = { kind: 'closed', code: 1000, reason: 'Bye' }): void {
    this.events.onEnd(end);
  }

  /** Everything buffered has left. */
  drain(): void {
    this.isStuck = false;
    this.bufferedBytes = 0;
    this.events.onDrain();
  }

  /** Types and sequence numbers, in the order they were sent. */
  streamMessages(): { seq: number; type: number | undefined }[] {
    return this.messages
      .filter((message) => message.messageType === 'input_stream_data')
      .map((message) => ({ seq: Number(message.seq), type: message.payloadType }));
  }

  acknowledged(): number[] {
    return this.messages
      .filter((message) => message.messageType === 'acknowledge')
      .map((message) => {
        const json = JSON.parse(new TextDecoder().decode(message.payload)) as Record<
          string,
          number
        >;
        return json['AcknowledgedMessageSequenceNumber'] ?? -1;
      });
  }
}

type Answer<T> = T | BridgeError | 'hang';

export interface HarnessOptions extends Partial<DataChannelOptions> {
  readonly traits?: Partial<AgentTraits>;
  /** The agent does not introduce itself. */
  readonly isSilent?: boolean;
  readonly messagesPerSecond?: number;
}

export class Harness {
  readonly clock = new ManualClock();
  readonly sockets: MemorySocket[] = [];
  readonly notices: string[] = [];
  readonly flags: number[] = [];
  readonly publications: boolean[] = [];
  readonly delivered: Uint8Array[] = [];
  readonly log: string[] = [];
  readonly terminateCalls: string[] = [];
  /** Answers to ResumeSession in order; then grants. */
  readonly resumeAnswers: Answer<ResumeGrant | undefined>[] = [];
  /** Fates of the next dials; then they succeed. */
  readonly dialAnswers: Answer<'up'>[] = [];
  /** What the agent does with the frames it is sent; undefined is the model agent. */
  onFrame: ((frame: Uint8Array) => void) | undefined;
  resumeCalls: number[] = [];
  signedUrls: string[] = [];
  info: ChannelInfo | undefined;
  end: ChannelEnd | undefined;
  isReleased = false;
  dials = 0;
  terminateAnswer: Answer<undefined> = undefined;
  readonly agent: ModelAgent;
  readonly channel: DataChannel;
  readonly #isSilent: boolean;
  readonly #toSend: Uint8Array[] = [];
  pulls = 0;

  constructor(options: HarnessOptions = {}) {
    const { traits, isSilent = false, messagesPerSecond = 950, ...overrides } = options;
    this.agent = new ModelAgent({ ...MODERN_AGENT, ...traits }, (frame) => {
      this.current?.deliver(frame);
    });
    this.#tick();
    this.#isSilent = isSilent;
    this.channel = new DataChannel(this.#options(messagesPerSecond, overrides));
    void this.channel.ended.then((end) => {
      this.end = end;
    });
    void this.channel.released.then(() => {
      this.isReleased = true;
    });
  }

  get current(): MemorySocket | undefined {
    const last = this.sockets.at(-1);
    return last === undefined || last.isOver ? undefined : last;
  }

  /** The newest socket; throws when it is over. */
  get socket(): MemorySocket {
    const { current } = this;
    if (current === undefined) throw new Error('no socket is connected');
    return current;
  }

  /** Until the handshake is complete. */
  async open(): Promise<this> {
    this.channel.start();
    await this.clock.pass(0);
    if (this.info === undefined) throw new Error('the channel did not open');
    return this;
  }

  async dial(url: string, events: ChannelSocketEvents): Promise<MemorySocket> {
    this.dials += 1;
    await answered(this.dialAnswers.shift() ?? 'up');
    const socket = new MemorySocket(url, events);
    socket.onFrame = (frame) => {
      if (this.onFrame === undefined) this.agent.receive(frame, this.clock.now());
      else this.onFrame(frame);
    };
    this.sockets.push(socket);
    if (this.sockets.length === 1 && !this.#isSilent) this.agent.start(this.clock.now());
    return socket;
  }

  send(bytes: Uint8Array | string): void {
    this.#toSend.push(typeof bytes === 'string' ? new TextEncoder().encode(bytes) : bytes);
    this.channel.sourceReady();
  }

  get unsentBytes(): number {
    return this.#toSend.reduce((sum, chunk) => sum + chunk.length, 0);
  }

  /** What the destination received so far. */
  received(): Buffer {
    this.#received.push(...this.agent.takeReceived());
    return Buffer.concat(this.#received);
  }
  readonly #received: Uint8Array[] = [];

  deliveredBytes(): Buffer {
    return Buffer.concat(this.delivered);
  }

  /** A message of the service's. */
  fromService(messageType: string, payload = ''): void {
    this.socket.deliver(naiveEncode({ messageType, payload, headerLength: 112, pad: '\0' }));
  }

  closeByService(output = ''): void {
    this.fromService('channel_closed', JSON.stringify({ Output: output }));
  }

  get failure(): BridgeError {
    if (this.end?.kind !== 'failed') throw new Error(`not failed but ${String(this.end?.kind)}`);
    return this.end.error;
  }

  #tick(): void {
    this.clock.setTimer(() => {
      if (this.current !== undefined) this.agent.tick(this.clock.now());
      this.#tick();
    }, AGENT_TICK_MS);
  }

  #options(messagesPerSecond: number, overrides: Partial<DataChannelOptions>): DataChannelOptions {
    let requests = 0;
    let grants = 0;
    const consumer: ChannelConsumer = {
      opened: (info) => {
        this.info = info;
      },
      deliver: (payload) => {
        this.delivered.push(payload);
      },
      flag: (value) => this.flags.push(value),
      publication: (isPaused) => this.publications.push(isPaused),
      notice: (text) => this.notices.push(text),
    };
    return {
      grant: {
        sessionId: 'session-1',
        tokenValue: 'token-0',
        streamUrl: 'wss://gateway.test/0?q=0',
      },
      session: {
        clientId,
        clientVersion: '1.2.764.0',
        maxPayloadBytes: 16_384,
        maxInFlightBytes: 4 * 1024 * 1024,
        maxInFlightMessages: 4000,
        messagesPerSecond,
        randomBytes: (size) => new Uint8Array(size).fill(7),
      },
      source: {
        pull: (maxBytes) => {
          this.pulls += 1;
          const [first] = this.#toSend;
          if (first === undefined) return undefined;
          if (first.length <= maxBytes) this.#toSend.shift();
          else this.#toSend[0] = first.subarray(maxBytes);
          return first.subarray(0, maxBytes);
        },
      },
      consumer,
      controlPlane: {
        signUpgrade: (url) => {
          this.signedUrls.push(url);
          return Promise.resolve({ authorization: 'secret-signature' });
        },
        resumeSession: () => {
          this.resumeCalls.push(this.clock.now());
          grants += 1;
          const fallback = {
            tokenValue: `token-${grants}`,
            streamUrl: `wss://gateway.test/${grants}`,
          };
          const answer = this.resumeAnswers.length === 0 ? fallback : this.resumeAnswers.shift();
          return answered(answer);
        },
        terminateSession: (sessionId) => {
          this.terminateCalls.push(sessionId);
          return answered(this.terminateAnswer);
        },
      },
      openSocket: (request, events) => this.dial(request.url, events),
      clock: this.clock,
      logger: this.#logger(),
      random: () => 0.5,
      newRequestId: () => `request-${(requests += 1)}`,
      openBy: this.clock.now() + 20_000,
      resumeTimeoutMs: 300_000,
      keepaliveMs: 30_000,
      ...overrides,
    };
  }

  #logger(): Logger {
    const write = (fields: Readonly<Record<string, unknown>>, text: string): void => {
      this.log.push(`${text} ${JSON.stringify(fields)}`);
    };
    return { trace: write, debug: write, info: write, warn: write };
  }
}

function answered<T>(answer: Answer<T>): Promise<T> {
  if (answer === 'hang') return new Promise(() => undefined);
  return answer instanceof Error ? Promise.reject(answer) : Promise.resolve(answer);
}

export function pattern(length: number, seed = 1): Uint8Array {
  const bytes = new Uint8Array(length);
  let state = seed;
  for (let index = 0; index < length; index += 1) {
    state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0;
    bytes[index] = state >>> 24;
  }
  return bytes;
}
