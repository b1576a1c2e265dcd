import type { Socket } from 'node:net';
import type { Clock } from '../transport/clock.ts';
import { gatheringWriter } from './gathering-writer.ts';
import type { MuxStream, StreamEvents } from './mux-channel.ts';

export interface TcpStreamOptions {
  readonly socket: Socket;
  readonly clock: Clock;
  readonly openStream: (events: StreamEvents) => MuxStream | undefined;
  /** Both sides are done with each other, or one of them is gone. Called once. */
  readonly onOver: (end: 'closed' | 'refused' | 'lost') => void;
}

/**
 * How long the local program may take to close its side after the destination closed and everything
 * from there was written. Until then what it sends is read and dropped: closing with unread data would
 * reset the connection, and the program could lose the end of the answer.
 */
const lingerMs = 5_000;

/** Joins an accepted TCP connection (allowHalfOpen, paused) to a stream. False: no stream to be had. */
export function joinTcpStream(options: TcpStreamOptions): boolean {
  const { socket, clock } = options;
  let isOver = false;
  const over = (end: 'closed' | 'refused' | 'lost'): void => {
    if (isOver) return;
    isOver = true;
    options.onOver(end);
  };
  const writer = gatheringWriter(socket, (length) => {
    stream?.consumed(length);
  });
  const farewell = (): void => {
    writer.flush();
    socket.removeAllListeners('data');
    socket.resume();
    // A slow reader may take its time: the callback comes when all of it is with the system.
    socket.end(() => {
      const cancel = clock.setTimer(() => {
        socket.destroy();
      }, lingerMs);
      socket.once('close', cancel);
    });
  };

  let isStreamOpen = true;
  const stream = options.openStream({
    data: (bytes) => {
      if (socket.destroyed) return;
      writer.write(bytes);
    },
    writable: () => {
      socket.resume();
    },
    finished: (isRefused) => {
      isStreamOpen = false;
      if (isRefused) socket.resetAndDestroy();
      else farewell();
      over(isRefused ? 'refused' : 'closed');
    },
    expired: () => {
      isStreamOpen = false;
      farewell();
      over('closed');
    },
  });
  if (stream === undefined) return false;

  socket.on('data', (chunk) => {
    if (!stream.write(chunk)) socket.pause();
  });
  socket.on('end', () => {
    if (isStreamOpen) stream.end();
  });
  // The reason does not matter: the stream is given up either way.
  socket.on('error', ignore);
  socket.on('close', () => {
    if (isStreamOpen) stream.abandon();
    isStreamOpen = false;
    over('lost');
  });
  socket.resume();
  return true;
}

function ignore(): void {
  // 'close' follows.
}
