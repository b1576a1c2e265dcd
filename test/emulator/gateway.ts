import type { IncomingMessage } from 'node:http';
import type { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { WebSocketServer, type RawData, type WebSocket } from 'ws';
import type { UpgradeFault } from './faults.ts';
import { Link } from './link.ts';
import type { Service } from './service.ts';
import type { Session } from './session.ts';
import { verifySignature } from './sigv4.ts';
import { isPresigned, verifyPresigned } from './presign.ts';

/** Time a client has for its first text frame. */
const TOKEN_FRAME_MS = 10_000;
/** Far above what clients send; the agent itself has no limit. */
const MAX_FRAME_BYTES = 64 * 1024 * 1024;
const SIGNED_HEADERS = ['host', 'x-amz-date', 'x-amz-security-token'];

/** The message gateway's WebSocket side: upgrade, signature, token frame. */
export class Gateway {
  readonly #service: Service;
  readonly #webSockets = new WebSocketServer({
    noServer: true,
    perMessageDeflate: false,
    maxPayload: MAX_FRAME_BYTES,
    clientTracking: true,
  });
  readonly #timers = new Set<NodeJS.Timeout>();
  readonly #hanging = new Set<Duplex>();

  constructor(service: Service) {
    this.#service = service;
  }

  upgrade(request: IncomingMessage, stream: Duplex, head: Buffer, tcp: Socket | undefined): void {
    stream.on('error', () => {
      // The WebSocket, or its absence, tells.
    });
    const session = this.#sessionOf(request);
    const fault = this.#service.board.take('upgrade', () => true, session?.id);
    if (fault === undefined) {
      this.#decide(request, stream, head, tcp, session, undefined);
      return;
    }
    this.#service.board.hit('upgrade');
    if (fault.reset === true) {
      tcp?.resetAndDestroy();
      stream.destroy();
    } else if (fault.hang === true) {
      this.#hanging.add(stream);
      stream.on('close', () => this.#hanging.delete(stream));
    } else {
      this.#later(fault.delayMs ?? 0, () => {
        this.#decide(request, stream, head, tcp, session, fault);
      });
    }
  }

  close(): void {
    for (const timer of this.#timers) clearTimeout(timer);
    for (const stream of this.#hanging) stream.destroy();
    for (const webSocket of this.#webSockets.clients) webSocket.terminate();
    this.#webSockets.close();
  }

  #decide(
    request: IncomingMessage,
    stream: Duplex,
    head: Buffer,
    tcp: Socket | undefined,
    session: Session | undefined,
    fault: UpgradeFault | undefined,
  ): void {
    const refusal = faultRefusal(fault) ?? this.#refusal(request, session);
    if (refusal !== undefined || session === undefined) {
      const {
        status,
        why,
        type = 'application/json',
      } = refusal ?? { status: 404, why: 'no such session' };
      this.#service.upgrades.push({ status, why });
      this.#service.log(`upgrade refused: ${status} ${why}`);
      this.#service.changed();
      stream.end(
        `HTTP/1.1 ${status} Refused\r\nContent-Type: ${type}\r\nContent-Length: ${Buffer.byteLength(why)}\r\nConnection: close\r\n\r\n${why}`,
      );
      return;
    }
    this.#webSockets.handleUpgrade(request, stream, head, (webSocket) => {
      this.#service.upgrades.push({ status: 101, why: '' });
      this.#service.changed();
      if (fault?.silent === true) return;
      if (fault?.closeCode !== undefined) {
        webSocket.close(fault.closeCode);
        return;
      }
      this.#awaitToken(webSocket, stream, tcp, session);
    });
  }

  #refusal(
    request: IncomingMessage,
    session: Session | undefined,
  ): { status: number; why: string; type?: string } | undefined {
    const { settings, clock, credentials } = this.#service;
    for (const name of ['sec-websocket-extensions', 'sec-websocket-protocol', 'origin', 'cookie']) {
      if (request.headers[name] !== undefined) {
        session?.violation(`upgrade request has the header ${name}`);
      }
    }
    if (session === undefined) return { status: 404, why: 'no such session' };
    if (session.state === 'ended') return { status: 410, why: 'session is over' };
    if (!settings.requireSignature) return undefined;
    const rules = {
      service: 'ssmmessages',
      region: settings.region,
      nowMs: clock.now(),
      maxSkewMs: settings.maxSkewMs,
      credentials,
      onlyHeaders: SIGNED_HEADERS,
    };
    const signed = {
      method: 'GET',
      target: request.url ?? '/',
      headers: request.headers,
      body: Buffer.alloc(0),
    };
    const check = isPresigned(signed.target)
      ? verifyPresigned(signed, rules)
      : verifySignature(signed, rules);
    if (!check.ok) return { status: 403, why: `${check.error}: ${check.message}` };
    if (check.credentials.denied?.includes('ssmmessages:OpenDataChannel') === true) {
      return {
        status: 403,
        why: 'AccessDeniedException: not authorized to perform: ssmmessages:OpenDataChannel',
      };
    }
    return undefined;
  }

  #awaitToken(
    webSocket: WebSocket,
    stream: Duplex,
    tcp: Socket | undefined,
    session: Session,
  ): void {
    webSocket.on('error', () => {
      // 'close' follows
    });
    const timer = this.#later(TOKEN_FRAME_MS, () => {
      session.violation('no OpenDataChannelInput after the upgrade');
      webSocket.close(1008);
    });
    webSocket.once('close', () => {
      clearTimeout(timer);
      this.#timers.delete(timer);
    });
    webSocket.once('message', (data: RawData, isBinary: boolean) => {
      clearTimeout(timer);
      this.#timers.delete(timer);
      // With the default binaryType the data of every message is one Buffer.
      const refusal = isBinary
        ? 'first frame is binary'
        : session.admit((data as Buffer).toString());
      if (isBinary) session.violation('first frame is binary');
      if (refusal !== undefined) {
        this.#service.log(`${session.id}: ${refusal}`);
        webSocket.close(1008, refusal);
        return;
      }
      if (session.state === 'ended') {
        webSocket.close(1000);
        return;
      }
      this.#attach(webSocket, stream, tcp, session);
    });
  }

  #attach(webSocket: WebSocket, stream: Duplex, tcp: Socket | undefined, session: Session): void {
    const node = this.#service.nodes.get(session.target);
    const link = new Link({
      webSocket,
      stream,
      tcp,
      sessionId: session.id,
      board: this.#service.board,
      random: this.#service.random,
      writeLimitBytes:
        node === undefined ? 1 << 20 : this.#service.agentOf(node).tuning.writeLimitBytes,
      inspect: (frame) => session.inspect(frame),
      toAgent: (frame) => {
        session.fromClient(frame);
      },
      left: (frame, isIntact) => {
        session.left(frame, isIntact);
      },
      text: () => {
        session.violation('a second text frame');
        link.close(1008);
      },
      writable: () => {
        session.writable();
      },
      closed: (code) => {
        session.detached(link, code);
      },
      pinged: () => {
        session.counters.pings += 1;
        this.#service.changed();
      },
    });
    this.#service.log(`${session.id}: client connected (${session.counters.connections + 1})`);
    session.attach(link);
  }

  #sessionOf(request: IncomingMessage): Session | undefined {
    const match = /^\/v1\/data-channel\/([^/?]+)\?(?:.*&)?role=publish_subscribe(?:&|$)/.exec(
      request.url ?? '',
    );
    return match === null ? undefined : this.#service.sessions.get(decodeURIComponent(match[1]!));
  }

  #later(delayMs: number, action: () => void): NodeJS.Timeout {
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      action();
    }, delayMs);
    this.#timers.add(timer);
    return timer;
  }
}

function faultRefusal(
  fault: UpgradeFault | undefined,
): { status: number; why: string; type: string } | undefined {
  if (fault?.html !== undefined) {
    return { status: fault.status ?? 200, why: fault.html, type: 'text/html' };
  }
  if (fault?.status === undefined) return undefined;
  return { status: fault.status, why: '{"message":"Forbidden"}', type: 'application/json' };
}
