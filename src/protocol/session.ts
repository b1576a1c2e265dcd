/**
 * One session over any number of sockets: the handshake, the reliable stream in both directions,
 * and the end. Bytes, time and chance come in as arguments, a list of things to do comes out; there
 * is no I/O and nothing is ever waited for here.
 *
 * Guarantees: what is delivered is a prefix of what the agent sent, each byte once; what was taken
 * by `send` is remembered before it is transmitted and stays so until it is acknowledged; every
 * stream message that was accepted, and every duplicate, is acknowledged at once; memory is bounded
 * whatever the peer does. After `closed` or `failed` no method has any effect.
 */
import { BridgeError } from '../errors.ts';
import { isVersion } from './agent-version.ts';
import { Acknowledger } from './acknowledger.ts';
import { readU32, utf8Bytes, writeU32 } from './bytes.ts';
import { decodeMessage, isIntact } from './codec.ts';
import {
  EARLY_DATA_HOLD_MS,
  FLAG,
  MAX_CORRUPT_SOCKETS,
  MAX_TEXT_LENGTH,
  PAYLOAD_TYPE,
  TAIL_DOUBT_MS,
} from './constants.ts';
import { answerHandshake, SHELL_HINT, type OpenedSession } from './handshake.ts';
import type { StreamMessage } from './message.ts';
import type { Instant, Output } from './output.ts';
import {
  openDataChannelJson,
  parseAcknowledgedSeq,
  parseChannelClosedOutput,
  parseHandshakeRequest,
  shownName,
} from './payloads.ts';
import { ReceiveWindow, type ReceivedMessage } from './receive-window.ts';
import { Sender, type SenderOptions, type SendObstacle } from './sender.ts';
import { RandomMessageIds } from './uuid.ts';

export type { Instant, Output };

export interface SessionOptions extends SenderOptions {
  /** A UUID, the same for every socket of the session. */
  readonly clientId: string;
  /** Announced in the text frame and in the handshake; dotted numbers. */
  readonly clientVersion: string;
  /** Announce an old version in the handshake, so that LocalPortForwarding is one raw connection. */
  readonly forceBasicMode?: boolean;
  readonly randomBytes: (size: number) => Uint8Array;
}

export interface SocketGrant {
  readonly tokenValue: string;
  /** A fresh UUID for each socket. */
  readonly requestId: string;
}

export type Phase =
  'awaiting-request' | 'awaiting-complete' | 'open' | 'terminating' | 'closed' | 'failed';

type State =
  | { readonly phase: 'awaiting-request'; readonly terminateWhenOpen: boolean }
  | {
      readonly phase: 'awaiting-complete';
      readonly terminateWhenOpen: boolean;
      readonly opening: OpenedSession;
    }
  | { readonly phase: 'open'; readonly connection: Connection }
  | { readonly phase: 'terminating'; readonly flagSeq: number }
  | { readonly phase: 'closed' }
  | { readonly phase: 'failed' };

/** What is known of the agent's connection to the port. Client bytes are held until `holdUntil`. */
type Connection =
  | {
      readonly kind: 'unconfirmed';
      readonly holdUntil: number;
      readonly ignoresDuplicates: boolean;
    }
  | { readonly kind: 'connected' };

type Link =
  | { readonly kind: 'down' }
  | { readonly kind: 'up'; readonly isGood: boolean; readonly isCorrupt: boolean };

/** What a source has to wait for: time (pacing, a hold) or some input of another kind. */
type Obstacle = SendObstacle | 'hold';

const NO_HOLD = Number.NEGATIVE_INFINITY;
const LINK_DOWN: Link = { kind: 'down' };

export class Session {
  readonly #options: SessionOptions;
  readonly #sender: Sender;
  readonly #receiveWindow = new ReceiveWindow();
  readonly #acknowledger: Acknowledger;
  #state: State = { phase: 'awaiting-request', terminateWhenOpen: false };
  #link: Link = LINK_DOWN;
  /** What kept the last `sendCapacity` at 0, and what a source is known to wait for. */
  #blockedBy: Obstacle = 'nothing';
  #wait: Obstacle = 'nothing';
  #corruptSockets = 0;
  #resumedAt = Number.NEGATIVE_INFINITY;

  constructor(options: SessionOptions) {
    if (!isVersion(options.clientVersion)) {
      throw new BridgeError('internal', 'the client version must be dotted numbers');
    }
    this.#options = options;
    const ids = new RandomMessageIds(options.randomBytes);
    this.#sender = new Sender(options, ids);
    this.#acknowledger = new Acknowledger(ids);
  }

  get phase(): Phase {
    return this.#state.phase;
  }

  get unackedMessages(): number {
    return this.#sender.unackedMessages;
  }

  get unackedBytes(): number {
    return this.#sender.unackedBytes;
  }

  /** Stream messages that arrived before their turn, for logging. */
  get earlyMessages(): number {
    return this.#receiveWindow.earlyMessages;
  }

  /** The present resend delay, for logging. */
  get resendAfterMs(): number {
    return this.#sender.resendAfterMs;
  }

  /** A socket is connected: introduces itself, then sends again whatever is unacknowledged. */
  socketOpened(grant: SocketGrant, at: Instant): Output[] {
    if (this.#isOver) return [];
    if (this.#link.kind === 'up') this.socketLost(undefined, at);
    this.#link = { kind: 'up', isGood: false, isCorrupt: false };
    if (this.#state.phase === 'open') this.#resumedAt = at.now;
    const { clientId, clientVersion } = this.#options;
    const text = openDataChannelJson({ ...grant, clientId, clientVersion });
    const outputs: Output[] = [{ kind: 'transmit-text', text }];
    // An agent that was paused resumes when it hears anything, an old acknowledgement included.
    const { last } = this.#acknowledger;
    if (last !== undefined) outputs.push({ kind: 'transmit', frame: last });
    this.#sender.socketOpened();
    this.#pump(at, outputs);
    return outputs;
  }

  /** The socket is gone; whatever the code, the session is not. */
  // eslint-disable-next-line @typescript-eslint/no-unused-vars -- every input carries its instant
  socketLost(closeCode: number | undefined, _at: Instant): Output[] {
    if (this.#isOver || this.#link.kind === 'down') return [];
    this.#link = LINK_DOWN;
    this.#wait = 'nothing';
    if (this.#sender.socketLost(closeCode)) return [];
    return this.#fail(
      new BridgeError('session.lost', 'the service refuses a message of this size', {
        hint: 'try again with --payload-size 1024',
      }),
    );
  }

  /** One binary WebSocket message. */
  receive(message: Uint8Array, at: Instant): Output[] {
    if (this.#isOver) return [];
    if (this.#link.kind === 'down') return [ignored('message without a socket')];
    const decoded = decodeMessage(message);
    switch (decoded.kind) {
      case 'stream':
        return this.#receiveStream(decoded, at);
      case 'acknowledge':
        return isIntact(decoded)
          ? this.#receiveAcknowledge(parseAcknowledgedSeq(decoded.payload), at)
          : [ignored('acknowledgement with a wrong digest')];
      case 'channel-closed': {
        const incomplete = this.#receiveWindow.hasGap || this.#isTailInDoubt(at.now);
        this.#transition({ phase: 'closed' });
        return [{ kind: 'closed', output: parseChannelClosedOutput(decoded.payload), incomplete }];
      }
      case 'publication':
        return [{ kind: 'publication', paused: decoded.paused }];
      case 'other':
        return [ignored(`message of type ${shownName(decoded.messageType)}`)];
      case 'malformed':
        return [ignored(`malformed message: ${decoded.reason}`)];
    }
  }

  /** A text frame, which the service is not known to send: the same bytes in another wrapping. */
  receiveText(text: string, at: Instant): Output[] {
    if (text.length > MAX_TEXT_LENGTH) return this.#isOver ? [] : [ignored('oversize text frame')];
    return this.receive(utf8Bytes(text), at);
  }

  /** Most payload bytes that `send` takes now; 0 when not open, window full, paced or without socket. */
  sendCapacity(at: Instant): number {
    this.#blockedBy = this.#obstacle(at.now);
    return this.#blockedBy === 'nothing' ? this.#sender.roomBytes : 0;
  }

  /** Sends exactly one stream message. The bytes are copied. */
  send(payload: Uint8Array, at: Instant): Output[] {
    if (payload.length === 0 || payload.length > this.sendCapacity(at)) {
      throw new BridgeError('internal', 'more bytes were sent than the session takes');
    }
    this.#wait = 'nothing';
    const outputs: Output[] = [];
    this.#transmitStream(PAYLOAD_TYPE.output, payload, at, outputs);
    return outputs;
  }

  /**
   * channel_closed does not say how many messages there were. What was on its way when a socket was
   * lost comes again after the resume, unless the agent is gone by then or stopped waiting for us. An
   * end that we asked for is no reason for doubt.
   */
  #isTailInDoubt(now: number): boolean {
    return this.#state.phase === 'open' && now - this.#resumedAt < TAIL_DOUBT_MS;
  }

  /** Asks the agent to end the session; when it is not open yet, as soon as it is. */
  terminate(at: Instant): Output[] {
    const state = this.#state;
    switch (state.phase) {
      case 'awaiting-request':
      case 'awaiting-complete':
        this.#transition({ ...state, terminateWhenOpen: true });
        return [];
      case 'open': {
        const outputs: Output[] = [];
        this.#transmitTerminate(at, outputs);
        return outputs;
      }
      case 'terminating':
      case 'closed':
      case 'failed':
        return [];
    }
  }

  /** Does what is due by now; an extra call changes nothing. */
  wake(at: Instant): Output[] {
    const outputs: Output[] = [];
    if (this.#isOver || this.#link.kind === 'down') return outputs;
    const waitUntil = this.#waitUntil;
    if (waitUntil !== undefined && at.now >= waitUntil) this.#wait = 'nothing';
    this.#sender.expire(at.now);
    this.#pump(at, outputs);
    return outputs;
  }

  /** When `wake` is wanted, on the monotonic clock; undefined while nothing waits for time. */
  nextWakeAt(): number | undefined {
    if (this.#isOver || this.#link.kind === 'down') return undefined;
    const { dueAt } = this.#sender;
    const waitUntil = this.#waitUntil;
    if (dueAt === undefined || waitUntil === undefined) return dueAt ?? waitUntil;
    return Math.min(dueAt, waitUntil);
  }

  /**
   * The source had more when `sendCapacity` was last 0. If time alone changes that, `nextWakeAt`
   * includes the instant; if it takes an acknowledgement or a socket, that will be an input anyway.
   */
  noteSendBlocked(): void {
    this.#wait = this.#blockedBy;
  }

  get #isOver(): boolean {
    return this.#state.phase === 'closed' || this.#state.phase === 'failed';
  }

  get #waitUntil(): number | undefined {
    switch (this.#wait) {
      case 'nothing':
      case 'input':
        return undefined;
      case 'pacing':
        return this.#sender.paceAt;
      case 'hold':
        return this.#holdUntil;
    }
  }

  get #holdUntil(): number {
    const state = this.#state;
    return state.phase === 'open' && state.connection.kind === 'unconfirmed'
      ? state.connection.holdUntil
      : NO_HOLD;
  }

  #obstacle(now: number): Obstacle {
    if (this.#state.phase !== 'open') return 'input';
    const obstacle = this.#sender.obstacle(now);
    return obstacle !== 'input' && now < this.#holdUntil ? 'hold' : obstacle;
  }

  #transition(state: State): void {
    this.#state = state;
  }

  #fail(error: BridgeError): Output[] {
    this.#transition({ phase: 'failed' });
    return [{ kind: 'failed', error }];
  }

  #receiveStream(message: StreamMessage, at: Instant): Output[] {
    if (message.messageType !== 'output_stream_data') {
      return [ignored('stream message of the wrong direction')];
    }
    if (!isIntact(message)) return this.#receiveCorrupt();
    const placement = this.#receiveWindow.place(message);
    if (placement === 'refused') return [ignored('too many early messages')];
    this.#noteGoodSocket();
    const outputs: Output[] = [];
    // No call makes more than one acknowledgement, and its frame need only last for that call.
    const frame = this.#acknowledger.encode(message.frame, message.seq, at.wallNow);
    outputs.push({ kind: 'transmit', frame });
    if (placement !== 'next') return outputs;
    let next: ReceivedMessage | undefined = message;
    while (next !== undefined) {
      this.#process(next, at, outputs);
      next = this.#receiveWindow.takeNext();
    }
    return outputs;
  }

  /** Not acknowledged, so the agent sends it again; over another socket, since this one is bad. */
  #receiveCorrupt(): Output[] {
    if (this.#link.kind === 'down' || this.#link.isCorrupt) return [ignored('wrong digest')];
    this.#corruptSockets += 1;
    if (this.#corruptSockets >= MAX_CORRUPT_SOCKETS) {
      return this.#fail(
        new BridgeError('protocol.malformed', 'data from the agent keeps arriving damaged', {
          hint: 'check for a proxy that rewrites WebSocket messages',
        }),
      );
    }
    this.#link = { ...this.#link, isCorrupt: true };
    return [{ kind: 'reconnect', reason: 'stream data with a wrong digest' }];
  }

  #noteGoodSocket(): void {
    if (this.#link.kind === 'down' || this.#link.isGood) return;
    this.#link = { ...this.#link, isGood: true };
    this.#corruptSockets = 0;
  }

  #receiveAcknowledge(seq: number | undefined, at: Instant): Output[] {
    if (seq === undefined) return [ignored('acknowledgement without a sequence number')];
    if (!this.#sender.acknowledge(seq, at.now)) return [];
    const outputs: Output[] = [];
    if (this.#state.phase === 'terminating' && seq === this.#state.flagSeq) {
      outputs.push({ kind: 'terminated' });
    }
    this.#pump(at, outputs);
    return outputs;
  }

  /** One message of the agent's whose turn it is; it is acknowledged already. */
  #process(message: ReceivedMessage, at: Instant, outputs: Output[]): void {
    const state = this.#state;
    switch (state.phase) {
      case 'awaiting-request':
        this.#processBeforeRequest(message, state.terminateWhenOpen, at, outputs);
        return;
      case 'awaiting-complete':
        this.#processBeforeComplete(message, state, at, outputs);
        return;
      case 'open':
        if (message.payloadType === PAYLOAD_TYPE.output) this.#noteConnected(state);
        processData(message, outputs);
        return;
      case 'terminating':
        processData(message, outputs);
        return;
      case 'closed':
      case 'failed':
        return;
    }
  }

  /** Output means that the agent has reached the port and processes what it is sent. */
  #noteConnected(state: Extract<State, { phase: 'open' }>): void {
    if (state.connection.kind === 'connected') return;
    if (state.connection.ignoresDuplicates) this.#sender.presumeSilentArrival();
    this.#transition({ phase: 'open', connection: { kind: 'connected' } });
    if (this.#wait === 'hold') this.#wait = 'nothing';
  }

  #processBeforeRequest(
    message: ReceivedMessage,
    terminateWhenOpen: boolean,
    at: Instant,
    outputs: Output[],
  ): void {
    if (message.payloadType === PAYLOAD_TYPE.output) {
      const error = 'the agent sent output without a handshake, as for a shell session';
      outputs.push(
        ...this.#fail(new BridgeError('protocol.wrong-session', error, { hint: SHELL_HINT })),
      );
      return;
    }
    if (message.payloadType !== PAYLOAD_TYPE.handshakeRequest) {
      outputs.push(ignored(`payload type ${message.payloadType} before the handshake`));
      return;
    }
    const request = parseHandshakeRequest(message.payload);
    if (request === undefined) {
      const error = 'the handshake request of the agent could not be read';
      outputs.push(...this.#fail(new BridgeError('protocol.handshake', error)));
      return;
    }
    const { clientVersion, forceBasicMode = false } = this.#options;
    const { response, outcome } = answerHandshake(request, { clientVersion, forceBasicMode });
    this.#transmitStream(PAYLOAD_TYPE.handshakeResponse, response, at, outputs);
    if (outcome instanceof BridgeError) outputs.push(...this.#fail(outcome));
    else this.#transition({ phase: 'awaiting-complete', terminateWhenOpen, opening: outcome });
  }

  #processBeforeComplete(
    message: ReceivedMessage,
    state: Extract<State, { phase: 'awaiting-complete' }>,
    at: Instant,
    outputs: Output[],
  ): void {
    if (message.payloadType === PAYLOAD_TYPE.output) {
      const error = 'the agent sent data before it completed the handshake';
      outputs.push(...this.#fail(new BridgeError('protocol.handshake', error)));
      return;
    }
    if (message.payloadType !== PAYLOAD_TYPE.handshakeComplete) {
      outputs.push(ignored(`payload type ${message.payloadType} during the handshake`));
      return;
    }
    const { dropsEarlyData, ignoresDuplicates, ...opened } = state.opening;
    const holdUntil = dropsEarlyData ? at.now + EARLY_DATA_HOLD_MS : NO_HOLD;
    this.#transition({
      phase: 'open',
      connection: { kind: 'unconfirmed', holdUntil, ignoresDuplicates },
    });
    outputs.push({ kind: 'opened', ...opened });
    if (state.terminateWhenOpen) this.#transmitTerminate(at, outputs);
  }

  #transmitTerminate(at: Instant, outputs: Output[]): void {
    this.#transition({ phase: 'terminating', flagSeq: this.#sender.nextSeq });
    const payload = new Uint8Array(4);
    writeU32(payload, 0, FLAG.terminateSession);
    this.#transmitStream(PAYLOAD_TYPE.flag, payload, at, outputs);
  }

  #transmitStream(payloadType: number, payload: Uint8Array, at: Instant, outputs: Output[]): void {
    const frame = this.#sender.add(payloadType, payload, at);
    if (frame !== undefined) outputs.push({ kind: 'transmit', frame });
  }

  /** Sends again what is queued, as far as pacing allows. */
  #pump(at: Instant, outputs: Output[]): void {
    for (;;) {
      const frame = this.#sender.takeDue(at.now);
      if (frame === undefined) return;
      outputs.push({ kind: 'transmit', frame });
    }
  }
}

/** Bytes and flags of an open session; other payload types have no meaning in a Port session. */
function processData(message: ReceivedMessage, outputs: Output[]): void {
  const { payloadType, payload } = message;
  if (payloadType === PAYLOAD_TYPE.output) {
    if (payload.length > 0) outputs.push({ kind: 'deliver', payload });
  } else if (payloadType === PAYLOAD_TYPE.flag && payload.length >= 4) {
    outputs.push({ kind: 'flag', value: readU32(payload, 0) });
  } else {
    outputs.push(ignored(`payload type ${payloadType}`));
  }
}

function ignored(reason: string): Output {
  return { kind: 'ignored', reason };
}
