import { connect, createServer, type AddressInfo, type Socket } from 'node:net';

export interface DelayProxy {
  readonly port: number;
  close(): Promise<void>;
}

/** Bytes under way at which a direction stops reading; well above any bandwidth-delay product here. */
const WINDOW_BYTES = 8 * 1024 * 1024;

/**
 * A TCP proxy that holds everything back by half the round trip in each direction. The kernel answers
 * the connect itself, so the round trip that a real connect costs is added to the first bytes instead.
 */
export async function startDelayProxy(options: {
  readonly port: number;
  readonly rttMs: number;
  readonly host?: string;
}): Promise<DelayProxy> {
  const sockets = new Set<Socket>();
  const half = options.rttMs / 2;
  const accept = (client: Socket): void => {
    const upstream = connect({
      host: options.host ?? '127.0.0.1',
      port: options.port,
      allowHalfOpen: true,
    });
    for (const socket of [client, upstream]) {
      socket.setNoDelay(true);
      sockets.add(socket);
      socket.on('close', () => sockets.delete(socket));
    }
    delayed(client, upstream, half, options.rttMs);
    delayed(upstream, client, half, 0);
  };
  const servers = [createServer({ allowHalfOpen: true }, accept)];
  const port = await listen(servers[0]!, '127.0.0.1', 0);
  const second = createServer({ allowHalfOpen: true }, accept);
  await listen(second, '::1', port).then(
    () => servers.push(second),
    () => 0, // no IPv6 here
  );
  return {
    port,
    close: async () => {
      for (const socket of sockets) socket.destroy();
      await Promise.all(
        servers.map(
          (server) =>
            new Promise<void>((resolve) =>
              server.close(() => {
                resolve();
              }),
            ),
        ),
      );
    },
  };
}

function listen(
  server: ReturnType<typeof createServer>,
  host: string,
  port: number,
): Promise<number> {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen({ host, port }, () => {
      // A server listening on a host and port has an AddressInfo.
      resolve((server.address() as AddressInfo).port);
    });
  });
}

/** 'fin' leaves the other direction open, 'close' does not. */
type Ending = 'fin' | 'reset' | 'close';

type Held = { readonly at: number } & ({ readonly chunk: Buffer } | { readonly end: Ending });

function delayed(from: Socket, to: Socket, delayMs: number, firstExtraMs: number): void {
  let queue: Held[] = [];
  let held = 0;
  let timer: NodeJS.Timeout | undefined;
  let isOver = false;
  let notBefore = performance.now() + delayMs + firstExtraMs;
  const push = (item: { chunk: Buffer } | { end: Ending }): void => {
    if (isOver) return;
    notBefore = Math.max(notBefore, performance.now() + delayMs);
    queue.push({ at: notBefore, ...item });
    arm();
  };
  const arm = (): void => {
    const next = queue[0];
    if (next === undefined || timer !== undefined) return;
    timer = setTimeout(release, Math.max(0, next.at - performance.now()));
  };
  const release = (): void => {
    timer = undefined;
    const now = performance.now() + 0.5;
    let count = 0;
    for (const item of queue) {
      if (item.at > now) break;
      count += 1;
      if ('chunk' in item) {
        held -= item.chunk.length;
        if (!to.destroyed) to.write(item.chunk);
      } else if (item.end === 'reset') {
        to.resetAndDestroy();
      } else {
        to.end();
        if (item.end === 'close') to.destroySoon();
      }
    }
    queue = queue.slice(count);
    if (held < WINDOW_BYTES && to.writableLength < WINDOW_BYTES) from.resume();
    arm();
  };
  from.on('data', (chunk: Buffer) => {
    if (isOver) return;
    held += chunk.length;
    push({ chunk });
    if (held >= WINDOW_BYTES || to.writableLength >= WINDOW_BYTES) from.pause();
  });
  from.on('end', () => {
    push({ end: 'fin' });
  });
  from.on('error', () => {
    push({ end: 'reset' });
  });
  to.on('drain', () => {
    if (held < WINDOW_BYTES) from.resume();
  });
  from.on('close', () => {
    push({ end: 'close' });
  });
  to.on('close', () => {
    clearTimeout(timer);
    isOver = true;
    queue = [];
    from.resume(); // into the void, so that its own end is noticed
  });
}
