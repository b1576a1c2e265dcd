import { once } from 'node:events';
import { createServer, type IncomingMessage, type Server } from 'node:http';
import { createServer as createTcpServer, type AddressInfo, type Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { afterEach, describe, expect, it } from 'vitest';
import { WebSocketServer, type WebSocket } from 'ws';
import { classifyUpgradeFailure } from '../../src/aws/classify-upgrade.ts';
import { BridgeError } from '../../src/errors.ts';
import { makeDial, type Dial } from '../../src/transport/dial.ts';
import type { ChannelSocket, ChannelSocketEvents, SocketEnd } from '../../src/transport/socket.ts';
import { wsSocketOpener } from '../../src/transport/ws-socket.ts';
import { pattern } from './harness.ts';

const cleanups: (() => void)[] = [];
afterEach(() => {
  for (const cleanup of cleanups.splice(0).reverse()) cleanup();
});

/** What a socket tells, with a way to wait for it. */
class Recorder implements ChannelSocketEvents {
  readonly messages: Buffer[] = [];
  readonly texts: string[] = [];
  activity = 0;
  drains = 0;
  end: SocketEnd | undefined;
  ends = 0;
  readonly #checks = new Set<() => void>();

  onMessage(data: Uint8Array): void {
    this.messages.push(Buffer.from(data));
    this.#changed();
  }
  onText(text: string): void {
    this.texts.push(text);
    this.#changed();
  }
  onActivity(): void {
    this.activity += 1;
    this.#changed();
  }
  onDrain(): void {
    this.drains += 1;
    this.#changed();
  }
  onEnd(end: SocketEnd): void {
    this.end = end;
    this.ends += 1;
    this.#changed();
  }

  until(isTrue: () => boolean): Promise<void> {
    return new Promise((resolve) => {
      const check = (): void => {
        if (!isTrue()) return;
        this.#checks.delete(check);
        resolve();
      };
      this.#checks.add(check);
      check();
    });
  }

  #changed(): void {
    for (const check of [...this.#checks]) check();
  }
}

async function listen(server: Server | ReturnType<typeof createTcpServer>): Promise<string> {
  const open = new Set<Socket>();
  server.on('connection', (socket: Socket) => {
    open.add(socket);
    socket.on('error', () => undefined);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  cleanups.push(() => {
    for (const socket of open) socket.destroy();
    server.close();
  });
  // It listens on TCP.
  return `127.0.0.1:${(server.address() as AddressInfo).port}`;
}

interface Gateway {
  readonly host: string;
  readonly requests: IncomingMessage[];
  /** The peer of the next connection. */
  readonly peer: Promise<WebSocket>;
}

async function gateway(): Promise<Gateway> {
  const http = createServer();
  const webSockets = new WebSocketServer({ server: http, autoPong: true, perMessageDeflate: true });
  const requests: IncomingMessage[] = [];
  const peer = new Promise<WebSocket>((resolve) => {
    webSockets.on('connection', (webSocket, request) => {
      requests.push(request);
      webSocket.on('error', () => undefined);
      resolve(webSocket);
    });
  });
  return { host: await listen(http), requests, peer };
}

const noSignal = new AbortController().signal;

function open(
  host: string,
  recorder: Recorder,
  signal: AbortSignal = noSignal,
  dial: Dial = makeDial(),
): Promise<ChannelSocket> {
  const opener = wsSocketOpener({
    dial,
    ca: undefined,
    classifyRefusal: (statusCode, headers, peer) =>
      classifyUpgradeFailure({ statusCode, headers, host: peer }),
  });
  const request = {
    url: `ws://${host}/v1/data-channel/s?role=publish_subscribe&cell=a+b/=`,
    headers: { authorization: 'AWS4-HMAC-SHA256 x', 'x-amz-date': '20260101T000000Z' },
  };
  return opener(request, recorder, signal);
}

async function connected(): Promise<{
  socket: ChannelSocket;
  peer: WebSocket;
  recorder: Recorder;
}> {
  const service = await gateway();
  const recorder = new Recorder();
  const socket = await open(service.host, recorder);
  cleanups.push(() => {
    socket.destroy();
  });
  return { socket, peer: await service.peer, recorder };
}

async function refusal(promise: Promise<ChannelSocket>): Promise<BridgeError> {
  const error: unknown = await promise.then(
    () => new Error('it opened'),
    (reason: unknown) => reason,
  );
  if (error instanceof BridgeError) return error;
  throw error;
}

function answering(answer: (socket: Duplex, request: IncomingMessage) => void): Promise<string> {
  const server = createServer();
  server.on('upgrade', (request, socket) => {
    socket.on('error', () => undefined);
    answer(socket, request);
  });
  return listen(server);
}

describe('the upgrade', () => {
  it('asks for the URL as it is, with the signature, without extensions', async () => {
    const service = await gateway();
    const socket = await open(service.host, new Recorder());
    const [request] = service.requests;
    expect(request?.url).toBe('/v1/data-channel/s?role=publish_subscribe&cell=a+b/=');
    expect(request?.headers).toMatchObject({
      host: service.host,
      authorization: 'AWS4-HMAC-SHA256 x',
      'x-amz-date': '20260101T000000Z',
      'sec-websocket-version': '13',
    });
    const names = Object.keys(request?.headers ?? {});
    expect(names.filter((name) => /origin|cookie|extensions|protocol/.test(name))).toEqual([]);
    socket.destroy();
  });

  it('gives up a connection that broke before it', async () => {
    const service = await gateway();
    const broken: Dial = async (request, signal) => {
      const socket = await makeDial()(request, signal);
      socket.destroy();
      return socket;
    };
    const error = await refusal(open(service.host, new Recorder(), noSignal, broken));
    expect(error.code).toBe('network.unreachable');
  });

  it('fails as dialling fails', async () => {
    const wanted = new BridgeError('network.tls', 'no');
    const dial: Dial = () => Promise.reject(wanted);
    expect(await refusal(open('127.0.0.1:1', new Recorder(), noSignal, dial))).toBe(wanted);
  });

  it.each([
    [403, '', 'access.websocket'],
    [403, 'Content-Type: text/html\r\n', 'network.refused'],
    [407, 'Proxy-Authenticate: Basic\r\n', 'network.refused'],
    [200, 'Content-Type: text/html\r\n', 'network.refused'],
    [302, 'Location: http://portal.test/\r\n', 'network.refused'],
    [503, '', 'network.refused'],
  ])('refused with %i %s is %s', async (status, headers, code) => {
    const host = await answering((socket) => {
      socket.end(`HTTP/1.1 ${status} No\r\n${headers}Content-Length: 5\r\n\r\nhello`);
    });
    expect((await refusal(open(host, new Recorder()))).code).toBe(code);
  });

  it.each([
    ['garbage', 'SSH-2.0-OpenSSH_9.2\r\n'],
    ['a 101 without the right key', upgraded('wrong')],
    ['a 101 for something else', upgraded('wrong').replace('websocket', 'h2c')],
  ])('answered with %s names what may be in the way', async (_name, answer) => {
    const host = await listen(createTcpServer((socket) => socket.end(answer)));
    const error = await refusal(open(host, new Recorder()));
    expect([error.code, error.message]).toEqual([
      'network.refused',
      `${host} gave an invalid WebSocket upgrade response`,
    ]);
    expect(error.hint).toContain('proxy or firewall');
  });

  it('answered with a hang-up is a connection that was reset', async () => {
    const host = await answering((socket) => socket.destroy());
    const error = await refusal(open(host, new Recorder()));
    expect([error.code, error.message]).toEqual([
      'network.unreachable',
      `cannot connect to ${host}: connection reset (ECONNRESET)`,
    ]);
  });

  it('that is never answered ends when it is told to, and hangs up', async () => {
    const controller = new AbortController();
    let hungUp: Promise<unknown> = Promise.resolve();
    const host = await answering((socket) => {
      hungUp = once(socket.resume(), 'end');
      controller.abort();
    });
    const error = await refusal(open(host, new Recorder(), controller.signal));
    expect([error.code, error.message]).toEqual([
      'network.timeout',
      `${host} did not answer the WebSocket upgrade`,
    ]);
    await hungUp;
  });

  it('told to end with a reason ends with it', async () => {
    const controller = new AbortController();
    const reason = new BridgeError('session.lost', 'over');
    const host = await answering(() => {
      controller.abort(reason);
    });
    expect(await refusal(open(host, new Recorder(), controller.signal))).toBe(reason);
  });

  it('told to end before it began dials in vain', async () => {
    const service = await gateway();
    const controller = new AbortController();
    const lateDial: Dial = async (request, signal) => {
      const socket = await makeDial()(request, signal);
      controller.abort(new BridgeError('session.lost', 'over'));
      return socket;
    };
    const error = await refusal(open(service.host, new Recorder(), controller.signal, lateDial));
    expect([error.code, service.requests]).toEqual(['session.lost', []]);
  });

  it('with a header that HTTP cannot carry closes the connection', async () => {
    const service = await gateway();
    let dialled: Socket | undefined;
    const dial: Dial = async (request, signal) => (dialled = await makeDial()(request, signal));
    const opener = wsSocketOpener({
      dial,
      ca: undefined,
      classifyRefusal: () => new BridgeError('internal', 'unused'),
    });
    const request = { url: `ws://${service.host}/`, headers: { bad: 'a\nb' } };
    await expect(opener(request, new Recorder(), noSignal)).rejects.toThrow();
    expect(dialled?.destroyed).toBe(true);
  });
});

function upgraded(key: string): string {
  return `HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ${key}\r\n\r\n`;
}

describe('an open socket', () => {
  it('sends text, then batches of binary messages, in order', async () => {
    const { socket, peer } = await connected();
    const seen: string[] = [];
    const done = new Promise<void>((resolve) => {
      peer.on('message', (data: Buffer, isBinary) => {
        seen.push(`${isBinary ? 'binary' : 'text'} ${data.toString()}`);
        if (seen.length === 4) resolve();
      });
    });
    socket.sendText('{"first":1}');
    socket.sendBinary(Buffer.from('a'));
    socket.sendBinary(Buffer.from('b'));
    socket.flush();
    socket.sendBinary(Buffer.from('c'));
    await done;
    expect(seen).toEqual(['text {"first":1}', 'binary a', 'binary b', 'binary c']);
  });

  it('sends large messages whole while pings go between', async () => {
    const { socket, peer } = await connected();
    const sent = Array.from({ length: 40 }, (_, index) => pattern(50_000 + index, index));
    const got: Buffer[] = [];
    const done = new Promise<void>((resolve) => {
      peer.on('message', (data: Buffer) => {
        got.push(data);
        if (got.length === sent.length) resolve();
      });
    });
    for (const message of sent) {
      socket.sendBinary(message);
      socket.ping();
    }
    await done;
    expect(got.map((data, index) => data.equals(sent[index]!))).not.toContain(false);
  });

  it('says nothing before it is told to read', async () => {
    const service = await gateway();
    const recorder = new Recorder();
    const opening = open(service.host, recorder);
    const peer = await service.peer;
    const written = new Promise((resolve) => {
      peer.send('early', resolve);
    });
    const socket = await opening;
    await written;
    for (let count = 0; count < 20; count += 1) await new Promise((r) => setImmediate(r));
    expect([recorder.messages, recorder.texts]).toEqual([[], []]);
    socket.resume();
    await recorder.until(() => recorder.texts.length === 1);
    socket.destroy();
  });

  it('tells binary and text apart', async () => {
    const { socket, peer, recorder } = await connected();
    socket.resume();
    peer.send('text');
    peer.send(Buffer.from('binary'));
    await recorder.until(() => recorder.messages.length === 1);
    expect([recorder.texts, String(recorder.messages[0])]).toEqual([['text'], 'binary']);
  });

  it('answers pings and tells of pings and pongs', async () => {
    const { socket, peer, recorder } = await connected();
    socket.resume();
    const pong = once(peer, 'pong');
    peer.ping('are you there');
    expect(String((await pong)[0])).toBe('are you there');
    socket.ping();
    await recorder.until(() => recorder.activity === 2);
  });

  it('pings with the word AWS uses', async () => {
    const { socket, peer } = await connected();
    const ping = once(peer, 'ping');
    socket.ping();
    expect(String((await ping)[0])).toBe('keepalive');
  });

  it('stops reading, so that the peer has to wait, and loses nothing of it', async () => {
    const { socket, peer, recorder } = await connected();
    socket.resume();
    peer.send(Buffer.from('first'));
    await recorder.until(() => recorder.messages.length === 1);
    socket.pause();
    const chunk = pattern(64 * 1024);
    let isDone = false;
    const total = 400;
    for (let count = 0; count < total; count += 1) {
      peer.send(chunk, () => {
        if (count === total - 1) isDone = true;
      });
    }
    for (let count = 0; count < 200; count += 1) await new Promise((r) => setImmediate(r));
    expect(isDone).toBe(false);
    expect(peer.bufferedAmount).toBeGreaterThan(1024 * 1024);
    // At most what was already in the parser's hands.
    expect(recorder.messages.length).toBeLessThan(4);
    socket.resume();
    await recorder.until(() => recorder.messages.length === total + 1);
    expect(recorder.messages.slice(1).every((message) => message.equals(chunk))).toBe(true);
  });

  it('counts what the peer does not take, and tells when it has', async () => {
    const { socket, peer, recorder } = await connected();
    let got = 0;
    peer.on('message', (data: Buffer) => {
      got += data.length;
    });
    peer.pause();
    const chunk = pattern(64 * 1024);
    for (let count = 0; count < 200; count += 1) socket.sendBinary(chunk);
    expect(socket.bufferedBytes).toBeGreaterThan(1024 * 1024);
    peer.resume();
    await recorder.until(() => recorder.drains > 0);
    expect(socket.bufferedBytes).toBe(0);
    while (got < 200 * chunk.length) await once(peer, 'message');
  });
});

describe('the end of a socket', () => {
  it.each([
    [1000, 'Bye'],
    [1001, ''],
    [1008, 'no token'],
    [4000, 'own'],
  ])('is told with close code %i', async (code, reason) => {
    const { socket, peer, recorder } = await connected();
    socket.resume();
    peer.close(code, reason);
    await recorder.until(() => recorder.end !== undefined);
    expect(recorder.end).toEqual({ kind: 'closed', code, reason });
  });

  it('is told as 1006 when the peer only hangs up', async () => {
    const { socket, peer, recorder } = await connected();
    socket.resume();
    peer.terminate();
    await recorder.until(() => recorder.end !== undefined);
    expect(recorder.end).toMatchObject({ kind: 'closed', code: 1006 });
  });

  it('is told with all messages before it', async () => {
    const { socket, peer, recorder } = await connected();
    for (let count = 0; count < 100; count += 1) peer.send(Buffer.alloc(1000));
    peer.close(1000);
    socket.resume();
    await recorder.until(() => recorder.end !== undefined);
    expect(recorder.messages.length).toBe(100);
  });

  it('is an error when the peer sends a message above 4 MiB', async () => {
    const { socket, peer, recorder } = await connected();
    socket.resume();
    peer.send(Buffer.alloc(4 * 1024 * 1024 + 1));
    await recorder.until(() => recorder.end !== undefined);
    expect([recorder.messages, recorder.end]).toMatchObject([
      [],
      { kind: 'error', error: { code: 'network.unreachable' } },
    ]);
    expect(recorder.end?.kind === 'error' && recorder.end.error.message).toMatch(
      /^the connection to 127\.0\.0\.1:\d+ broke \(WS_ERR_UNSUPPORTED_MESSAGE_LENGTH\)$/,
    );
  });

  it('is an error when the peer sends what is no frame', async () => {
    const service = await gateway();
    const recorder = new Recorder();
    const socket = await open(service.host, recorder);
    await service.peer;
    socket.resume();
    service.requests[0]!.socket.write(Buffer.from('this is not a WebSocket frame'));
    await recorder.until(() => recorder.end !== undefined);
    expect(recorder.end?.kind).toBe('error');
    socket.destroy();
    for (let count = 0; count < 20; count += 1) await new Promise((r) => setImmediate(r));
    expect(recorder.ends).toBe(1);
  });

  it('is told once', async () => {
    const { socket, peer, recorder } = await connected();
    socket.resume();
    const closed = once(peer, 'close');
    peer.close(1000);
    await recorder.until(() => recorder.end !== undefined);
    socket.destroy();
    socket.close(1000);
    await closed;
    for (let count = 0; count < 20; count += 1) await new Promise((r) => setImmediate(r));
    expect(recorder.ends).toBe(1);
  });

  it('makes sending a thing that does nothing', async () => {
    const { socket, peer, recorder } = await connected();
    socket.resume();
    peer.terminate();
    await recorder.until(() => recorder.end !== undefined);
    socket.sendText('x');
    socket.sendBinary(Buffer.from('x'));
    socket.ping();
    socket.pause();
    socket.resume();
    expect(socket.bufferedBytes).toBe(0);
  });

  it('is asked for with a close frame that follows what was sent', async () => {
    const { socket, peer, recorder } = await connected();
    const seen: string[] = [];
    peer.on('message', (data: Buffer) => seen.push(data.toString()));
    const closed = once(peer, 'close') as Promise<[number, Buffer]>;
    socket.sendBinary(Buffer.from('last'));
    socket.close(1000);
    expect([(await closed)[0], seen]).toEqual([1000, ['last']]);
    // Although it was paused, it read the answer.
    await recorder.until(() => recorder.end !== undefined);
    expect(recorder.end).toMatchObject({ kind: 'closed', code: 1000 });
  });

  it('comes half a second later when the peer does not answer the close frame', async () => {
    const { socket, peer, recorder } = await connected();
    peer.pause();
    socket.close(1000);
    await recorder.until(() => recorder.end !== undefined);
    expect(recorder.end).toMatchObject({ kind: 'closed', code: 1006 });
  });
});
