import { Agent as HttpAgent } from 'node:http';
import { Agent as HttpsAgent } from 'node:https';
import type { Socket } from 'node:net';
import { TLSSocket } from 'node:tls';
import { secureContextFor } from '../secure-context.ts';

/**
 * Opens a connection to an API host, ready for HTTP: TLS, if asked for, has been established. Where
 * connections made ahead of time, and proxies, come in.
 */
export type ApiDial = (
  request: {
    readonly host: string;
    readonly port: number;
    readonly isSecure: boolean;
    readonly ca: readonly string[] | undefined;
  },
  signal: AbortSignal,
) => Promise<Socket>;

export interface AgentOptions {
  readonly ca: readonly string[] | undefined;
  readonly dial: ApiDial | undefined;
  /** Whether a connection is kept for the next call. */
  readonly keepAlive: boolean;
  readonly connectTimeoutMs: number;
}

/** The agents for https and http endpoints. */
export function makeAgents(options: AgentOptions): { https: HttpsAgent; http: HttpAgent } {
  const https = new SharedTrustAgent(options);
  const http = new HttpAgent({ keepAlive: options.keepAlive });
  const { dial } = options;
  if (dial !== undefined) {
    useDial(https, dial, true, options);
    useDial(http, dial, false, options);
  }
  return { https, http };
}

/** Makes its TLS context with the first connection, and shares it with all that trust the same. */
class SharedTrustAgent extends HttpsAgent {
  readonly #ca: readonly string[] | undefined;

  constructor(options: AgentOptions) {
    super({ keepAlive: options.keepAlive });
    this.#ca = options.ca;
  }

  override createConnection(
    ...[to, created]: Parameters<HttpsAgent['createConnection']>
  ): ReturnType<HttpsAgent['createConnection']> {
    const trusting = { ...to, secureContext: secureContextFor(this.#ca) };
    return super.createConnection(trusting, created);
  }
}

type Created = (error: Error | null, socket?: Socket) => void;

interface Dialling {
  /** Documented in Node's http.Agent; the published types know the synchronous form only. */
  createConnection: (to: { host?: string; port?: number | string }, created: Created) => undefined;
  /** A connection that is only being dialled is none of the agent's own yet. */
  destroy: () => void;
}

function useDial(agent: HttpAgent, dial: ApiDial, isSecure: boolean, options: AgentOptions): void {
  const { ca, connectTimeoutMs } = options;
  const pending = new Set<AbortController>();
  const destroyOwn = agent.destroy.bind(agent);
  const dialling: Dialling = {
    createConnection: (to, created) => {
      const host = to.host ?? 'localhost';
      const port = Number(to.port ?? (isSecure ? 443 : 80));
      const limit = new AbortController();
      const timer = setTimeout(() => {
        limit.abort();
      }, connectTimeoutMs);
      pending.add(limit);
      const settle = (): void => {
        clearTimeout(timer);
        pending.delete(limit);
      };
      dial({ host, port, isSecure, ca }, limit.signal).then(
        (socket) => {
          settle();
          created(null, socket);
        },
        (error: unknown) => {
          settle();
          created(error instanceof Error ? error : new Error('dialling failed', { cause: error }));
        },
      );
      return undefined;
    },
    destroy: () => {
      for (const limit of pending) limit.abort();
      destroyOwn();
    },
  };
  Object.assign(agent, dialling);
}

/** Whether a request can be on its way: a connection is up, its TLS handshake done. */
export function isConnected(agents: readonly HttpAgent[]): boolean {
  return agents
    .flatMap((agent) => Object.values(agent.sockets))
    .some((sockets) => sockets?.some(isUp) === true);
}

function isUp(socket: Socket): boolean {
  if (socket.destroyed || socket.connecting) return false;
  return !(socket instanceof TLSSocket) || socket.getFinished() !== undefined;
}
