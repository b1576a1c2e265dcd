import { isIPv4, isIPv6, type Socket } from 'node:net';
import { BridgeError } from '../errors.ts';
import type { Proxy } from './proxy.ts';
import { readExactly } from './read-exactly.ts';

const version = 5;
const noAuthentication = 0;
const passwordAuthentication = 2;

/** Replies other than success (RFC 1928, section 6). */
const refusals: Readonly<Record<number, string>> = {
  1: 'it failed',
  2: 'its rules do not allow the connection',
  3: 'the network is unreachable from there',
  4: 'the host is unreachable from there',
  5: 'the host refused the connection',
  6: 'the attempt timed out',
};

/**
 * Asks a SOCKS5 server (RFC 1928), such as `ssh -D`, for a connection. Names are sent as they are: what
 * lies behind the proxy is often only resolvable there.
 */
export async function connectThroughSocks(
  socket: Socket,
  proxy: Proxy,
  host: string,
  port: number,
): Promise<Socket> {
  const { credentials } = proxy;
  const methods =
    credentials === undefined ? [noAuthentication] : [noAuthentication, passwordAuthentication];
  socket.write(Buffer.from([version, methods.length, ...methods]));
  const [answeredVersion, method] = await readExactly(socket, 2);
  if (answeredVersion !== version) {
    throw new BridgeError('network.refused', 'it does not speak SOCKS5', {
      hint: 'for an HTTP proxy write http://',
    });
  }
  if (method === passwordAuthentication && credentials !== undefined) {
    await authenticate(socket, credentials);
  } else if (method !== noAuthentication) {
    throw new BridgeError('network.refused', 'it wants another authentication', {
      hint: 'put user and password into the proxy URL',
    });
  }
  const ports = Buffer.alloc(2);
  ports.writeUInt16BE(port);
  socket.write(Buffer.concat([Buffer.from([version, 1, 0]), address(host), ports]));
  await readReply(socket, `${host}:${port}`);
  return socket;
}

/** RFC 1929. */
async function authenticate(
  socket: Socket,
  credentials: NonNullable<Proxy['credentials']>,
): Promise<void> {
  const user = Buffer.from(credentials.user);
  const password = Buffer.from(credentials.password);
  socket.write(
    Buffer.concat([Buffer.from([1, user.length]), user, Buffer.from([password.length]), password]),
  );
  const answer = await readExactly(socket, 2);
  if (answer[1] !== 0) throw new BridgeError('network.refused', 'it refused user or password');
}

function address(host: string): Buffer {
  if (isIPv4(host)) return Buffer.from([1, ...host.split('.').map(Number)]);
  if (isIPv6(host)) return Buffer.concat([Buffer.from([4]), ipv6Bytes(host)]);
  const name = Buffer.from(host);
  return Buffer.concat([Buffer.from([3, name.length]), name]);
}

function ipv6Bytes(host: string): Buffer {
  // URL writes any IPv6 address in hexadecimal groups, an embedded IPv4 address included.
  const text = new URL(`http://[${host}]`).hostname.slice(1, -1);
  const [head = '', tail] = text.split('::');
  const groups = (part: string): number[] =>
    part === '' ? [] : part.split(':').map((group) => Number.parseInt(group, 16));
  const before = groups(head);
  const after = tail === undefined ? [] : groups(tail);
  const zeros = new Array<number>(8 - before.length - after.length).fill(0);
  return Buffer.from([...before, ...zeros, ...after].flatMap((group) => [group >> 8, group & 255]));
}

async function readReply(socket: Socket, peer: string): Promise<void> {
  const [answeredVersion, reply = 1, , type] = await readExactly(socket, 4);
  if (answeredVersion !== version) throw new BridgeError('network.refused', 'its answer is broken');
  if (reply !== 0) {
    throw new BridgeError(
      'network.unreachable',
      `no connection to ${peer}: ${refusals[reply] ?? `refused with code ${reply}`}`,
    );
  }
  // The address it connected from is of no interest but has to be read.
  const length = type === 1 ? 4 : type === 4 ? 16 : ((await readExactly(socket, 1))[0] ?? 0);
  await readExactly(socket, length + 2);
}
