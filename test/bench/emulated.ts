import { fork } from 'node:child_process';
import { createServer, type AddressInfo, type Socket } from 'node:net';
import { fileURLToPath } from 'node:url';
import { startEmulator, type EmulatorOptions } from '../emulator/index.ts';
import { cleanEnvironment, ignore, nowMs, unlessItEnds, within } from './process.ts';

/** Managed nodes of the emulator, each with another kind of server on port 22. */
export const nodes = {
  echo: 'i-0ec00000000000001',
  discard: 'i-0d150000000000002',
  source: 'i-050ce000000000003',
  /** A real sshd, where one was given. */
  sshd: 'i-055bd000000000004',
} as const;

export type EmulatedOptions = Omit<EmulatorOptions, 'nodes' | 'log'> & {
  readonly sshdPort?: number | undefined;
};

export interface EmulatedState {
  readonly openSessions: number;
  /** Bytes the discarding server has taken, and when it took the first and the last. */
  readonly discarded: { readonly bytes: number; readonly firstAt: number; readonly lastAt: number };
  readonly violations: readonly string[];
  readonly largestPayload: number;
  readonly closeCodes: readonly number[];
}

export interface Emulated {
  readonly env: Readonly<Record<string, string>>;
  /** For sshd: prints the keys that were pushed to the node with a real sshd; `%u` is the user. */
  readonly authorizedKeysCommand: string;
  state(): Promise<EmulatedState>;
  close(): void;
}

interface Ready {
  readonly env: Record<string, string>;
  readonly authorizedKeysCommand: string;
}

const self = fileURLToPath(import.meta.url);

/** Starts the emulator of the service in a process of its own. */
export async function startEmulated(
  options: EmulatedOptions,
  sshdPort?: number,
): Promise<Emulated> {
  const child = fork(self, ['--emulator', JSON.stringify({ ...options, sshdPort })], {
    env: cleanEnvironment({}),
    execArgv: [],
  });
  const message = <T>(): Promise<T> => {
    const next = new Promise<T>((resolve) => {
      child.once('message', (value: T) => {
        resolve(value);
      });
    });
    return unlessItEnds(child, within(next, 60_000, 'an answer of the emulator'));
  };
  const { env, authorizedKeysCommand } = await message<Ready>();
  return {
    env,
    authorizedKeysCommand,
    state: () => {
      const answer = message<EmulatedState>();
      child.send('state');
      return answer;
    },
    close: () => {
      child.kill();
    },
  };
}

/** The other side of `startEmulated`: runs in the child process. */
export async function emulate({ sshdPort, ...options }: EmulatedOptions): Promise<void> {
  const discarded = { bytes: 0, firstAt: 0, lastAt: 0 };
  const echo = await listen((socket) => {
    socket.write('SSH-2.0-bench\r\n');
    socket.pipe(socket);
  });
  const discard = await listen((socket) => {
    socket.write('SSH-2.0-bench\r\n');
    socket.on('data', (chunk: Buffer) => {
      if (discarded.bytes === 0) discarded.firstAt = nowMs();
      discarded.bytes += chunk.length;
      discarded.lastAt = nowMs();
    });
  });
  const chunk = Buffer.alloc(64 * 1024, 's');
  const source = await listen((socket) => {
    socket.write('SSH-2.0-bench\r\n');
    const more = (): void => {
      while (!socket.destroyed && socket.write(chunk));
    };
    socket.on('drain', more);
    more();
    socket.resume();
  });
  const at = (port: number) => ({ ports: { 22: { host: '127.0.0.1', port } } });
  const emulator = await startEmulator({
    ...options,
    nodes: [
      { id: nodes.echo, ...at(echo) },
      { id: nodes.discard, ...at(discard) },
      { id: nodes.source, ...at(source) },
      ...(sshdPort === undefined ? [] : [{ id: nodes.sshd, ...at(sshdPort) }]),
    ],
  });
  process.on('message', () => {
    const state: EmulatedState = {
      openSessions: emulator.openSessionCount(),
      discarded,
      violations: emulator.violations(),
      largestPayload: Math.max(0, ...emulator.sessions.map((it) => it.counters.largestPayload)),
      closeCodes: emulator.sessions.flatMap((it) => it.closeCodes),
    };
    process.send?.(state);
  });
  process.once('SIGTERM', () => {
    void emulator.close().then(() => process.exit(0));
  });
  process.send?.({
    env: { ...emulator.env },
    authorizedKeysCommand: emulator.authorizedKeysCommand(nodes.sshd),
  } satisfies Ready);
}

function listen(serve: (socket: Socket) => void): Promise<number> {
  const server = createServer((socket) => {
    socket.on('error', ignore);
    serve(socket);
  });
  return new Promise((resolve) => {
    server.listen(0, '127.0.0.1', () => {
      // A TCP server's address is an object; the string form is for pipes.
      resolve((server.address() as AddressInfo).port);
    });
  });
}
