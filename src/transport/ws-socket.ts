import type { IncomingHttpHeaders } from 'node:http';
import type { Duplex } from 'node:stream';
import WebSocket from 'ws';
import { BridgeError, systemCode } from '../errors.ts';
import { networkError } from '../network-error.ts';
import type { Dial } from './dial.ts';
import { FrameWriter } from './frame-writer.ts';
import type {
  ChannelSocket,
  ChannelSocketEvents,
  OpenSocket,
  SocketEnd,
  SocketRequest,
} from './socket.ts';

/**
 * Largest message accepted. Agents send 1 KiB payloads; anything near this is a broken or hostile
 * peer, and the connection is closed with 1009 before the bytes are gathered.
 */
const maxMessageBytes = 4 * 1024 * 1024;

/** How long the peer has to answer our close frame before the connection is dropped. */
const closeGraceMs = 500;

export interface WsSocketOptions {
  readonly dial: Dial;
  readonly ca: readonly string[] | undefined;
  /** Turns a refused upgrade into an error: access.websocket, network.refused and their like. */
  readonly classifyRefusal: (
    status: number,
    headers: IncomingHttpHeaders,
    peer: string,
  ) => BridgeError;
}

/** Data-channel sockets over `ws`: no extensions, no redirects, no subprotocol. */
export function wsSocketOpener(options: WsSocketOptions): OpenSocket {
  return async (request, events, signal) => {
    const url = new URL(request.url);
    const isSecure = url.protocol === 'wss:';
    const host = url.hostname.replace(/^\[|\]$/g, '');
    const port = url.port === '' ? (isSecure ? 443 : 80) : Number(url.port);
    const connection = await options.dial({ host, port, isSecure, ca: options.ca }, signal);
    return await upgrade(request, connection, `${host}:${port}`, options, events, signal);
  };
}

function upgrade(
  request: SocketRequest,
  connection: Duplex,
  peer: string,
  options: WsSocketOptions,
  events: ChannelSocketEvents,
  signal: AbortSignal,
): Promise<ChannelSocket> {
  return new Promise((resolve, reject) => {
    const webSocket = makeWebSocket(request, connection);
    const abort = (): void => {
      fail(
        signal.reason instanceof BridgeError
          ? signal.reason
          : new BridgeError('network.timeout', `${peer} did not answer the WebSocket upgrade`, {
              hint: 'a proxy or firewall that does not pass WebSockets may be in the way',
            }),
      );
    };
    const fail = (error: BridgeError): void => {
      signal.removeEventListener('abort', abort);
      webSocket.removeAllListeners();
      // terminate() reports the aborted handshake as an error; it is already being reported.
      webSocket.on('error', ignore);
      webSocket.terminate();
      connection.destroy();
      reject(error);
    };
    signal.addEventListener('abort', abort);
    webSocket.once('unexpected-response', (_request, response) => {
      response.resume();
      fail(options.classifyRefusal(response.statusCode ?? 0, response.headers, peer));
    });
    webSocket.once('error', (error) => {
      fail(upgradeError(peer, error));
    });
    webSocket.once('open', () => {
      signal.removeEventListener('abort', abort);
      webSocket.removeAllListeners();
      resolve(new WsChannelSocket(webSocket, connection, peer, events));
    });
    if (signal.aborted) abort();
  });
}

function makeWebSocket(request: SocketRequest, connection: Duplex): WebSocket {
  try {
    return new WebSocket(request.url, {
      headers: { ...request.headers },
      perMessageDeflate: false,
      followRedirects: false,
      maxPayload: maxMessageBytes,
      // Text frames are parsed as JSON with bounds; ws need not validate them first.
      skipUTF8Validation: true,
      createConnection: () => connection,
    });
  } catch (error) {
    // A URL or a header that HTTP cannot carry.
    connection.destroy();
    throw error;
  }
}

function ignore(): void {
  // See the callers.
}

function upgradeError(peer: string, error: Error): BridgeError {
  const code = systemCode(error);
  // Node's HTTP parser has codes of its own for what is not HTTP; ws reports a malformed 101 (wrong
  // Upgrade header or accept key) without a code.
  if (code !== undefined && !code.startsWith('HPE_')) return networkError(peer, error);
  return new BridgeError('network.refused', `${peer} gave an invalid WebSocket upgrade response`, {
    hint: 'a proxy or firewall that does not pass WebSockets may be in the way',
    cause: error,
  });
}

/** An established connection that broke, or a peer whose frames are not WebSocket. */
function lostError(peer: string, error: Error): BridgeError {
  const code = systemCode(error) ?? 'unknown error';
  return new BridgeError('network.unreachable', `the connection to ${peer} broke (${code})`, {
    hint: 'check the network and connect again',
    cause: error,
  });
}

class WsChannelSocket implements ChannelSocket {
  readonly #webSocket: WebSocket;
  readonly #connection: Duplex;
  readonly #frames = new FrameWriter((bytes, done) => {
    this.#connection.write(bytes, done);
  });
  #isEnded = false;

  constructor(webSocket: WebSocket, connection: Duplex, peer: string, events: ChannelSocketEvents) {
    this.#webSocket = webSocket;
    this.#connection = connection;
    const end = (reason: SocketEnd): void => {
      if (this.#isEnded) return;
      this.#isEnded = true;
      events.onEnd(reason);
    };
    webSocket.binaryType = 'nodebuffer';
    webSocket.pause();
    webSocket.on('message', (data, isBinary) => {
      // binaryType 'nodebuffer' means that ws hands over one Buffer per message.
      const bytes = data as Buffer;
      if (isBinary) events.onMessage(bytes);
      else events.onText(bytes.toString('utf8'));
    });
    webSocket.on('ping', () => {
      events.onActivity();
    });
    webSocket.on('pong', () => {
      events.onActivity();
    });
    webSocket.on('error', (error) => {
      end({ kind: 'error', error: lostError(peer, error) });
    });
    webSocket.on('close', (code, reason) => {
      end({ kind: 'closed', code, reason: reason.toString('utf8') });
    });
    connection.on('drain', () => {
      if (!this.#isEnded) events.onDrain();
    });
  }

  get bufferedBytes(): number {
    return this.#connection.writableLength + this.#frames.bytes;
  }

  sendText(text: string): void {
    if (!this.#isOpen()) return;
    this.#frames.flush();
    this.#webSocket.send(text, ignore);
  }

  sendBinary(message: Uint8Array): void {
    // Written beside ws's sender, which has no queue of its own without compression: every frame, ours
    // or its, goes whole into the connection. Only its pings and pongs may overtake what is gathered.
    if (this.#isOpen()) this.#frames.add(message);
  }

  flush(): void {
    if (this.#isOpen()) this.#frames.flush();
  }

  ping(): void {
    if (this.#isOpen()) this.#webSocket.ping('keepalive', true, ignore);
  }

  pause(): void {
    this.#webSocket.pause();
  }

  resume(): void {
    this.#webSocket.resume();
  }

  close(code: number): void {
    this.flush();
    this.#webSocket.resume();
    this.#webSocket.close(code);
    const timer = setTimeout(() => {
      this.destroy();
    }, closeGraceMs);
    this.#webSocket.once('close', () => {
      clearTimeout(timer);
    });
  }

  destroy(): void {
    this.#frames.discard();
    this.#webSocket.terminate();
    this.#connection.destroy();
  }

  #isOpen(): boolean {
    return !this.#isEnded && this.#webSocket.readyState === WebSocket.OPEN;
  }
}
