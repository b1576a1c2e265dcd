import { createServer, type AddressInfo, type Server, type Socket } from 'node:net';
import { BridgeError } from '../errors.ts';
import { hostPort } from './destination.ts';

export interface Listener {
  /** `address:port` as bound, port 0 resolved. */
  readonly address: string;
  close(): void;
}

/**
 * Listens for connections, on loopback unless told otherwise. They arrive paused and stay half-open
 * when the other side ends first. Rejects with local.io.
 */
export function listen(
  at: { readonly host: string | undefined; readonly port: number },
  onConnection: (socket: Socket) => void,
): Promise<Listener> {
  const host = at.host ?? '127.0.0.1';
  const server = createServer({ allowHalfOpen: true, pauseOnConnect: true, noDelay: true });
  server.on('connection', onConnection);
  return new Promise((resolve, reject) => {
    server.once('error', (error: NodeJS.ErrnoException) => {
      reject(cannotListen(hostPort(host, at.port), error));
    });
    server.listen(at.port, host, () => {
      server.removeAllListeners('error');
      // Running out of descriptors is reported here; the connections that exist go on.
      server.on('error', ignore);
      resolve({
        address: boundAddress(server),
        close: () => {
          server.close();
        },
      });
    });
  });
}

function boundAddress(server: Server): string {
  // A server that listens on TCP has an AddressInfo.
  const { address, port } = server.address() as AddressInfo;
  return hostPort(address, port);
}

function cannotListen(where: string, error: NodeJS.ErrnoException): BridgeError {
  const why =
    error.code === 'EADDRINUSE'
      ? 'the address is in use'
      : error.code === 'EACCES'
        ? 'not permitted'
        : error.code === 'EADDRNOTAVAIL'
          ? 'this machine has no such address'
          : (error.code ?? 'unknown error');
  const hint =
    error.code === 'EACCES' ? 'ports below 1024 need privileges' : 'choose another port, or 0';
  return new BridgeError('local.io', `cannot listen on ${where}: ${why}`, { hint, cause: error });
}

function ignore(): void {
  // See the caller.
}
