import { createServer as createTlsServer, type Server as HttpsServer } from 'node:https';
import { createServer, type AddressInfo, type Server, type Socket } from 'node:net';
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Duplex } from 'node:stream';
import type { Certificates } from './certs.ts';
import type { FaultBoard } from './faults.ts';

export interface FrontOptions {
  readonly certificates: Certificates;
  readonly board: FaultBoard;
  readonly request: (request: IncomingMessage, response: ServerResponse) => void;
  readonly upgrade: (
    request: IncomingMessage,
    stream: Duplex,
    head: Buffer,
    tcp: Socket | undefined,
  ) => void;
}

/** TCP listeners on both loopback addresses, one port, with TLS and HTTP behind them. */
export class Front {
  readonly #options: FrontOptions;
  readonly #https: HttpsServer;
  readonly #listeners: Server[] = [];
  readonly #sockets = new Map<string, Socket>();
  port = 0;

  constructor(options: FrontOptions) {
    this.#options = options;
    const { key, cert } = options.certificates;
    this.#https = createTlsServer({ key, cert, keepAlive: true }, options.request);
    this.#https.on('upgrade', (request: IncomingMessage, stream: Duplex, head: Buffer) => {
      const tcp = this.#sockets.get(nameOf(request.socket));
      options.upgrade(request, stream, head, tcp);
    });
    this.#https.on('tlsClientError', (_error, socket) => {
      socket.destroy();
    });
    this.#https.on('clientError', (_error, socket) => {
      socket.destroy();
    });
  }

  async listen(): Promise<void> {
    const first = await this.#listenOn('127.0.0.1', 0);
    this.port = first;
    // Clients may try ::1 first for `localhost`; a machine without IPv6 does without.
    await this.#listenOn('::1', first).catch(() => 0);
  }

  async close(): Promise<void> {
    this.#https.closeAllConnections();
    for (const socket of this.#sockets.values()) socket.destroy();
    await Promise.all(
      this.#listeners.map(
        (listener) =>
          new Promise<void>((resolve) => {
            listener.close(() => {
              resolve();
            });
          }),
      ),
    );
  }

  async #listenOn(host: string, port: number): Promise<number> {
    const listener = createServer({ noDelay: true }, (socket) => {
      this.#accept(socket);
    });
    await new Promise<void>((resolve, reject) => {
      listener.once('error', reject);
      listener.listen({ host, port }, resolve);
    });
    this.#listeners.push(listener);
    // A server listening on a host and port has an AddressInfo.
    return (listener.address() as AddressInfo).port;
  }

  #accept(socket: Socket): void {
    const name = nameOf(socket);
    this.#sockets.set(name, socket);
    socket.on('close', () => {
      if (this.#sockets.get(name) === socket) this.#sockets.delete(name);
    });
    socket.on('error', () => {
      // A client that goes away is no error here.
    });
    const fault = this.#options.board.take('connect', () => true);
    if (fault === undefined) {
      this.#https.emit('connection', socket);
      return;
    }
    this.#options.board.hit(`connect.${fault.how}`);
    switch (fault.how) {
      case 'silent':
        socket.resume();
        return;
      case 'reset':
        socket.resetAndDestroy();
        return;
      case 'end':
        socket.end();
        return;
      case 'garbage':
        socket.end('220 mail.example.com ESMTP\r\n');
    }
  }
}

function nameOf(socket: Socket): string {
  return `${String(socket.remoteAddress)} ${String(socket.remotePort)}`;
}
