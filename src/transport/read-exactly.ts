import type { Socket } from 'node:net';

/** The next `length` bytes of a socket that nobody else reads; rejects when it ends first. */
export function readExactly(socket: Socket, length: number): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const settle = (act: () => void): void => {
      socket.off('readable', attempt);
      socket.off('end', ended);
      socket.off('close', ended);
      socket.off('error', failed);
      act();
    };
    const attempt = (): void => {
      // Without an encoding, read() gives buffers; its type cannot say so.
      const bytes = socket.read(length) as Buffer | null;
      if (bytes === null) return;
      if (bytes.length < length) {
        ended();
        return;
      }
      settle(() => {
        resolve(bytes);
      });
    };
    const ended = (): void => {
      failed(Object.assign(new Error('closed'), { code: 'ECONNRESET' }));
    };
    const failed = (error: unknown): void => {
      settle(() => {
        reject(error instanceof Error ? error : new Error('read failed', { cause: error }));
      });
    };
    socket.on('readable', attempt);
    socket.on('end', ended);
    socket.on('close', ended);
    socket.on('error', failed);
    if (socket.destroyed) ended();
    else attempt();
  });
}
