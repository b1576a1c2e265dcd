import { destinationText, forwardingDocument, normalised } from '../../forward/destination.ts';
import { ForwardSession } from '../../forward/forward-session.ts';
import { listen, type Listener } from '../../forward/listener.ts';
import { systemClock } from '../../transport/clock.ts';
import type { ForwardArgs, ForwardSpec } from '../args.ts';
import type { CommandIo } from '../io.ts';
import { openChannel, openConnection, startSession, type Connection } from '../session.ts';

/** As a shell reports a death by signal. */
const signalStatus = { SIGHUP: 129, SIGINT: 130, SIGTERM: 143 } as const;

/** How long the sessions may take to be ended properly. */
const farewellMs = 5_000;

type End =
  | { readonly kind: 'signal'; readonly status: number }
  | { readonly kind: 'failed'; readonly error: unknown };

/** Listens on local ports until a signal, or until a session is lost for good; gives the exit status. */
export async function run(args: ForwardArgs, io: CommandIo): Promise<number> {
  const signals = watchSignals();
  const forwards: { session: ForwardSession; listener: Listener | undefined }[] = [];
  let connection: Connection | undefined;
  try {
    const opened = await openConnection(args, io);
    connection = opened;
    const opening = args.forwards.map(async (spec) => {
      const session = makeSession(args, spec, opened, io);
      const forward: (typeof forwards)[number] = { session, listener: undefined };
      forwards.push(forward);
      // A port that is taken must show before a session is started for it.
      forward.listener = await listen({ host: spec.bindHost, port: spec.bindPort }, (socket) => {
        session.accept(socket);
      });
      await session.open();
      if (!args.quiet) io.notice(readyLine(args.node, spec, forward.listener));
      return session;
    });
    const lost = opening.map(async (session): Promise<End> => {
      try {
        return { kind: 'failed', error: await (await session).failed };
      } catch (error) {
        return { kind: 'failed', error };
      }
    });
    void Promise.all(opening).then(io.started, ignore);
    const end = await Promise.race([signals.first, fatal(io.fatal), ...lost]);
    return end.kind === 'failed' ? io.fail(end.error) : end.status;
  } finally {
    for (const { listener } of forwards) listener?.close();
    const closed = Promise.all(forwards.map(({ session }) => session.close()));
    const limit = timeLimit(farewellMs);
    const isClosed = await Promise.race([
      closed.then(() => true),
      signals.second.then(() => false),
      limit.passed.then(() => false),
    ]);
    limit.cancel();
    if (!isClosed) io.unfinished();
    connection?.ahead.close();
    signals.stop();
  }
}

function makeSession(
  args: ForwardArgs,
  spec: ForwardSpec,
  connection: Connection,
  io: CommandIo,
): ForwardSession {
  const destination = normalised(spec);
  const document = forwardingDocument(destination, spec.bindPort);
  return new ForwardSession({
    destination,
    node: args.node,
    clock: systemClock,
    logger: io.logger,
    notice: io.notice,
    openChannel: async (source, consumer, closed) => {
      const openBy = systemClock.now() + args.connectTimeoutMs;
      const grant = await startSession(connection, args.node, document, openBy, closed);
      return openChannel(connection, { grant, source, consumer, openBy });
    },
  });
}

function readyLine(node: string, spec: ForwardSpec, listener: Listener): string {
  return `forwarding ${listener.address} -> ${destinationText(normalised(spec))} via ${node}`;
}

function watchSignals(): { first: Promise<End>; second: Promise<void>; stop: () => void } {
  let onFirst: (end: End) => void = ignore;
  let onSecond: () => void = ignore;
  const first = new Promise<End>((resolve) => {
    onFirst = resolve;
  });
  const second = new Promise<void>((resolve) => {
    onSecond = resolve;
  });
  let count = 0;
  const handlers = (['SIGHUP', 'SIGINT', 'SIGTERM'] as const).map((name) => {
    const handler = (): void => {
      count += 1;
      if (count > 1) onSecond();
      onFirst({ kind: 'signal', status: signalStatus[name] });
    };
    process.on(name, handler);
    return { name, handler };
  });
  const stop = (): void => {
    for (const { name, handler } of handlers) process.off(name, handler);
  };
  return { first, second, stop };
}

function fatal(signal: AbortSignal): Promise<End> {
  return new Promise((resolve) => {
    signal.addEventListener('abort', () => {
      resolve({ kind: 'failed', error: signal.reason });
    });
  });
}

function timeLimit(ms: number): { passed: Promise<void>; cancel: () => void } {
  let cancel: () => void = ignore;
  const passed = new Promise<void>((resolve) => {
    cancel = systemClock.setTimer(resolve, ms);
  });
  return { passed, cancel };
}

function ignore(): void {
  // See the callers.
}
