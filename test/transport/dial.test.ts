import { getEventListeners, once } from 'node:events';
import { createServer, type AddressInfo, type Server, type Socket } from 'node:net';
import { createServer as createTlsServer } from 'node:tls';
import { afterEach, describe, expect, it } from 'vitest';
import { BridgeError } from '../../src/errors.ts';
import { AheadDialer } from '../../src/transport/ahead.ts';
import { makeDial, type DialRequest } from '../../src/transport/dial.ts';
import { certificates } from '../emulator/certs.ts';
import { expiredCertificate } from './bad-certificates.ts';

const servers: Server[] = [];
const sockets: Socket[] = [];
afterEach(() => {
  for (const socket of sockets.splice(0)) socket.destroy();
  for (const server of servers.splice(0)) server.close();
});

const never = new AbortController().signal;
const dial = makeDial();

async function listen(server: Server, host = '127.0.0.1'): Promise<number> {
  servers.push(server);
  server.on('connection', (socket: Socket) => {
    sockets.push(socket);
    socket.on('error', () => undefined);
  });
  server.listen(0, host);
  await once(server, 'listening');
  // It listens on TCP.
  return (server.address() as AddressInfo).port;
}

const plain = (onSocket: (socket: Socket) => void = () => undefined): Promise<number> =>
  listen(createServer(onSocket));

async function secure(onSocket: (socket: Socket) => void = () => undefined): Promise<number> {
  const { key, cert } = await certificates();
  const server = createTlsServer({ key, cert, ALPNProtocols: ['http/1.1'] }, onSocket);
  server.on('tlsClientError', () => undefined);
  return await listen(server);
}

async function to(port: number, changes: Partial<DialRequest> = {}): Promise<DialRequest> {
  const { ca } = await certificates();
  return { host: 'localhost', port, isSecure: true, ca: [ca], ...changes };
}

async function failure(promise: Promise<Socket>): Promise<BridgeError> {
  const error: unknown = await promise.then(
    (socket) => {
      socket.destroy();
      return new Error('it connected');
    },
    (reason: unknown) => reason,
  );
  if (error instanceof BridgeError) return error;
  throw error;
}

describe('over plain TCP', () => {
  it('connects', async () => {
    const port = await plain((socket) => socket.end('hello'));
    const socket = await dial(await to(port, { isSecure: false }), never);
    const [chunk] = (await once(socket, 'data')) as [Buffer];
    expect(chunk.toString()).toBe('hello');
    socket.destroy();
  });

  it('names a refused connection', async () => {
    const server = createServer();
    const port = await listen(server);
    server.close();
    await once(server, 'close');
    const error = await failure(
      dial(await to(port, { host: '127.0.0.1', isSecure: false }), never),
    );
    expect([error.code, error.message]).toEqual([
      'network.unreachable',
      `cannot connect to 127.0.0.1:${port}: connection refused (ECONNREFUSED)`,
    ]);
  });

  it('rejects with the reason of the abort, and destroys the socket', async () => {
    const controller = new AbortController();
    const reason = new BridgeError('network.timeout', 'enough');
    controller.abort(reason);
    const port = await plain();
    const waiting = dial(await to(port, { isSecure: false }), controller.signal);
    expect(await failure(waiting)).toBe(reason);
  });
});

it('an error of a connection that nobody uses yet is no uncaught one', async () => {
  const port = await plain();
  const socket = await dial(await to(port, { isSecure: false }), never);
  while (sockets.length === 0) await new Promise((resolve) => setImmediate(resolve));
  sockets[0]!.resetAndDestroy();
  if (!socket.closed) await new Promise((resolve) => socket.once('close', resolve));
  expect(socket.errored).toMatchObject({ code: 'ECONNRESET' });
});

describe('over TLS', () => {
  it('connects and verifies the name', async () => {
    const port = await secure((socket) => socket.end('hello'));
    const socket = await dial(await to(port), never);
    const [chunk] = (await once(socket, 'data')) as [Buffer];
    expect(chunk.toString()).toBe('hello');
    socket.destroy();
  });

  it('connects to an address and verifies it', async () => {
    const port = await secure();
    const socket = await dial(await to(port, { host: '127.0.0.1' }), never);
    expect(socket.destroyed).toBe(false);
    socket.destroy();
  });

  it('asks for HTTP/1.1', async () => {
    const port = await secure();
    const socket = await dial(await to(port), never);
    expect('alpnProtocol' in socket && socket.alpnProtocol).toBe('http/1.1');
    socket.destroy();
  });

  it('refuses a certificate that nobody it trusts has signed', async () => {
    const { ca, ...other } = await expiredCertificate().then(({ cert }) => ({ ca: cert }));
    const port = await secure();
    const error = await failure(dial(await to(port, { ca: [ca], ...other }), never));
    expect([error.code, error.message]).toEqual([
      'network.tls',
      expect.stringContaining('the certificate is not trusted'),
    ]);
    expect(error.hint).toContain('AWS_CA_BUNDLE');
  });

  // Only Linux has all of 127.0.0.0/8 without asking.
  it.runIf(process.platform === 'linux')('refuses a certificate for another address', async () => {
    const { key, cert } = await certificates();
    const port = await listen(createTlsServer({ key, cert }), '127.0.0.2');
    const error = await failure(dial(await to(port, { host: '127.0.0.2' }), never));
    expect(error.message).toContain('the certificate is for another host');
  });

  it('refuses a certificate that has expired', async () => {
    const { key, cert } = await expiredCertificate();
    const port = await listen(createTlsServer({ key, cert }));
    const error = await failure(dial(await to(port, { ca: [cert] }), never));
    expect([error.code, error.message]).toEqual([
      'network.tls',
      expect.stringContaining('the certificate is not valid now (CERT_HAS_EXPIRED)'),
    ]);
  });

  it('names a peer that does not speak TLS', async () => {
    const port = await plain((socket) => socket.end('HTTP/1.1 400 Bad Request\r\n\r\n'));
    expect((await failure(dial(await to(port), never))).code).toBe('network.tls');
  });

  it('names a peer that hangs up', async () => {
    const port = await plain((socket) => socket.destroy());
    const error = await failure(dial(await to(port), never));
    expect([error.code, error.message]).toEqual([
      'network.unreachable',
      `cannot connect to localhost:${port}: connection reset (ECONNRESET)`,
    ]);
  });

  it('stops waiting for a silent peer when it is told to, and hangs up', async () => {
    const controller = new AbortController();
    let hungUp: Promise<unknown> = Promise.resolve();
    const port = await plain((socket) => {
      hungUp = once(socket, 'close');
      socket.resume();
      controller.abort(new BridgeError('network.timeout', 'enough'));
    });
    const error = await failure(dial(await to(port), controller.signal));
    expect(error.message).toBe('enough');
    await hungUp;
  });

  it('says what took too long when the abort does not', async () => {
    const controller = new AbortController();
    const port = await plain(() => {
      controller.abort();
    });
    const error = await failure(dial(await to(port), controller.signal));
    expect([error.code, error.message]).toEqual([
      'network.timeout',
      `connecting to localhost:${port} took too long`,
    ]);
  });
});

it('leaves no listener on the signal', async () => {
  const { signal } = new AbortController();
  const socket = await dial(await to(await secure()), signal);
  expect(getEventListeners(signal, 'abort')).toEqual([]);
  socket.destroy();
});

describe('a connection begun ahead', () => {
  it('is the one that is used', async () => {
    let connections = 0;
    const port = await plain(() => (connections += 1));
    const ahead = new AheadDialer(dial);
    const request = await to(port, { isSecure: false });
    ahead.begin(request);
    ahead.begin(request);
    const socket = await ahead.dial(request, never);
    expect([socket.destroyed, connections]).toEqual([false, 1]);
    socket.destroy();
  });

  it('is used once', async () => {
    const port = await plain();
    const ahead = new AheadDialer(dial);
    const request = await to(port, { isSecure: false });
    ahead.begin(request);
    const [first, second] = [await ahead.dial(request, never), await ahead.dial(request, never)];
    expect(first).not.toBe(second);
    first.destroy();
    second.destroy();
  });

  it('that failed is made again', async () => {
    let attempts = 0;
    const port = await plain();
    const ahead = new AheadDialer((request, signal) => {
      attempts += 1;
      if (attempts === 1) return Promise.reject(new Error('not yet'));
      return dial(request, signal);
    });
    const request = await to(port, { isSecure: false });
    ahead.begin(request);
    const socket = await ahead.dial(request, never);
    expect(attempts).toBe(2);
    socket.destroy();
  });

  it('that broke meanwhile is made again', async () => {
    const port = await plain();
    const ahead = new AheadDialer(dial);
    const made: Socket[] = [];
    const noting = new AheadDialer(async (request, signal) => {
      const socket = await dial(request, signal);
      made.push(socket);
      return socket;
    });
    const request = await to(port, { isSecure: false });
    noting.begin(request);
    while (made.length === 0) await new Promise((resolve) => setImmediate(resolve));
    made[0]!.destroy();
    const socket = await noting.dial(request, never);
    expect(socket).toBe(made[1]);
    socket.destroy();
    ahead.close();
  });

  it('to another address is not used', async () => {
    const [one, other] = [await plain(), await plain()];
    const ahead = new AheadDialer(dial);
    ahead.begin(await to(one, { isSecure: false }));
    const socket = await ahead.dial(await to(other, { isSecure: false }), never);
    expect(socket.remotePort).toBe(other);
    socket.destroy();
    ahead.close();
  });

  it('that nobody takes is dropped', async () => {
    let hungUp: Promise<unknown> | undefined;
    const port = await plain((socket) => {
      hungUp = once(socket.resume(), 'close');
    });
    const ahead = new AheadDialer(dial);
    ahead.begin(await to(port, { isSecure: false }));
    while (hungUp === undefined) await new Promise((resolve) => setImmediate(resolve));
    ahead.close();
    await hungUp;
  });

  it('that hangs does not make its taker hang', async () => {
    const ahead = new AheadDialer(() => new Promise(() => undefined));
    const request = await to(1, { isSecure: false });
    ahead.begin(request);
    const controller = new AbortController();
    const waiting = ahead.dial(request, controller.signal);
    controller.abort(new BridgeError('network.timeout', 'enough'));
    expect((await failure(waiting)).message).toBe('enough');
  });

  it('is not begun after the end', async () => {
    let attempts = 0;
    const ahead = new AheadDialer(() => {
      attempts += 1;
      return new Promise(() => undefined);
    });
    ahead.close();
    ahead.begin(await to(1));
    expect(attempts).toBe(0);
  });
});
