import { createServer as createHttpServer, type IncomingMessage } from 'node:http';
import { createServer as createHttpsServer } from 'node:https';
import type { AddressInfo } from 'node:net';

export interface ApiRequest {
  /** `X-Amz-Target`, such as AmazonSSM.StartSession; '' for other APIs. */
  readonly operation: string;
  readonly headers: IncomingMessage['headers'];
  readonly body: string;
}

export interface ApiAnswer {
  readonly status?: number;
  readonly headers?: Readonly<Record<string, string>>;
  /** Sent as JSON unless it is a string. */
  readonly body: unknown;
}

/** 'hang' never answers; 'reset' cuts the connection. */
export type ApiBehaviour = (request: ApiRequest) => ApiAnswer | 'hang' | 'reset';

export interface ApiServer {
  readonly url: string;
  readonly port: number;
  readonly requests: readonly ApiRequest[];
  /** How requests are answered from now on. */
  answer: ApiBehaviour;
  close(): Promise<void>;
}

/** An AWS JSON API on a loopback port, over TLS when given a key and a certificate. */
export async function startApiServer(
  answer: ApiBehaviour,
  tls?: { readonly key: string; readonly cert: string },
): Promise<ApiServer> {
  const requests: ApiRequest[] = [];
  const server =
    tls === undefined ? createHttpServer() : createHttpsServer({ key: tls.key, cert: tls.cert });
  const api = { answer };
  server.on('request', (request, response) => {
    const chunks: Buffer[] = [];
    request.on('data', (chunk: Buffer) => chunks.push(chunk));
    request.on('end', () => {
      const target = request.headers['x-amz-target'];
      const seen: ApiRequest = {
        operation: typeof target === 'string' ? target : '',
        headers: request.headers,
        body: Buffer.concat(chunks).toString(),
      };
      requests.push(seen);
      const reply = api.answer(seen);
      if (reply === 'hang') return;
      if (reply === 'reset') {
        request.socket.destroy();
        return;
      }
      const { status = 200, body, headers = {} } = reply;
      response.writeHead(status, { 'content-type': 'application/x-amz-json-1.1', ...headers });
      response.end(typeof body === 'string' ? body : JSON.stringify(body));
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo; // a listening TCP server has one
  return {
    url: `${tls === undefined ? 'http' : 'https'}://localhost:${port}`,
    port,
    requests,
    get answer() {
      return api.answer;
    },
    set answer(next) {
      api.answer = next;
    },
    close: async () => {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

/** A modelled or common error in AWS JSON 1.1. */
export function apiError(
  name: string,
  status = 400,
  message = `${name} says the service`,
): ApiAnswer {
  return {
    status,
    headers: { 'x-amzn-requestid': '00000000-0000-4000-8000-000000000001' },
    body: { __type: `com.amazonaws.ssm#${name}`, message, Message: message },
  };
}
