import { connect, createServer, type AddressInfo, type Server, type Socket } from 'node:net';
import { startEmulator } from './emulator.ts';
import type { Emulator, EmulatorOptions, NodeOptions } from './types.ts';

export const nodeId = 'i-0123456789abcdef0';

export interface Destination {
  readonly port: number;
  readonly sockets: readonly Socket[];
  close(): Promise<void>;
}

/** A TCP server on loopback that gives each connection to `serve`. */
export async function startDestination(serve: (socket: Socket) => void): Promise<Destination> {
  const sockets: Socket[] = [];
  const server: Server = createServer({ allowHalfOpen: true }, (socket) => {
    sockets.push(socket);
    socket.on('error', () => {
      // tests cut connections on purpose
    });
    serve(socket);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    // A server listening on a host and port has an AddressInfo.
    port: (server.address() as AddressInfo).port,
    sockets,
    close: () => {
      for (const socket of sockets) socket.destroy();
      return new Promise((resolve) => {
        server.close(() => {
          resolve();
        });
      });
    },
  };
}

export function echo(socket: Socket): void {
  socket.pipe(socket);
}

/** A port on loopback that nobody listens on. */
export async function closedPort(): Promise<number> {
  const destination = await startDestination(() => undefined);
  await destination.close();
  return destination.port;
}

export interface Rig {
  readonly emulator: Emulator;
  readonly destination: Destination;
  close(): Promise<void>;
}

export async function rig(
  serve: (socket: Socket) => void = echo,
  options: Partial<EmulatorOptions> = {},
  node: Partial<NodeOptions> = {},
): Promise<Rig> {
  const destination = await startDestination(serve);
  const emulator = await startEmulator({
    nodes: [{ id: nodeId, ports: { 22: { host: '127.0.0.1', port: destination.port } }, ...node }],
    ...options,
  });
  return {
    emulator,
    destination,
    close: async () => {
      await emulator.close();
      await destination.close();
    },
  };
}

/** Resolves with true when a TCP connection is refused. */
export function isRefused(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ host: '127.0.0.1', port });
    socket.on('connect', () => {
      socket.destroy();
      resolve(false);
    });
    socket.on('error', () => {
      resolve(true);
    });
  });
}
