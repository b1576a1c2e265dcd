import { once } from 'node:events';
import { connect, createServer, type AddressInfo, type Server, type Socket } from 'node:net';
import { createHash, randomBytes } from 'node:crypto';
import { afterEach, describe, expect, it } from 'vitest';
import { BridgeError } from '../../src/errors.ts';
import { ForwardSession, type OpenChannel } from '../../src/forward/forward-session.ts';
import { listen, type Listener } from '../../src/forward/listener.ts';
import { silentLogger, type Logger } from '../../src/logger.ts';
import { systemClock, type Clock } from '../../src/transport/clock.ts';
import { memoryChannel, type MemoryChannel } from './memory-channel.ts';
import { ManualClock } from '../support/manual-clock.ts';
import { matching } from '../support/matching.ts';

const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

async function destination(onConnection: (socket: Socket) => void): Promise<Server> {
  const server = createServer({ allowHalfOpen: true }, onConnection);
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  cleanups.push(() => server.close());
  return server;
}

function portOf(server: Server): number {
  // It listens on TCP.
  return (server.address() as AddressInfo).port;
}

interface Bench {
  readonly session: ForwardSession;
  readonly channels: MemoryChannel[];
  readonly notices: string[];
  readonly listener: Listener;
  readonly connect: () => Socket;
}

async function bench(
  port: number,
  options: {
    info?: { mode: 'basic' };
    openChannel?: OpenChannel;
    clock?: Clock;
    logger?: Logger;
  } = {},
): Promise<Bench> {
  const channels: MemoryChannel[] = [];
  const notices: string[] = [];
  const session = new ForwardSession({
    destination: { host: 'db.internal', port: 5432 },
    node: 'i-0123456789abcdef0',
    clock: options.clock ?? systemClock,
    logger: options.logger ?? silentLogger,
    notice: (text) => notices.push(text),
    openChannel:
      options.openChannel ??
      ((source, consumer) => {
        const dial = async (): Promise<Socket> => {
          const socket = connect({ port, host: '127.0.0.1', allowHalfOpen: true });
          await once(socket, 'connect');
          return socket;
        };
        const channel = memoryChannel(source, consumer, { dial, ...options });
        channels.push(channel);
        return Promise.resolve(channel);
      }),
  });
  const listener = await listen({ host: undefined, port: 0 }, (socket) => {
    session.accept(socket);
  });
  cleanups.push(async () => {
    listener.close();
    await session.close();
    for (const channel of channels) expect(channel.violations).toEqual([]);
  });
  return {
    session,
    channels,
    notices,
    listener,
    connect: () => {
      const socket = connect({
        port: Number(listener.address.split(':').at(-1)),
        host: '127.0.0.1',
        allowHalfOpen: true,
      });
      cleanups.push(() => socket.destroy());
      return socket;
    },
  };
}

/** Everything that comes until the end, or the error that came instead. */
async function readAll(socket: Socket): Promise<Buffer | string> {
  const chunks: Buffer[] = [];
  socket.on('data', (chunk: Buffer) => chunks.push(chunk));
  return new Promise((resolve) => {
    socket.once('end', () => {
      resolve(Buffer.concat(chunks));
    });
    socket.once('error', (error: NodeJS.ErrnoException) => {
      resolve(error.code ?? error.message);
    });
  });
}

describe('a connection', () => {
  it('hears a destination that speaks first', async () => {
    const server = await destination((socket) => socket.end('220 ready\r\n'));
    const { connect: open } = await bench(portOf(server));
    expect(String(await readAll(open()))).toBe('220 ready\r\n');
  });

  it('carries bytes both ways unchanged', async () => {
    const bytes = randomBytes(3_000_000);
    const server = await destination((socket) => {
      let left = bytes.length;
      socket.on('data', (chunk) => {
        socket.write(chunk);
        left -= chunk.length;
        if (left === 0) socket.end();
      });
    });
    const { connect: open, channels } = await bench(portOf(server));
    const socket = open();
    socket.write(bytes);
    const echoed = await readAll(socket);
    expect(createHash('sha256').update(echoed).digest('hex')).toBe(
      createHash('sha256').update(bytes).digest('hex'),
    );
    expect(Math.max(...(channels[0]?.payloadSizes ?? []))).toBe(16_384);
  });

  it('still hears the answer after it has ended its own side', async () => {
    const server = await destination((socket) => {
      let request = '';
      socket.on('data', (chunk) => {
        request += String(chunk);
        if (request.endsWith('\n')) setImmediate(() => socket.end(`answer to ${request}`));
      });
    });
    const { connect: open } = await bench(portOf(server));
    const socket = open();
    socket.end('request\n');
    expect(String(await readAll(socket))).toBe('answer to request\n');
  });

  it('is reset, with one line about it, when the destination refuses', async () => {
    const server = await destination(() => undefined);
    const port = portOf(server);
    server.close();
    await once(server, 'close');
    const { connect: open, notices } = await bench(port);
    const socket = open();
    const local = `127.0.0.1:${await once(socket, 'connect').then(() => socket.localPort)}`;
    expect(await readAll(socket)).toBe('ECONNRESET');
    expect(notices).toEqual([
      `${local} -> db.internal:5432: i-0123456789abcdef0 could not connect to db.internal:5432`,
    ]);
  });

  it('that the program drops is closed at the destination', async () => {
    let isGone: (value: unknown) => void = () => undefined;
    const gone = new Promise((resolve) => {
      isGone = resolve;
    });
    const server = await destination((socket) => {
      socket.write('hello');
      socket.on('error', isGone);
      socket.on('end', isGone);
    });
    const { connect: open } = await bench(portOf(server));
    const socket = open();
    await once(socket, 'data');
    socket.resetAndDestroy();
    await gone;
  });

  it('does not hold up others when its program stops reading for a while', async () => {
    const server = await destination((socket) => {
      socket.on('error', () => undefined);
      socket.on('data', (chunk) => {
        if (String(chunk) === 'flood') socket.write(randomBytes(2_000_000));
        else socket.write(chunk);
      });
    });
    const { connect: open } = await bench(portOf(server));
    const slow = open();
    slow.write('flood');
    slow.pause();
    const other = open();
    other.write('ping');
    expect(String((await once(other, 'data'))[0])).toBe('ping');
  });

  it('whose destination has closed keeps the rest for a program that reads it much later', async () => {
    const size = 6 * 1024 * 1024;
    const server = await destination((socket) => {
      socket.on('error', () => undefined);
      socket.end(Buffer.alloc(size, 7));
    });
    const clock = new ManualClock();
    const over: object[] = [];
    const logger = { ...silentLogger, debug: (fields: object) => over.push(fields) };
    const { connect: open } = await bench(portOf(server), { clock, logger });
    const socket = open();
    socket.pause();
    await expect.poll(() => over, { timeout: 10_000 }).toEqual([{ end: 'closed', connections: 1 }]);
    clock.advance(60_000);
    expect((await readAll(socket.resume())).length).toBe(size);
  });

  it('that nobody reads pauses the channel before memory grows, and goes on afterwards', async () => {
    const size = 32 * 1024 * 1024;
    const server = await destination((socket) => {
      socket.on('error', () => undefined);
      socket.end(Buffer.alloc(size, 7));
    });
    const { connect: open, channels } = await bench(portOf(server));
    const socket = open();
    socket.pause();
    await expect.poll(() => channels[0]?.isPaused, { timeout: 10_000 }).toBe(true);
    const all = await readAll(socket.resume());
    expect(all.length).toBe(size);
    expect(channels[0]?.isPaused).toBe(false);
  });
});

describe('many connections', () => {
  it('share one session, each with its own bytes', async () => {
    const server = await destination((socket) => socket.on('error', () => undefined).pipe(socket));
    const { connect: open, channels } = await bench(portOf(server));
    const results = await Promise.all(
      Array.from({ length: 60 }, async (_, index) => {
        const bytes = randomBytes(1000 + index * 997);
        const socket = open();
        const chunks: Buffer[] = [];
        let received = 0;
        const whole = new Promise<Buffer>((resolve) => {
          socket.on('data', (chunk: Buffer) => {
            chunks.push(chunk);
            received += chunk.length;
            if (received === bytes.length) resolve(Buffer.concat(chunks));
          });
        });
        socket.write(bytes);
        const isSame = (await whole).equals(bytes);
        socket.end();
        return isSame;
      }),
    );
    expect(results.every(Boolean)).toBe(true);
    expect(channels).toHaveLength(1);
  });
});

describe('too many connections', () => {
  it('are reset, with one line each, and the others stay', async () => {
    const {
      connect: open,
      session,
      notices,
    } = await bench(1, {
      openChannel: (source, consumer) =>
        Promise.resolve(
          memoryChannel(source, consumer, { dial: () => new Promise(() => undefined) }),
        ),
    });
    await session.open();
    const sockets = Array.from({ length: 1001 }, () => open());
    const ends: (Buffer | string)[] = [];
    for (const socket of sockets) void readAll(socket).then((end) => ends.push(end));
    await expect.poll(() => ends.length, { timeout: 10_000 }).toBe(1);
    expect([ends, notices.length, session.connectionCount]).toEqual([['ECONNRESET'], 1, 1000]);
    expect(notices[0]).toMatch(/too many connections at once$/);
  });
});

describe('the session', () => {
  it('that the service ends while idle is opened again by the next connection', async () => {
    const server = await destination((socket) => socket.end('hi'));
    const { connect: open, channels, session, notices } = await bench(portOf(server));
    await session.open();
    channels[0]?.end({ kind: 'remote-closed', output: '', isIncomplete: false });
    expect(String(await readAll(open()))).toBe('hi');
    expect(channels).toHaveLength(2);
    expect(notices).toHaveLength(1);
    expect(notices[0]).toContain('the next connection opens a new one');
  });

  it('that is lost under a connection is lost for good', async () => {
    const server = await destination((socket) => socket.write('hi'));
    const { connect: open, channels, session } = await bench(portOf(server));
    const socket = open();
    await once(socket, 'data');
    channels[0]?.end({ kind: 'remote-closed', output: 'terminated by admin', isIncomplete: false });
    const error = await session.failed;
    expect([error.code, error.message]).toEqual([
      'remote.closed',
      'the session to db.internal:5432 was ended: terminated by admin',
    ]);
  });

  it('that sends broken frames is lost for good', async () => {
    const server = await destination((socket) => socket.write('hi'));
    const { channels, session } = await bench(portOf(server));
    await session.open();
    channels[0]?.inject(Buffer.from('not smux at all'));
    expect((await session.failed).code).toBe('protocol.malformed');
  });

  it('with an agent that does not multiplex is refused', async () => {
    const { session, channels } = await bench(1, { info: { mode: 'basic' } });
    await expect(session.open()).rejects.toMatchObject({ code: 'target.unsuitable' });
    expect(channels[0]?.isTerminated).toBe(true);
  });

  it('that cannot be opened fails the opening, and a connection with its reason', async () => {
    const failure = new BridgeError('target.not-connected', 'the node is not connected');
    const {
      session,
      connect: open,
      notices,
    } = await bench(1, {
      openChannel: () => Promise.reject(failure),
    });
    await expect(session.open()).rejects.toBe(failure);
    expect(await readAll(open())).toBe('ECONNRESET');
    expect(notices[0]).toMatch(/-> db\.internal:5432: the node is not connected$/);
  });

  it.each([
    ['lookup db.internal: no such host', /cannot reach db\.internal:5432: lookup .*no such host/],
    ['Forwarding to IP address 169.254.169.254 is forbidden.', /forbidden/],
  ])('that the agent refuses with "%s" says so', async (output, message) => {
    const { session } = await bench(1, {
      openChannel: (source, consumer) => {
        const channel = memoryChannel(source, consumer, {
          dial: () => Promise.reject(new Error()),
        });
        channel.end({ kind: 'remote-closed', output, isIncomplete: false });
        return Promise.resolve(channel);
      },
    });
    await expect(session.open()).rejects.toMatchObject({
      code: 'remote.unreachable',
      message: matching(message),
    });
  });

  it('is terminated, and its connections reset, when the forward closes', async () => {
    const server = await destination((socket) => socket.write('hi'));
    const { connect: open, channels, session } = await bench(portOf(server));
    const socket = open();
    await once(socket, 'data');
    const end = readAll(socket);
    await session.close();
    expect(await end).toBe('ECONNRESET');
    expect(channels[0]?.isTerminated).toBe(true);
    expect(session.connectionCount).toBe(0);
  });

  it('that is being opened when the forward closes is terminated at once', async () => {
    const { session, channels } = await bench(1);
    const opening = session.open();
    opening.catch(() => undefined); // Awaited below.
    // The channel is made and started, and its handshake is not over.
    while (channels.length === 0) await Promise.resolve();
    await Promise.resolve();
    const closing = session.close();
    expect(channels[0]?.isTerminated).toBe(true);
    await closing;
    await expect(opening).rejects.toThrow();
  });

  it('that opens after the forward has closed is terminated at once', async () => {
    let release: () => void = () => undefined;
    const gate = new Promise<void>((resolve) => {
      release = resolve;
    });
    const made: MemoryChannel[] = [];
    const { session } = await bench(1, {
      openChannel: async (source, consumer) => {
        await gate;
        const channel = memoryChannel(source, consumer, {
          dial: () => Promise.reject(new Error()),
        });
        made.push(channel);
        return channel;
      },
    });
    const opening = session.open();
    const closing = session.close();
    release();
    await closing;
    await expect(opening).rejects.toThrow();
    expect(made[0]?.isTerminated).toBe(true);
  });
});

describe('listening', () => {
  it('fails with local.io when the port is taken', async () => {
    const server = await destination(() => undefined);
    await expect(
      listen({ host: undefined, port: portOf(server) }, () => undefined),
    ).rejects.toMatchObject({
      code: 'local.io',
      message: matching(/the address is in use/),
    });
  });

  it('is on loopback unless told otherwise', async () => {
    const listener = await listen({ host: undefined, port: 0 }, () => undefined);
    cleanups.push(() => {
      listener.close();
    });
    expect(listener.address).toMatch(/^127\.0\.0\.1:\d+$/);
  });
});
