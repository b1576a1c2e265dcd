import type { Socket } from 'node:net';
import { BridgeError } from '../errors.ts';
import type { Logger } from '../logger.ts';
import type { Clock } from '../transport/clock.ts';
import type {
  ChannelConsumer,
  ChannelEnd,
  ChannelInfo,
  PayloadSource,
} from '../transport/channel.ts';
import type { DataChannel } from '../transport/data-channel.ts';
import { destinationText, hostPort, type Destination } from './destination.ts';
import { MuxChannel } from './mux-channel.ts';
import { joinTcpStream } from './tcp-stream.ts';
import { explainEnd, refused } from './unreachable.ts';

export type ForwardChannel = Pick<
  DataChannel,
  | 'start'
  | 'sourceReady'
  | 'pauseReceiving'
  | 'resumeReceiving'
  | 'terminate'
  | 'ended'
  | 'released'
>;

/** Starts a session for the destination and makes its channel, not started yet. Rejects with BridgeError. */
export type OpenChannel = (
  source: PayloadSource,
  consumer: ChannelConsumer,
  signal: AbortSignal,
) => Promise<ForwardChannel>;

export interface ForwardSessionOptions {
  readonly destination: Destination;
  readonly node: string;
  readonly openChannel: OpenChannel;
  readonly clock: Clock;
  readonly logger: Logger;
  /** One line for the user. */
  readonly notice: (text: string) => void;
}

type State =
  | { readonly kind: 'closed' }
  | { readonly kind: 'opening'; readonly promise: Promise<Opened> }
  | { readonly kind: 'open'; readonly opened: Opened }
  | { readonly kind: 'over' };

interface Opened {
  readonly mux: MuxChannel;
  readonly channel: ForwardChannel;
}

/**
 * One session to one destination (the documents fix host and port), shared by all connections of a
 * forward. A session that the service ends while no connection uses it, as its idle timeout does, is
 * opened again by the next connection; one that is lost under connections ends the forward.
 */
export class ForwardSession {
  /** Settles with the error when the session is lost for good; never rejects. */
  readonly failed: Promise<BridgeError>;
  readonly #options: ForwardSessionOptions;
  readonly #label: string;
  readonly #abort = new AbortController();
  readonly #sockets = new Set<Socket>();
  #resolveFailed: (error: BridgeError) => void = ignore;
  #state: State = { kind: 'closed' };
  readonly #releases: Promise<void>[] = [];

  constructor(options: ForwardSessionOptions) {
    this.#options = options;
    this.#label = destinationText(options.destination);
    this.failed = new Promise((resolve) => {
      this.#resolveFailed = resolve;
    });
  }

  get connectionCount(): number {
    return this.#sockets.size;
  }

  /** Opens the session now, so that what is wrong shows before anybody connects. */
  async open(): Promise<void> {
    await this.#opened();
  }

  /** Takes over an accepted connection, paused. */
  accept(socket: Socket): void {
    this.#sockets.add(socket);
    const from = addressOf(socket);
    // Until a stream takes over, an error means no more than that the connection is gone.
    socket.on('error', ignore);
    socket.once('close', () => {
      this.#sockets.delete(socket);
    });
    this.#opened().then(
      ({ mux }) => {
        this.#join(socket, from, mux);
      },
      (error: unknown) => {
        this.#report(from, error instanceof Error ? error.message : 'the session is over');
        socket.resetAndDestroy();
      },
    );
  }

  /** Drops all connections and ends the remote session. */
  async close(): Promise<void> {
    const state = this.#state;
    this.#state = { kind: 'over' };
    this.#abort.abort(new BridgeError('session.lost', 'the forward is closing'));
    for (const socket of this.#sockets) socket.resetAndDestroy();
    // Every channel is terminated by the abort above; one that is only being made ends when it is there.
    if (state.kind === 'opening') await state.promise.catch(ignore);
    await Promise.all(this.#releases);
  }

  #opened(): Promise<Opened> {
    switch (this.#state.kind) {
      case 'open':
        return Promise.resolve(this.#state.opened);
      case 'opening':
        return this.#state.promise;
      case 'over':
        return Promise.reject(new BridgeError('session.lost', 'the session is over'));
      case 'closed': {
        const promise = this.#openNew();
        this.#state = { kind: 'opening', promise };
        promise.then(
          (opened) => {
            if (this.#state.kind === 'opening') this.#state = { kind: 'open', opened };
          },
          () => {
            if (this.#state.kind === 'opening') this.#state = { kind: 'closed' };
          },
        );
        return promise;
      }
    }
  }

  async #openNew(): Promise<Opened> {
    const { clock, notice, openChannel, node } = this.#options;
    let resolveOpened: (info: ChannelInfo) => void = ignore;
    const openedFirst = new Promise<{ readonly info: ChannelInfo }>((resolve) => {
      resolveOpened = (info) => {
        resolve({ info });
      };
    });
    const mux = new MuxChannel({
      clock,
      notice,
      opened: (info) => {
        resolveOpened(info);
      },
      failed: (error) => {
        this.#fail(error);
      },
    });
    const channel = await openChannel(mux, mux, this.#abort.signal);
    mux.attach(channel);
    channel.start();
    const closing = this.#abort.signal;
    const terminate = (): void => {
      channel.terminate();
    };
    closing.addEventListener('abort', terminate);
    if (closing.aborted) terminate();
    this.#releases.push(channel.released);
    const ended = channel.ended.then((end) => {
      closing.removeEventListener('abort', terminate);
      mux.dispose();
      return explainEnd(end, this.#label, node);
    });
    const first = await Promise.race([openedFirst, ended]);
    if (!('info' in first)) throw errorOf(first, this.#label);
    if (first.info.mode !== 'mux') {
      channel.terminate();
      throw new BridgeError(
        'target.unsuitable',
        `SSM Agent ${first.info.agentVersion} cannot carry several connections in one session`,
        { hint: 'update the agent (3.0.222.0 or later), or use ssh -L through ssm-bridge connect' },
      );
    }
    void ended.then((end) => {
      this.#sessionEnded(end);
    });
    return { mux, channel };
  }

  #sessionEnded(end: ChannelEnd): void {
    if (this.#state.kind === 'over') return;
    const error = errorOf(end, this.#label);
    const isServiceDecision = end.kind === 'remote-closed' || error.code === 'session.gone';
    if (this.#sockets.size === 0 && isServiceDecision) {
      this.#state = { kind: 'closed' };
      const { logger, notice } = this.#options;
      logger.info({ code: error.code }, 'session ended while idle');
      notice(
        `the service ended the idle session to ${this.#label}; the next connection opens a new one`,
      );
      return;
    }
    this.#fail(error);
  }

  #fail(error: BridgeError): void {
    if (this.#state.kind === 'over') return;
    this.#resolveFailed(error);
  }

  #join(socket: Socket, from: string, mux: MuxChannel): void {
    if (socket.destroyed) return;
    const { clock, logger, node } = this.#options;
    const isJoined = joinTcpStream({
      socket,
      clock,
      openStream: (events) => mux.openStream(events),
      onOver: (end) => {
        logger.debug({ end, connections: this.#sockets.size }, 'connection over');
        if (end === 'refused') this.#report(from, refused(this.#label, node).message);
      },
    });
    if (isJoined) return;
    this.#report(from, 'too many connections at once');
    socket.resetAndDestroy();
  }

  #report(from: string, why: string): void {
    if (this.#state.kind === 'over') return;
    this.#options.notice(`${from} -> ${this.#label}: ${why}`);
  }
}

/** Asked when the connection is fresh: a socket that is gone no longer knows. */
function addressOf(socket: Socket): string {
  return hostPort(socket.remoteAddress ?? '?', socket.remotePort ?? 0);
}

function errorOf(end: ChannelEnd, label: string): BridgeError {
  if (end.kind === 'failed') return end.error;
  const reason = end.kind === 'remote-closed' && end.output !== '' ? `: ${end.output}` : '';
  return new BridgeError('remote.closed', `the session to ${label} was ended${reason}`, {
    hint: 'it was terminated, or reached its idle or maximum duration',
  });
}

function ignore(): void {
  // See the callers.
}
