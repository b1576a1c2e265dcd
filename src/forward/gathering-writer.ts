import type { Socket } from 'node:net';

/** Unsent bytes from which a reader counts as behind. */
const behindBytes = 16 * 1024;

/** What is copied together; larger pieces go out as they are. */
const slabBytes = 16 * 1024;

export interface GatheringWriter {
  /** May keep `bytes` without copying. Nothing may be written after the socket was ended. */
  write(bytes: Uint8Array): void;
  /** Hands over what is gathered; to be called before the socket is ended. */
  flush(): void;
}

/**
 * Writes to a socket, and copies pieces together while its reader is behind. Each write costs memory
 * of its own, and each view keeps the read that it came with: a peer that sends single bytes would
 * otherwise make a waiting byte cost hundreds. `taken` is told how many bytes are with the system, or
 * can never get there.
 */
export function gatheringWriter(socket: Socket, taken: (length: number) => void): GatheringWriter {
  let slab: Buffer | undefined;
  let used = 0;
  const send = (bytes: Uint8Array): void => {
    // The callback comes also when writing fails: then nobody is behind any more.
    socket.write(bytes, () => {
      taken(bytes.length);
      if (socket.writableLength < behindBytes) flush();
    });
  };
  const flush = (): void => {
    if (slab === undefined) return;
    const gathered = slab.subarray(0, used);
    slab = undefined;
    used = 0;
    send(gathered);
  };
  return {
    write(bytes) {
      if (socket.writableLength < behindBytes || bytes.length >= slabBytes) {
        flush();
        send(bytes);
        return;
      }
      if (used + bytes.length > slabBytes) flush();
      slab ??= Buffer.allocUnsafeSlow(slabBytes);
      slab.set(bytes, used);
      used += bytes.length;
    },
    flush,
  };
}
