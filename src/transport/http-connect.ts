import { isIP, type Socket } from 'node:net';
import { connect as connectTls } from 'node:tls';
import { once } from 'node:events';
import { BridgeError } from '../errors.ts';
import type { Proxy } from './proxy.ts';
import { readExactly } from './read-exactly.ts';

/** An answer longer than this is no answer to CONNECT. */
const maxAnswerBytes = 16 * 1024;

/** Asks an HTTP proxy for a tunnel (RFC 9110, CONNECT), with Basic authentication if the URL has any. */
export async function connectThroughHttp(
  tcp: Socket,
  proxy: Proxy,
  host: string,
  port: number,
): Promise<Socket> {
  const socket = proxy.kind === 'https' ? await secured(tcp, proxy) : tcp;
  const peer = host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`;
  const { credentials } = proxy;
  const authorization =
    credentials === undefined
      ? ''
      : `Proxy-Authorization: Basic ${Buffer.from(`${credentials.user}:${credentials.password}`).toString('base64')}\r\n`;
  socket.write(`CONNECT ${peer} HTTP/1.1\r\nHost: ${peer}\r\n${authorization}\r\n`);
  const status = statusOf(await readHead(socket));
  if (status === 200) return socket;
  const hint =
    status === 407
      ? 'put user and password into the proxy URL'
      : 'check that the proxy lets this host pass';
  throw new BridgeError('network.refused', `no tunnel to ${peer}: it answered ${status}`, { hint });
}

async function secured(tcp: Socket, proxy: Proxy): Promise<Socket> {
  const socket = connectTls({
    socket: tcp,
    host: proxy.host,
    // Server names are for DNS names only (RFC 6066, 3), and Node warns on stderr about others.
    ...(isIP(proxy.host) === 0 ? { servername: proxy.host } : {}),
  });
  await once(socket, 'secureConnect');
  return socket;
}

/** Byte by byte, because what follows the empty line belongs to the tunnel. */
async function readHead(socket: Socket): Promise<string> {
  let head = '';
  while (!head.endsWith('\r\n\r\n')) {
    if (head.length >= maxAnswerBytes) {
      throw new BridgeError('network.refused', 'its answer is not HTTP');
    }
    head += (await readExactly(socket, 1)).toString('latin1');
  }
  return head;
}

function statusOf(head: string): number {
  const status = /^HTTP\/1\.[01] (\d{3})/.exec(head)?.[1];
  if (status === undefined) {
    throw new BridgeError('network.refused', 'it does not speak HTTP', {
      hint: 'for a SOCKS proxy write socks5://',
    });
  }
  return Number(status);
}
