import { once } from 'node:events';
import { connect, createServer, type AddressInfo, type Server, type Socket } from 'node:net';
import { afterEach, describe, expect, it } from 'vitest';
import { dialTcpThrough, parseProxy } from '../../src/transport/proxy.ts';
import { readExactly } from '../../src/transport/read-exactly.ts';
import { matching } from '../support/matching.ts';

const servers: Server[] = [];
const sockets: Socket[] = [];
afterEach(() => {
  for (const socket of sockets.splice(0)) socket.destroy();
  for (const server of servers.splice(0)) server.close();
});

async function serve(onConnection: (socket: Socket) => void): Promise<number> {
  const server = createServer((socket) => {
    sockets.push(socket);
    socket.on('error', () => undefined);
    onConnection(socket);
  });
  servers.push(server);
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  // It listens on TCP.
  return (server.address() as AddressInfo).port;
}

const echo = (): Promise<number> => serve((socket) => socket.pipe(socket));

/** A SOCKS5 server that notes what it is asked and connects to `target` whatever that is. */
async function socksServer(
  target: number,
  options: { password?: string; reply?: number } = {},
): Promise<{ port: number; asked: Buffer[]; logins: string[] }> {
  const asked: Buffer[] = [];
  const logins: string[] = [];
  const talk = async (socket: Socket): Promise<void> => {
    const [, count = 0] = await readExactly(socket, 2);
    const methods = await readExactly(socket, count);
    const method = options.password === undefined ? 0 : methods.includes(2) ? 2 : 255;
    socket.write(Buffer.from([5, method]));
    if (method === 255) return;
    if (method === 2) {
      const [, userLength = 0] = await readExactly(socket, 2);
      const user = await readExactly(socket, userLength);
      const [passwordLength = 0] = await readExactly(socket, 1);
      const password = String(await readExactly(socket, passwordLength));
      logins.push(`${String(user)}:${password}`);
      socket.write(Buffer.from([1, password === options.password ? 0 : 1]));
      if (password !== options.password) return;
    }
    const head = await readExactly(socket, 4);
    const length =
      head[3] === 1 ? 4 : head[3] === 4 ? 16 : ((await readExactly(socket, 1))[0] ?? 0);
    asked.push(Buffer.concat([head.subarray(3), await readExactly(socket, length + 2)]));
    if (options.reply !== undefined) {
      socket.write(Buffer.from([5, options.reply, 0, 1, 0, 0, 0, 0, 0, 0]));
      return;
    }
    const onward = connect(target, '127.0.0.1');
    sockets.push(onward);
    await once(onward, 'connect');
    socket.write(Buffer.from([5, 0, 0, 1, 127, 0, 0, 1, 0, 80]));
    socket.pipe(onward).pipe(socket);
  };
  const port = await serve((socket) => {
    talk(socket).catch(() => socket.destroy());
  });
  return { port, asked, logins };
}

async function httpProxy(
  answer: string,
  target?: number,
): Promise<{ port: number; asked: string[] }> {
  const asked: string[] = [];
  const port = await serve((socket) => {
    let head = '';
    const onData = (chunk: Buffer): void => {
      head += chunk.toString();
      if (!head.includes('\r\n\r\n')) return;
      socket.off('data', onData);
      asked.push(head);
      socket.write(answer);
      if (target !== undefined) socket.pipe(connect(target, '127.0.0.1')).pipe(socket);
    };
    socket.on('data', onData);
  });
  return { port, asked };
}

async function dial(
  proxy: string,
  host: string,
  port: number,
  env?: NodeJS.ProcessEnv,
): Promise<Socket> {
  const socket = await dialTcpThrough(parseProxy(proxy), env)(
    host,
    port,
    new AbortController().signal,
  );
  sockets.push(socket);
  return socket;
}

async function roundTrip(socket: Socket): Promise<string> {
  socket.write('ping');
  return String((await once(socket, 'data'))[0]);
}

describe('a SOCKS5 proxy', () => {
  it('is asked for the name, so that it resolves it', async () => {
    const { port, asked } = await socksServer(await echo());
    const socket = await dial(`socks5://127.0.0.1:${port}`, 'ssm.internal', 443);
    expect(await roundTrip(socket)).toBe('ping');
    expect(asked[0]).toEqual(
      Buffer.concat([Buffer.from([3]), Buffer.from('ssm.internal'), Buffer.from([1, 187])]),
    );
  });

  it.each([
    ['10.1.2.3', '010a010203 0016'],
    ['fd00:ec2::254', '04fd000ec2000000000000000000000254 0016'],
    ['::1', '0400000000000000000000000000000001 0016'],
    ['::ffff:1.2.3.4', '0400000000000000000000ffff01020304 0016'],
  ])('gets the address %s as it is', async (host, bytes) => {
    const { port, asked } = await socksServer(await echo());
    await dial(`socks5h://127.0.0.1:${port}`, host, 22);
    expect(asked[0]?.toString('hex')).toBe(bytes.replace(' ', ''));
  });

  it('gets the user and password of the URL', async () => {
    const { port, logins } = await socksServer(await echo(), { password: 'p@ss' });
    const socket = await dial(`socks5://me:p%40ss@127.0.0.1:${port}`, 'x', 1);
    expect(await roundTrip(socket)).toBe('ping');
    expect(logins).toEqual(['me:p@ss']);
  });

  it.each([
    ['a wrong password', 'socks5://me:wrong@127.0.0.1', /refused user or password/],
    ['no password', 'socks5://127.0.0.1', /wants another authentication/],
  ])('with %s is a named error without the password', async (_, url, message) => {
    const { port } = await socksServer(await echo(), { password: 'right' });
    const failure = dial(`${url}:${port}`, 'x', 1);
    await expect(failure).rejects.toMatchObject({
      code: 'network.refused',
      message: matching(message),
    });
    await expect(failure).rejects.not.toMatchObject({ message: matching(/wrong/) });
  });

  it.each([
    [1, /it failed/],
    [5, /the host refused the connection/],
    [99, /refused with code 99/],
  ])('that replies %i is network.unreachable with the reason', async (reply, message) => {
    const { port } = await socksServer(0, { reply });
    await expect(dial(`socks5://127.0.0.1:${port}`, 'ssm.internal', 443)).rejects.toMatchObject({
      code: 'network.unreachable',
      message: matching(message),
    });
  });

  it('that is something else is named as such', async () => {
    const port = await serve((socket) => socket.write('HTTP/1.1 400 Bad\r\n\r\n'));
    await expect(dial(`socks5://127.0.0.1:${port}`, 'x', 1)).rejects.toMatchObject({
      code: 'network.refused',
      message: matching(/does not speak SOCKS5/),
    });
  });

  it('that hangs up is network.unreachable', async () => {
    const port = await serve((socket) => socket.end());
    await expect(dial(`socks5://127.0.0.1:${port}`, 'x', 1)).rejects.toMatchObject({
      code: 'network.unreachable',
      message: matching(`proxy 127.0.0.1:${port}: `),
    });
  });

  it('that says nothing ends with the deadline of the caller', async () => {
    let isConnected: (value: unknown) => void = () => undefined;
    const connected = new Promise((resolve) => {
      isConnected = resolve;
    });
    const port = await serve(isConnected);
    const abort = new AbortController();
    const dialling = dialTcpThrough(parseProxy(`socks5://127.0.0.1:${port}`), undefined)(
      'x',
      1,
      abort.signal,
    );
    await connected;
    abort.abort(new Error('deadline'));
    await expect(dialling).rejects.toMatchObject({ name: 'BridgeError' });
  });
});

describe('an HTTP proxy', () => {
  it('is asked for a tunnel', async () => {
    const { port, asked } = await httpProxy('HTTP/1.1 200 OK\r\nVia: x\r\n\r\n', await echo());
    const socket = await dial(`http://me:secret@127.0.0.1:${port}`, 'ssm.internal', 443);
    expect(await roundTrip(socket)).toBe('ping');
    expect(asked).toEqual([
      'CONNECT ssm.internal:443 HTTP/1.1\r\nHost: ssm.internal:443\r\n' +
        'Proxy-Authorization: Basic bWU6c2VjcmV0\r\n\r\n',
    ]);
  });

  it.each([
    ['HTTP/1.1 407 Proxy Authentication Required\r\n\r\n', /it answered 407/],
    ['HTTP/1.1 403 Forbidden\r\n\r\n', /it answered 403/],
    ['SSH-2.0-x\r\n\r\n', /does not speak HTTP/],
  ])('that answers %j is network.refused', async (answer, message) => {
    const { port } = await httpProxy(answer);
    await expect(dial(`http://127.0.0.1:${port}`, 'x', 1)).rejects.toMatchObject({
      code: 'network.refused',
      message: matching(message),
    });
  });

  it('reached over TLS by its address is given no server name, of which Node would warn', async () => {
    const warnings: string[] = [];
    const onWarning = (warning: Error): void => void warnings.push(warning.message);
    process.on('warning', onWarning);
    const port = await serve((socket) => socket.end());
    await expect(dial(`https://127.0.0.1:${port}`, 'x', 1)).rejects.toMatchObject({
      name: 'BridgeError',
    });
    await new Promise((resolve) => setImmediate(resolve));
    process.off('warning', onWarning);
    expect(warnings).toEqual([]);
  });

  it('that never ends its answer is given up', async () => {
    const { port } = await httpProxy(`HTTP/1.1 200 OK\r\nX: ${'x'.repeat(20_000)}`);
    await expect(dial(`http://127.0.0.1:${port}`, 'x', 1)).rejects.toMatchObject({
      message: matching(/its answer is not HTTP/),
    });
  });
});

describe('exceptions of the environment', () => {
  it.each([
    ['localhost', '', true],
    ['ssm.internal', 'other,internal', true],
    ['ssm.internal', '.internal', true],
    ['ssm.internal', '*', true],
    ['ssm.internal', 'ssm.internal:443', false],
    ['xinternal', 'internal', false],
    ['ssm.internal', '', false],
  ])('%s with NO_PROXY=%s: direct is %s', async (host, noProxy, isDirect) => {
    const { port, asked } = await socksServer(await echo());
    const target = await echo();
    // A direct attempt at a name that does not resolve fails: which is what tells the two apart.
    const attempt = dial(`socks5://127.0.0.1:${port}`, host, target, { NO_PROXY: noProxy });
    await attempt.catch(() => undefined);
    expect(asked).toHaveLength(isDirect ? 0 : 1);
  });

  it('do not apply to --proxy', async () => {
    const { port, asked } = await socksServer(await echo());
    await dial(`socks5://127.0.0.1:${port}`, 'localhost', 443);
    expect(asked).toHaveLength(1);
  });
});

describe('a proxy URL', () => {
  it.each(['127.0.0.1:1080', 'ftp://x', 'socks4://x:1', ''])('%j is refused', (text) => {
    expect(() => parseProxy(text)).toThrow(/not a URL such as socks5/);
  });

  it('has the usual port of its kind', () => {
    expect(parseProxy('socks5://x').port).toBe(1080);
    expect(parseProxy('http://x').port).toBe(80);
    expect(parseProxy('http://u:100%@x').credentials).toEqual({ user: 'u', password: '100%' });
    expect(parseProxy('https://[::1]')).toMatchObject({ host: '::1', port: 443 });
  });
});
