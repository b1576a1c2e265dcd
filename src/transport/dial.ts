import { connect as connectTcp, isIP, type Socket } from 'node:net';
import { connect as connectTls } from 'node:tls';
import { BridgeError } from '../errors.ts';
import { secureContextFor } from '../secure-context.ts';
import { networkError } from '../network-error.ts';

export interface DialRequest {
  readonly host: string;
  readonly port: number;
  /** TLS with verification of `host`; plain TCP otherwise. */
  readonly isSecure: boolean;
  /** PEM certificates that replace the default roots. */
  readonly ca: readonly string[] | undefined;
}

/** Opens a connection ready for HTTP. Rejects with network.* errors; aborting destroys what was begun. */
export type Dial = (request: DialRequest, signal: AbortSignal) => Promise<Socket>;

/** How a raw TCP connection is made; replaced when a proxy stands in between. */
export type DialTcp = (host: string, port: number, signal: AbortSignal) => Promise<Socket>;

/** Dials TCP by `dialTcp` and, if asked, speaks TLS over it. */
export function makeDial(dialTcp: DialTcp = dialDirectly): Dial {
  return async (request, signal) => {
    const tcp = await dialTcp(request.host, request.port, signal);
    return request.isSecure ? await startTls(tcp, request, signal) : tcp;
  };
}

export function dialDirectly(host: string, port: number, signal: AbortSignal): Promise<Socket> {
  const socket = connectTcp({
    host,
    port,
    noDelay: true,
    keepAlive: true,
    keepAliveInitialDelay: 60_000,
  });
  return settled(socket, 'connect', `${host}:${port}`, signal);
}

function startTls(tcp: Socket, request: DialRequest, signal: AbortSignal): Promise<Socket> {
  const socket = connectTls({
    socket: tcp,
    ALPNProtocols: ['http/1.1'],
    // Server names are for DNS names only (RFC 6066, 3); verification uses `host` either way.
    ...(isIP(request.host) === 0 ? { servername: request.host } : {}),
    host: request.host,
    secureContext: secureContextFor(request.ca),
  });
  return settled(socket, 'secureConnect', `${request.host}:${request.port}`, signal, tcp);
}

function settled(
  socket: Socket,
  event: 'connect' | 'secureConnect',
  peer: string,
  signal: AbortSignal,
  underlying?: Socket,
): Promise<Socket> {
  return new Promise((resolve, reject) => {
    let isSettled = false;
    const finish = (act: () => void): void => {
      if (isSettled) return;
      isSettled = true;
      socket.off(event, onReady);
      socket.off('close', onClose);
      signal.removeEventListener('abort', onAbort);
      act();
    };
    const fail = (error: unknown): void => {
      finish(() => {
        socket.destroy();
        underlying?.destroy();
        reject(networkError(peer, error));
      });
    };
    const onReady = (): void => {
      finish(() => {
        resolve(socket);
      });
    };
    const onError = (error: unknown): void => {
      fail(error);
    };
    const onClose = (): void => {
      fail(Object.assign(new Error('closed'), { code: 'ECONNRESET' }));
    };
    const onAbort = (): void => {
      fail(signal.reason instanceof BridgeError ? signal.reason : aborted(peer));
    };
    socket.on(event, onReady);
    // It stays for good: errors are also reported while a socket passes from hand to hand and nobody
    // else listens. Whoever owns it then notices that it is destroyed.
    socket.on('error', onError);
    socket.on('close', onClose);
    signal.addEventListener('abort', onAbort);
    if (signal.aborted) onAbort();
  });
}

function aborted(peer: string): BridgeError {
  return new BridgeError('network.timeout', `connecting to ${peer} took too long`, {
    hint: 'check the network, VPN and proxy settings',
  });
}
