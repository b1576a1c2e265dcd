import { randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { request } from 'node:https';
import { WebSocket } from 'ws';
import * as codec from './codec.ts';
import type { Emulator } from './types.ts';
import { canonicalRequest, sign } from './sigv4.ts';

/** A client that does as little as it can, for the emulator's own tests and as a yardstick. */

/** What it needs to know of an emulator, which may be another process. */
export type Place = Pick<Emulator, 'env' | 'endpoint' | 'caFile'>;

export interface Answer {
  readonly status: number;
  readonly body: Record<string, unknown>;
  readonly text: string;
}

export interface SignOptions {
  readonly service: string;
  readonly secret?: string;
  readonly accessKeyId?: string;
  readonly at?: number;
  readonly region?: string;
}

export function signedHeaders(
  emulator: Place,
  method: string,
  url: string,
  body: string,
  options: SignOptions,
  extra: Record<string, string> = {},
): Record<string, string> {
  const { host } = new URL(url);
  const target = url.slice(url.indexOf(host) + host.length);
  const amzDate = new Date(options.at ?? Date.now()).toISOString().replace(/[-:]|\.\d+/g, '');
  const region = options.region ?? emulator.env['AWS_REGION']!;
  const scope = `${amzDate.slice(0, 8)}/${region}/${options.service}/aws4_request`;
  const token = emulator.env['AWS_SESSION_TOKEN'];
  const headers: Record<string, string> = {
    ...extra,
    host,
    'x-amz-date': amzDate,
    ...(token === undefined ? {} : { 'x-amz-security-token': token }),
  };
  const signed = Object.keys(headers).sort();
  const canonical = canonicalRequest({ method, target, headers, body: Buffer.from(body) }, signed);
  const secret = options.secret ?? emulator.env['AWS_SECRET_ACCESS_KEY']!;
  const signature = sign(secret, scope, amzDate, canonical);
  const key = options.accessKeyId ?? emulator.env['AWS_ACCESS_KEY_ID']!;
  headers['authorization'] =
    `AWS4-HMAC-SHA256 Credential=${key}/${scope}, SignedHeaders=${signed.join(';')}, Signature=${signature}`;
  return headers;
}

export function callApi(
  emulator: Place,
  operation: string,
  input: object,
  options: Partial<SignOptions> & { prefix?: string; headers?: Record<string, string> } = {},
): Promise<Answer> {
  const body = JSON.stringify(input);
  const headers =
    options.headers ??
    signedHeaders(
      emulator,
      'POST',
      `${emulator.endpoint}/`,
      body,
      { service: 'ssm', ...options },
      {
        'content-type': 'application/x-amz-json-1.1',
        'x-amz-target': `${options.prefix ?? 'AmazonSSM'}.${operation}`,
      },
    );
  return new Promise((resolve, reject) => {
    const ca = readFileSync(emulator.caFile);
    const call = request(
      `${emulator.endpoint}/`,
      { method: 'POST', headers, ca, agent: false },
      (response) => {
        const chunks: Buffer[] = [];
        response.on('data', (chunk: Buffer) => chunks.push(chunk));
        response.on('error', reject);
        response.on('end', () => {
          const text = Buffer.concat(chunks).toString();
          resolve({ status: response.statusCode ?? 0, body: parse(text), text });
        });
      },
    );
    call.on('error', reject);
    call.end(body);
  });
}

export interface Grant {
  readonly sessionId: string;
  readonly token: string;
  readonly url: string;
}

export async function startSession(
  emulator: Place,
  input: Record<string, unknown> = {},
): Promise<Grant> {
  const answer = await callApi(emulator, 'StartSession', {
    Target: 'i-0123456789abcdef0',
    DocumentName: 'AWS-StartSSHSession',
    Parameters: { portNumber: ['22'] },
    ...input,
  });
  if (answer.status !== 200) throw new Error(`StartSession: ${answer.status} ${answer.text}`);
  return grantOf(answer);
}

export async function resumeSession(emulator: Place, sessionId: string): Promise<Grant> {
  return grantOf(await callApi(emulator, 'ResumeSession', { SessionId: sessionId }));
}

export interface ClientOptions {
  readonly clientId?: string;
  readonly requestId?: string;
  readonly handshake?: boolean;
  readonly acks?: boolean;
  /** ClientVersion of the handshake. */
  readonly version?: string;
  readonly headers?: Record<string, string>;
  readonly webSocketOptions?: object;
  /** What the handshake answers for every action. */
  readonly actionStatus?: number;
}

export class TestClient {
  readonly clientId: string;
  readonly frames: Buffer[] = [];
  readonly messages: codec.AgentMessage[] = [];
  /** Payload type 1, in order of the sequence, each once. */
  received: Buffer[] = [];
  receivedBytes = 0;
  closeCode: number | undefined;
  refusedWith: number | undefined;
  refusal = '';
  nextSeq = 0;
  readonly acked = new Set<number>();
  acks: boolean;
  readonly #emulator: Place;
  readonly #options: ClientOptions;
  readonly #early = new Map<number, codec.AgentMessage>();
  #expected = 0;
  webSocket!: WebSocket;

  constructor(emulator: Place, options: ClientOptions = {}) {
    this.#emulator = emulator;
    this.#options = options;
    this.acks = options.acks ?? true;
    this.clientId = options.clientId ?? randomUUID();
  }

  static async start(
    emulator: Place,
    options: ClientOptions = {},
    input: Record<string, unknown> = {},
  ): Promise<TestClient> {
    const client = new TestClient(emulator, options);
    await client.open(await startSession(emulator, input));
    return client;
  }

  /** Resolves once the upgrade is answered, refused or broken. */
  open(grant: Grant, tokenFrame = true): Promise<void> {
    const headers =
      this.#options.headers ??
      signedHeaders(this.#emulator, 'GET', grant.url, '', { service: 'ssmmessages' });
    const webSocket = new WebSocket(grant.url, {
      ca: readFileSync(this.#emulator.caFile),
      perMessageDeflate: false,
      headers,
      ...this.#options.webSocketOptions,
    });
    this.webSocket = webSocket;
    this.closeCode = undefined;
    webSocket.on('message', (data: Buffer, isBinary: boolean) => {
      if (this.webSocket === webSocket) this.#receive(data, isBinary);
    });
    webSocket.on('close', (code) => {
      if (this.webSocket === webSocket) this.closeCode = code;
    });
    return new Promise((resolve) => {
      webSocket.on('error', () => {
        resolve();
      });
      webSocket.on('unexpected-response', (_request, response) => {
        this.refusedWith = response.statusCode;
        response.on('data', (chunk: Buffer) => (this.refusal += chunk.toString()));
        response.on('end', () => {
          webSocket.terminate();
          resolve();
        });
      });
      webSocket.on('open', () => {
        if (tokenFrame) webSocket.send(this.tokenFrame(grant.token));
        resolve();
      });
    });
  }

  tokenFrame(token: string): string {
    return JSON.stringify({
      MessageSchemaVersion: '1.0',
      RequestId: this.#options.requestId ?? randomUUID(),
      TokenValue: token,
      ClientId: this.clientId,
      ClientVersion: '1.2.764.0',
    });
  }

  /** Sends one stream message and returns its frame. */
  send(payload: Uint8Array | string, payloadType: number = codec.payloadTypes.output): Buffer {
    const frame = codec.encode({
      type: 'input_stream_data',
      seq: this.nextSeq++,
      payloadType,
      payload: typeof payload === 'string' ? Buffer.from(payload) : payload,
    });
    this.webSocket.send(frame);
    return frame;
  }

  flag(value: number): Buffer {
    return this.send(codec.uint32(value), codec.payloadTypes.flag);
  }

  ack(message: codec.AgentMessage): void {
    this.webSocket.send(codec.encodeAck(message.type, message.messageId, message.seq));
  }

  has(predicate: (message: codec.AgentMessage) => boolean): boolean {
    return this.messages.some(predicate);
  }

  get text(): string {
    return Buffer.concat(this.received).toString('latin1');
  }

  get closedOutput(): string | undefined {
    const closed = this.messages.find((message) => message.type === 'channel_closed');
    if (closed === undefined) return undefined;
    return String(parse(closed.payload.toString())['Output']);
  }

  #receive(frame: Buffer, isBinary: boolean): void {
    this.frames.push(frame);
    const message = isBinary ? codec.decode(frame) : undefined;
    if (message === undefined) return;
    this.messages.push(message);
    if (message.type === 'acknowledge') {
      this.acked.add(
        Number(parse(message.payload.toString())['AcknowledgedMessageSequenceNumber']),
      );
    }
    if (message.type !== 'output_stream_data') return;
    if (!codec.sha256(message.payload).equals(message.digest)) return;
    if (this.acks) this.ack(message);
    this.#early.set(message.seq, message);
    for (let next = this.#early.get(this.#expected); next !== undefined;) {
      this.#early.delete(this.#expected++);
      this.#take(next);
      next = this.#early.get(this.#expected);
    }
  }

  #take(message: codec.AgentMessage): void {
    if (message.payloadType === codec.payloadTypes.output) {
      this.received.push(message.payload);
      this.receivedBytes += message.payload.length;
    }
    if (message.payloadType !== codec.payloadTypes.handshakeRequest) return;
    if (this.#options.handshake === false) return;
    const request = parse(message.payload.toString());
    // The emulator's own request: a list of objects with an ActionType.
    const actions = request['RequestedClientActions'] as { ActionType: string }[];
    const response = {
      ClientVersion: this.#options.version ?? '1.2.764.0',
      ProcessedClientActions: actions.map(({ ActionType }) => ({
        ActionType,
        ActionStatus: this.#options.actionStatus ?? (ActionType === 'SessionType' ? 1 : 3),
        ActionResult: null,
        Error: '',
      })),
      Errors: null,
    };
    this.send(JSON.stringify(response), codec.payloadTypes.handshakeResponse);
  }
}

function grantOf(answer: Answer): Grant {
  return {
    sessionId: String(answer.body['SessionId']),
    token: String(answer.body['TokenValue']),
    url: String(answer.body['StreamUrl']),
  };
}

function parse(text: string): Record<string, unknown> {
  try {
    const json: unknown = JSON.parse(text);
    return typeof json === 'object' && json !== null ? { ...json } : {};
  } catch {
    return {};
  }
}
