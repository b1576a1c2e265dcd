import { lookup } from 'node:dns/promises';
import { connect, isIP } from 'node:net';
import type { Duplex } from 'node:stream';
import type { Address, NodeOptions } from './types.ts';

/** Addresses the agent refuses to forward to: instance metadata, DNS, time, Windows activation. */
const DENIED = new Set([
  '169.254.169.254',
  'fd00:ec2::254',
  '169.254.169.253',
  'fd00:ec2::253',
  '169.254.169.123',
  'fd00:ec2::123',
  '169.254.169.250',
  '169.254.169.251',
  'fd00:ec2::250',
  'fd00:ec2::251',
]);

/** Resolves a session's host once, as the agent does at the start. Rejects with the resolver's words. */
export async function resolveHost(node: NodeOptions, host: string, port: number): Promise<Address> {
  const known = node.hosts?.[`${host}:${port}`] ?? node.hosts?.[host];
  if (known !== undefined) return typeof known === 'string' ? { host: known, port } : known;
  if (isIP(host) !== 0 || node.dial !== undefined) return { host, port };
  try {
    const { address } = await lookup(host);
    return { host: address, port };
  } catch {
    throw new Error(`lookup ${host}: no such host`);
  }
}

export function isDenied(host: string): boolean {
  return DENIED.has(host);
}

/** Connects as the node would; `host` undefined means the node itself. */
export async function dial(
  node: NodeOptions,
  host: string | undefined,
  port: number,
): Promise<Duplex> {
  if (node.dial !== undefined) return node.dial(host ?? 'localhost', port);
  const mapped = host === undefined ? node.ports?.[port] : undefined;
  const target = mapped ?? { host: host ?? 'localhost', port };
  return new Promise((resolve, reject) => {
    const socket = connect({ host: target.host, port: target.port, allowHalfOpen: true });
    socket.once('error', reject);
    socket.once('connect', () => {
      socket.off('error', reject);
      socket.setNoDelay(true);
      resolve(socket);
    });
  });
}
