import * as codec from './codec.ts';
import { OutgoingBuffer } from './outgoing.ts';
import { isDenied, openPort, type PortPlugin } from './port.ts';
import type { AgentTuning, EndCause, NodeOptions, SessionCounters } from './types.ts';
import { atLeast, since } from './versions.ts';

/** What the agent's worker needs of the service and of the session it plays in. */
export interface AgentHost {
  readonly sessionId: string;
  readonly properties: Readonly<Record<string, string>>;
  readonly counters: SessionCounters;
  send(frame: Buffer): void;
  readonly isWriteBlocked: () => boolean;
  /** The agent's reader stops, or goes on: no message is taken from the socket meanwhile. */
  setReading(isReading: boolean): void;
  handshaken(clientVersion: string): void;
  opened(mode: 'basic' | 'mux'): void;
  flagReceived(value: number): void;
  violation(text: string): void;
  /** The task is complete; the service closes the channel. */
  ended(cause: EndCause, output: string): void;
  /** The worker process is gone, without a word. */
  crashed(): void;
}

type Phase = 'new' | 'handshake' | 'answered' | 'starting' | 'open' | 'draining' | 'over';
/** 'held': taken only when the destination has accepted it. */
type Outcome = 'accepted' | 'refused' | 'held';

const FAILURE = '----------ERROR-------\n';

/** One session worker of amazon-ssm-agent: numbering, acknowledgement, handshake, and the port plugin. */
export class Agent {
  readonly #host: AgentHost;
  readonly #node: NodeOptions;
  readonly #tuning: AgentTuning;
  readonly #version: string;
  readonly #outgoing: OutgoingBuffer;
  readonly #early = new Map<number, codec.AgentMessage>();
  readonly #timers = new Set<NodeJS.Timeout>();
  #inbox: Buffer[] = [];
  #isHeld = false;
  #phase: Phase = 'new';
  #expected = 0;
  #isPaused = false;
  #isConnected = true;
  #startedAt = 0;
  #clientVersion = '';
  #port: PortPlugin | undefined;
  #drained: (() => void) | undefined;

  constructor(node: NodeOptions, version: string, tuning: AgentTuning, host: AgentHost) {
    this.#node = node;
    this.#version = version;
    this.#tuning = tuning;
    this.#host = host;
    this.#outgoing = new OutgoingBuffer(tuning, {
      transmit: (frame, isResend) => {
        this.#transmit(frame, isResend);
      },
      isSilent: () => this.#isPaused || !this.#isConnected || host.isWriteBlocked(),
      empty: () => this.#drained?.(),
    });
  }

  get unacked(): number {
    return this.#outgoing.size;
  }

  start(): void {
    if (this.#phase !== 'new') return;
    this.#phase = 'handshake';
    this.#startedAt = performance.now();
    switch (this.#node.behaviour ?? 'port') {
      case 'silent':
        return;
      case 'no-port-plugin':
        this.#fail('agent-refused', 'Plugin with name Port is not supported by this agent');
        return;
      case 'shell':
        this.#phase = 'open';
        this.send(codec.payloadTypes.output, Buffer.from('\x1b[?1034hsh-4.2$ '));
        return;
      case 'port':
      case 'shell-handshake':
        this.#later(this.#tuning.handshakeRequestDelayMs, () => {
          this.#requestHandshake();
        });
    }
  }

  /** One message from the service; `frame` is kept as it is. */
  receive(frame: Buffer): void {
    if (this.#phase === 'over') return;
    this.#inbox.push(frame);
    if (!this.#isHeld) this.#work();
  }

  publication(kind: 'pause' | 'start'): void {
    this.#setPaused(kind === 'pause');
  }

  setConnected(isConnected: boolean): void {
    this.#isConnected = isConnected;
    // A reconnect of its own un-pauses the agent.
    if (isConnected) this.#setPaused(false);
    this.#port?.refresh();
  }

  /** The client's socket takes data again. */
  writable(): void {
    this.#port?.refresh();
  }

  /** channel_closed from the service: the plugin is cancelled with status Success. */
  cancel(): void {
    this.#close();
  }

  crash(): void {
    if (this.#phase === 'over') return;
    this.#close();
    this.#host.crashed();
  }

  /** Sends one stream message. */
  send(payloadType: number, payload: Uint8Array): void {
    if (this.#phase === 'over') return;
    const seq = this.#outgoing.nextSeq();
    const frame = codec.encode({
      type: 'output_stream_data',
      seq,
      flags: seq === 0 ? 1 : 0,
      payloadType,
      payload,
    });
    this.#host.counters.sentMessages += 1;
    this.#host.counters.sentBytes += payload.length;
    this.#outgoing.add(seq, frame);
    if (!this.#isPaused && this.#isConnected) this.#transmit(frame, false);
  }

  #requestHandshake(): void {
    const isPort = this.#node.behaviour !== 'shell-handshake';
    const actions: unknown[] = [
      {
        ActionType: 'SessionType',
        ActionParameters: {
          SessionType: isPort ? 'Port' : 'Standard_Stream',
          Properties: isPort ? this.#host.properties : null,
        },
      },
    ];
    if (this.#node.kms === true) {
      actions.push({
        ActionType: 'KMSEncryption',
        ActionParameters: {
          KMSKeyId:
            'arn:aws:kms:eu-central-1:123456789012:key/00000000-0000-4000-8000-000000000000',
          ...(atLeast(this.#version, since.kmsChallenge)
            ? { Challenge: Buffer.alloc(16, 7).toString('base64') }
            : {}),
        },
      });
    }
    const request = { AgentVersion: this.#version, RequestedClientActions: actions };
    this.send(codec.payloadTypes.handshakeRequest, Buffer.from(JSON.stringify(request)));
    for (let copy = 1; copy < this.#tuning.handshakeRequestCopies; copy++) {
      this.#outgoing.resendOldest();
    }
    const left = this.#tuning.handshakeTimeoutMs - (performance.now() - this.#startedAt);
    this.#later(Math.max(0, left), () => {
      if (this.#phase !== 'handshake') return;
      this.#fail(
        'handshake-failed',
        'Handshake timed out. Please ensure that you have the latest version of the session manager plugin.',
      );
    });
  }

  /** Takes messages until one has to wait for the destination. */
  #work(): void {
    let taken = 0;
    while (!this.#isHeld && taken < this.#inbox.length) this.#dispatch(this.#inbox[taken++]!);
    this.#inbox = taken === this.#inbox.length ? [] : this.#inbox.slice(taken);
  }

  #dispatch(frame: Buffer): void {
    const message = codec.decode(frame);
    if (message === undefined) return;
    switch (message.type) {
      case 'input_stream_data':
        this.#setPaused(false);
        this.#receiveStream(message);
        return;
      case 'acknowledge':
        this.#setPaused(false);
        this.#receiveAck(message);
        return;
      default: // the agent warns only
    }
  }

  #receiveAck(message: codec.AgentMessage): void {
    const match = /"AcknowledgedMessageSequenceNumber":\s*(\d+)/.exec(
      message.payload.toString('latin1'),
    );
    if (match !== null) this.#outgoing.acknowledge(Number(match[1]));
  }

  #receiveStream(message: codec.AgentMessage): void {
    if (message.seq > this.#expected) {
      if (this.#early.size < this.#tuning.incomingLimit || this.#early.has(message.seq)) {
        this.#early.set(message.seq, message);
        this.#ack(message);
      }
      return;
    }
    if (message.seq < this.#expected) {
      if (atLeast(this.#version, since.reacksDuplicates)) this.#ack(message);
      return;
    }
    const outcome = this.#process(message, (isAccepted) => {
      this.#release(message, isAccepted, true);
    });
    this.#settle(message, outcome, true);
  }

  #settle(message: codec.AgentMessage, outcome: Outcome, isToAck: boolean): void {
    if (outcome === 'held') {
      this.#isHeld = true;
      this.#host.setReading(false);
    } else if (outcome === 'accepted') {
      if (isToAck) this.#ack(message);
      this.#expected += 1;
      this.#drainEarly();
    }
  }

  /** The destination took what was held, or will never. */
  #release(message: codec.AgentMessage, isAccepted: boolean, isToAck: boolean): void {
    if (this.#phase !== 'open') return; // abandoned by #finish
    this.#isHeld = false;
    this.#settle(message, isAccepted ? 'accepted' : 'refused', isToAck);
    this.#work();
    this.#host.setReading(!this.#isHeld);
  }

  #drainEarly(): void {
    while (!this.#isHeld) {
      const message = this.#early.get(this.#expected);
      if (message === undefined) return;
      const outcome = this.#process(message, (isAccepted) => {
        if (isAccepted) this.#early.delete(message.seq);
        this.#release(message, isAccepted, false);
      });
      // As in the agent: an acknowledged message that is refused here stays, and nothing retries it.
      if (outcome === 'refused') return;
      if (outcome === 'accepted') this.#early.delete(message.seq);
      if (outcome === 'held') {
        this.#isHeld = true;
        this.#host.setReading(false);
        return;
      }
      this.#expected += 1;
    }
  }

  #process(message: codec.AgentMessage, done: (isAccepted: boolean) => void): Outcome {
    switch (this.#phase) {
      case 'new':
      case 'handshake':
      case 'answered':
        return this.#processBeforeOpen(message);
      case 'starting':
        // Newer agents leave it unacknowledged until the port is there; older ones lose it.
        if (message.payloadType === codec.payloadTypes.flag) return this.#flag(message);
        return atLeast(this.#version, since.holdsEarlyData) ? 'refused' : 'accepted';
      case 'open':
        if (message.payloadType === codec.payloadTypes.flag) return this.#flag(message);
        if (message.payloadType !== codec.payloadTypes.output) return 'accepted';
        if (message.payload.length === 0) return 'accepted';
        return this.#port?.write(message.payload, done) ?? 'accepted';
      case 'draining':
      case 'over':
        return 'refused';
    }
  }

  #processBeforeOpen(message: codec.AgentMessage): Outcome {
    if (message.payloadType === codec.payloadTypes.handshakeResponse) {
      return this.#processResponse(message);
    }
    if (message.payloadType === codec.payloadTypes.flag) return this.#flag(message);
    this.#host.violation(
      `stream message ${message.seq} (payload type ${message.payloadType}) before HandshakeComplete: acknowledged and thrown away`,
    );
    return 'accepted';
  }

  #processResponse(message: codec.AgentMessage): Outcome {
    const response = parseResponse(message.payload);
    if (response === undefined) {
      this.#host.violation('HandshakeResponse is not the JSON it should be');
      return 'refused';
    }
    this.#clientVersion = response.clientVersion;
    this.#host.handshaken(response.clientVersion);
    const failed = response.actions.find((action) => action.status !== 1);
    if (failed !== undefined) {
      // The ack goes out before the session ends.
      this.#later(0, () => {
        this.#fail(
          'handshake-failed',
          `${failed.type} failed on client with status ${failed.status} error: ${failed.error}`,
        );
      });
      return 'accepted';
    }
    this.#phase = 'answered';
    this.#later(this.#tuning.handshakeCompleteDelayMs, () => {
      if (this.#phase !== 'answered') return;
      this.#phase = 'starting';
      const nanoseconds = Math.round((performance.now() - this.#startedAt) * 1e6);
      const complete = `{"HandshakeTimeToComplete":${nanoseconds},"CustomerMessage":${JSON.stringify(this.#tuning.customerMessage)}}`;
      this.send(codec.payloadTypes.handshakeComplete, Buffer.from(complete));
      this.#startPlugin();
    });
    return 'accepted';
  }

  #startPlugin(): void {
    if (this.#phase !== 'starting') return;
    if (this.#node.behaviour === 'shell-handshake') {
      this.#phase = 'open';
      this.send(codec.payloadTypes.output, Buffer.from('\x1b[?1034hsh-4.2$ '));
      return;
    }
    const { portNumber, host } = this.#host.properties;
    if (portNumber === undefined || portNumber === '') {
      this.#fail('agent-refused', 'Port number is empty in session properties.');
      return;
    }
    if (host !== undefined && atLeast(this.#version, since.denyList) && isDenied(host)) {
      this.#fail('agent-refused', `Forwarding to IP address ${host} is forbidden.`);
      return;
    }
    void openPort({
      node: this.#node,
      version: this.#version,
      clientVersion: this.#clientVersion,
      tuning: this.#tuning,
      properties: this.#host.properties,
      counters: this.#host.counters,
      sendOutput: (chunk) => {
        this.send(codec.payloadTypes.output, chunk);
      },
      sendFlag: (value) => {
        this.send(codec.payloadTypes.flag, codec.uint32(value));
      },
      mayRead: () =>
        !this.#isPaused &&
        this.#isConnected &&
        this.#phase === 'open' &&
        !this.#host.isWriteBlocked(),
      opened: (mode, port) => {
        if (this.#phase !== 'starting') {
          port.close();
          return;
        }
        this.#phase = 'open';
        this.#port = port;
        this.#host.opened(mode);
        port.refresh();
      },
      finished: (cause, output) => {
        if (output === '') this.#finish(cause, '');
        else this.#fail(cause, output);
      },
      crashed: () => {
        this.crash();
      },
      violation: (text) => {
        this.#host.violation(text);
      },
    });
  }

  #flag(message: codec.AgentMessage): Outcome {
    const value = message.payload.length >= 4 ? message.payload.readUInt32BE(0) : -1;
    this.#host.flagReceived(value);
    if (value === 2) {
      if (!atLeast(this.#version, since.terminateFlag)) return 'accepted';
      // Acknowledged in practice: the worker ends only after this message is dealt with.
      this.#later(0, () => {
        this.#finish('terminate-flag', '');
      });
      return 'accepted';
    }
    if (value === 1 && atLeast(this.#version, since.disconnectFlag)) {
      return this.#port?.disconnect() ?? 'accepted';
    }
    return 'accepted';
  }

  #ack(message: codec.AgentMessage): void {
    this.#host.counters.sentAcks += 1;
    if (this.#isConnected) {
      this.#host.send(codec.encodeAck(message.type, message.messageId, message.seq));
    }
  }

  #transmit(frame: Buffer, isResend: boolean): void {
    if (isResend) this.#host.counters.resent += 1;
    this.#host.send(frame);
  }

  #setPaused(isPaused: boolean): void {
    if (this.#isPaused === isPaused) return;
    this.#isPaused = isPaused;
    if (isPaused) return;
    this.#outgoing.resumed();
    this.#port?.refresh();
  }

  /** Ends with an error text, as the agent reports a failed plugin. */
  #fail(cause: EndCause, text: string): void {
    this.#finish(cause, cause === 'terminate-flag' ? '' : `${FAILURE}${text}`);
  }

  /** The plugin is done: wait for the tail to be acknowledged, for at most the drain time. */
  #finish(cause: EndCause, output: string): void {
    if (this.#phase === 'draining' || this.#phase === 'over') return;
    this.#phase = 'draining';
    this.#port?.close();
    if (this.#isHeld) {
      // A write to the destination is abandoned; the reader goes on so that acks are heard.
      this.#isHeld = false;
      this.#host.setReading(true);
      this.#work();
    }
    const end = (): void => {
      if (this.#phase !== 'draining') return;
      this.#close();
      this.#host.ended(cause, output);
    };
    if (this.#outgoing.size === 0 || !atLeast(this.#version, since.drains)) {
      this.#later(0, end);
      return;
    }
    this.#drained = () => {
      this.#later(0, end);
    };
    this.#later(this.#tuning.drainMs, end);
  }

  #close(): void {
    this.#phase = 'over';
    for (const timer of this.#timers) clearTimeout(timer);
    this.#timers.clear();
    this.#port?.close();
    this.#outgoing.close();
    this.#inbox = [];
    this.#early.clear();
  }

  #later(delayMs: number, action: () => void): void {
    if (this.#phase === 'over') return;
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      action();
    }, delayMs);
    this.#timers.add(timer);
  }
}

interface Response {
  readonly clientVersion: string;
  readonly actions: readonly { type: string; status: number; error: string }[];
}

function parseResponse(payload: Buffer): Response | undefined {
  let json: unknown;
  try {
    json = JSON.parse(payload.toString());
  } catch {
    return undefined;
  }
  if (typeof json !== 'object' || json === null || Array.isArray(json)) return undefined;
  const fields: Readonly<Record<string, unknown>> = { ...json };
  const version = fields['ClientVersion'];
  const listed = fields['ProcessedClientActions'];
  const actions = (Array.isArray(listed) ? listed : []).map((item: unknown) => {
    const action: Readonly<Record<string, unknown>> =
      typeof item === 'object' && item !== null ? { ...item } : {};
    return {
      type: String(action['ActionType']),
      status: Number(action['ActionStatus']),
      error: typeof action['Error'] === 'string' ? action['Error'] : '',
    };
  });
  return { clientVersion: typeof version === 'string' ? version : '', actions };
}
