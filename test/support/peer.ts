/**
 * A TCP service behind the managed node, as a script: it greets like an sshd, then does what the test
 * says. Everything received is kept, so that a test can compare it with what it sent, byte for byte.
 */
import { createServer, type AddressInfo, type Socket } from 'node:net';

export const banner = 'SSH-2.0-peer\r\n';

export interface PeerConnection {
  readonly socket: Socket;
  /** Everything received so far. */
  received(): Buffer;
  receivedBytes(): number;
  /** Resolves when so many bytes have arrived; rejects when the connection ends before. */
  hasReceived(count: number): Promise<void>;
  readonly closed: Promise<void>;
}

export interface Peer {
  readonly address: { readonly host: string; readonly port: number };
  readonly connections: readonly PeerConnection[];
  /** The first connection, now or when it comes. */
  first(): Promise<PeerConnection>;
  close(): Promise<void>;
}

export interface PeerOptions {
  /** What the peer says first. Default: an SSH banner. */
  readonly greeting?: string | Uint8Array;
  readonly onConnection?: (connection: PeerConnection) => void;
}

export async function startPeer(options: PeerOptions = {}): Promise<Peer> {
  const connections: PeerConnection[] = [];
  const waiting: ((connection: PeerConnection) => void)[] = [];
  const server = createServer({ allowHalfOpen: true, noDelay: true }, (socket) => {
    const connection = follow(socket);
    connections.push(connection);
    const greeting = options.greeting ?? banner;
    if (greeting.length > 0) socket.write(greeting);
    options.onConnection?.(connection);
    for (const resolve of waiting.splice(0)) resolve(connection);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  // A TCP server's address is always an AddressInfo.
  const { port } = server.address() as AddressInfo;
  return {
    address: { host: '127.0.0.1', port },
    connections,
    first() {
      const [connection] = connections;
      if (connection !== undefined) return Promise.resolve(connection);
      return new Promise((resolve) => waiting.push(resolve));
    },
    async close() {
      for (const { socket } of connections) socket.destroy();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

function follow(socket: Socket): PeerConnection {
  const chunks: Buffer[] = [];
  let count = 0;
  let isClosed = false;
  const checks = new Set<() => void>();
  const changed = (): void => {
    for (const check of [...checks]) check();
  };
  socket.on('data', (chunk: Buffer) => {
    chunks.push(chunk);
    count += chunk.length;
    changed();
  });
  // What the other side does to the connection is the test's business.
  socket.on('error', () => undefined);
  const closed = new Promise<void>((resolve) => {
    const onEnd = (): void => {
      isClosed = true;
      resolve();
      changed();
    };
    socket.once('close', onEnd);
    socket.once('end', () => {
      socket.end();
      onEnd();
    });
  });
  return {
    socket,
    closed,
    received: () => Buffer.concat(chunks),
    receivedBytes: () => count,
    hasReceived: (wanted) =>
      new Promise((resolve, reject) => {
        const check = (): void => {
          if (count < wanted && !isClosed) return;
          checks.delete(check);
          if (count >= wanted) resolve();
          else reject(new Error(`the connection ended after ${count} of ${wanted} bytes`));
        };
        checks.add(check);
        check();
      }),
  };
}
