import { once } from 'node:events';
import { createServer, type Server, type Socket } from 'node:net';
import { BridgeError, systemCode } from '../errors.ts';
import type { Logger } from '../logger.ts';
import {
  decodeRequest,
  encodeFailure,
  encodeIdentities,
  encodeLease,
  encodePushFailed,
  encodeSignature,
  encodeTakeOver,
  FrameReader,
  type AgentRequest,
  type PushFailure,
} from './agent-protocol.ts';
import { KEY_COMMENT, type EphemeralKey } from './ephemeral-key.ts';
import { identityAt, type SocketIdentity } from './socket-place.ts';

/** A request to sign names a session, a user, a service and a key: far less than this. */
const MAX_REQUEST_LENGTH = 16 * 1024;
/** A login takes two connections, its ssh's and its bridge's. */
const MAX_CONNECTIONS = 512;

export interface AgentServerOptions {
  readonly key: EphemeralKey;
  /** The name to bind; the socket is moved to its place by the caller. */
  readonly bindPath: string;
  /** Where this agent's owner pushes the key. */
  readonly destination: string;
  /** Settles when the key is at the destination and will be for a while. */
  readonly ensurePushed: () => Promise<void>;
  /** Called whenever a connection has ended or a lease was taken. */
  readonly onChange: () => void;
  readonly logger: Logger;
}

/**
 * An ssh agent with one identity. It lists it, signs with it, and answers FAILURE to everything else:
 * nothing can be added to it. Other bridges hold leases on it while their own logins need it.
 */
export class AgentServer {
  readonly #options: AgentServerOptions;
  readonly #server: Server;
  readonly #leases = new Set<Socket>();
  readonly #clients = new Set<Socket>();
  #identity: SocketIdentity | undefined;
  #accepted = 0;
  #finishedLogins = 0;
  #leasesGranted = 0;
  #isRetiring = false;

  /** Rejects key.agent when the socket cannot be made. */
  static async listen(options: AgentServerOptions): Promise<AgentServer> {
    const agent = new AgentServer(options);
    agent.#server.listen(options.bindPath);
    try {
      await once(agent.#server, 'listening');
    } catch (error) {
      throw new BridgeError(
        'key.agent',
        `cannot listen on an agent socket: ${systemCode(error) ?? 'it failed'}`,
        { cause: error },
      );
    }
    // After listening the only errors are failed accepts; the next connection may do better.
    agent.#server.on('error', (error) => {
      options.logger.debug({ error: systemCode(error) }, 'agent socket error');
    });
    agent.#identity = await identityAt(options.bindPath);
    return agent;
  }

  private constructor(options: AgentServerOptions) {
    this.#options = options;
    this.#server = createServer((socket) => {
      this.#serve(socket);
    });
    this.#server.maxConnections = MAX_CONNECTIONS;
  }

  get identity(): SocketIdentity | undefined {
    return this.#identity;
  }

  /** Connections that may still want a signature. */
  get clientCount(): number {
    return this.#clients.size;
  }

  get leaseCount(): number {
    return this.#leases.size;
  }

  /** Every login that this agent was there for, its owner's included, has had its signature. */
  get isUsedUp(): boolean {
    return this.#finishedLogins > this.#leasesGranted;
  }

  /** Asks one lease holder to put its agent in this one's place; undefined when there is none. */
  appointSuccessor(): Socket | undefined {
    const [successor] = this.#leases;
    successor?.write(encodeTakeOver());
    return successor;
  }

  /** Tells the lease holders, whose logins wait for the same push. */
  announceFailure(failure: PushFailure): void {
    for (const socket of this.#leases) socket.write(encodePushFailed(failure));
  }

  /** Ends: takes no more connections. Those that may still want a signature are served until `limitMs`. */
  async retire(limitMs: number): Promise<void> {
    this.#isRetiring = true;
    for (const socket of this.#leases) socket.destroySoon();
    await this.#acceptQueued();
    const closed = once(this.#server, 'close');
    this.#server.close();
    const limit = setTimeout(() => {
      for (const socket of [...this.#clients, ...this.#leases]) socket.destroy();
    }, limitMs);
    await closed;
    clearTimeout(limit);
  }

  /**
   * Closing the listener resets connections that the kernel has completed and nobody has accepted. Since
   * libuv 1.45 each turn of the event loop accepts one of them, so the queue is empty when turns bring none.
   */
  async #acceptQueued(): Promise<void> {
    let quietTurns = 0;
    while (quietTurns < 3) {
      const before = this.#accepted;
      await new Promise((resolve) => setImmediate(resolve));
      quietTurns = this.#accepted === before ? quietTurns + 1 : 0;
    }
  }

  #serve(socket: Socket): void {
    this.#accepted += 1;
    this.#clients.add(socket);
    const reader = new FrameReader(MAX_REQUEST_LENGTH);
    const connection = { hasSigned: false };
    let pending = Promise.resolve();
    socket.on('data', (bytes: Buffer) => {
      let frames;
      try {
        frames = reader.feed(bytes);
      } catch {
        socket.destroy(); // A frame longer than any that ssh sends.
        return;
      }
      for (const frame of frames) {
        // One after the other, and no reading ahead of the answers.
        socket.pause();
        pending = pending.then(async () => {
          const answer = await this.#answer(decodeRequest(frame), socket, connection);
          if (!socket.destroyed) socket.write(answer);
          socket.resume();
        });
      }
    });
    socket.on('error', (error) => {
      this.#options.logger.debug({ error: systemCode(error) }, 'agent connection error');
    });
    socket.on('close', () => {
      if (connection.hasSigned) this.#finishedLogins += 1;
      this.#clients.delete(socket);
      this.#leases.delete(socket);
      this.#options.onChange();
    });
  }

  async #answer(
    request: AgentRequest,
    socket: Socket,
    connection: { hasSigned: boolean },
  ): Promise<Uint8Array> {
    const { key, destination, logger } = this.#options;
    switch (request.kind) {
      case 'list':
        logger.debug({}, 'agent asked for its identities');
        // Without a pushed key the offer would only cost ssh one of its attempts.
        return (await this.#isPushed())
          ? encodeIdentities([{ blob: key.blob, comment: KEY_COMMENT }])
          : encodeIdentities([]);
      case 'sign': {
        if (Buffer.compare(request.blob, key.blob) !== 0) return encodeFailure();
        if (!(await this.#isPushed())) return encodeFailure();
        connection.hasSigned = true;
        logger.debug({}, 'agent signed');
        return encodeSignature(key.sign(request.data));
      }
      case 'lease':
        this.#clients.delete(socket);
        if (this.#isRetiring) {
          socket.destroy();
          return encodeFailure();
        }
        this.#leases.add(socket);
        this.#leasesGranted += 1;
        this.#options.onChange();
        return encodeLease(request.destination === destination, key.blob);
      case 'other':
        return encodeFailure();
    }
  }

  async #isPushed(): Promise<boolean> {
    try {
      await this.#options.ensurePushed();
      return true;
    } catch {
      return false; // Reported by whoever pushes.
    }
  }
}
