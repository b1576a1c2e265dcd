import { randomUUID } from 'node:crypto';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { ApiError } from './api-error.ts';
import type { Service } from './service.ts';
import { verifySignature } from './sigv4.ts';
import type { Credentials } from './types.ts';

/** What an operation gets: its input, and who asks. */
export interface Call {
  readonly operation: string;
  readonly input: Readonly<Record<string, unknown>>;
  readonly credentials: Credentials;
}

export type Operation = (call: Call) => Promise<object> | object;

/** One AWS JSON API: the service name that requests are signed for, and its operations. */
export interface ApiTable {
  readonly targetPrefix: string;
  readonly signingName: string;
  /** Prefix of its IAM actions. */
  readonly actionPrefix: string;
  readonly operations: Readonly<Record<string, Operation>>;
}

const MAX_BODY_BYTES = 1024 * 1024;

/** The HTTP side of the JSON 1.1 APIs: X-Amz-Target decides which one is meant. */
export class Api {
  readonly #service: Service;
  readonly #tables: readonly ApiTable[];
  readonly #timers = new Set<NodeJS.Timeout>();

  constructor(service: Service, tables: readonly ApiTable[]) {
    this.#service = service;
    this.#tables = tables;
  }

  handle(request: IncomingMessage, response: ServerResponse): void {
    const chunks: Buffer[] = [];
    let size = 0;
    request.on('error', () => response.destroy());
    request.on('data', (chunk: Buffer) => {
      size += chunk.length;
      if (size <= MAX_BODY_BYTES) chunks.push(chunk);
      else request.destroy();
    });
    request.on('end', () => {
      void this.#answer(request, response, Buffer.concat(chunks));
    });
  }

  close(): void {
    for (const timer of this.#timers) clearTimeout(timer);
  }

  async #answer(request: IncomingMessage, response: ServerResponse, body: Buffer): Promise<void> {
    const target = String(request.headers['x-amz-target'] ?? '');
    const operation = target.split('.').at(-1) ?? '';
    const input = parseBody(body);
    const fault = this.#service.board.take(
      'api',
      (candidate) => candidate.operation === operation || candidate.operation === '*',
    );
    if (fault !== undefined) {
      this.#service.board.hit(`api.${operation}`);
      if (fault.delayMs !== undefined) await this.#sleep(fault.delayMs);
      if (fault.hang === true) {
        this.#record(operation, input, undefined, 0, 'hang');
        return;
      }
      if (fault.reset === true) {
        this.#record(operation, input, undefined, 0, 'reset');
        request.socket.destroy();
        return;
      }
      if (fault.html !== undefined) {
        this.#record(operation, input, undefined, 200, 'html');
        response.writeHead(200, { 'content-type': 'text/html' }).end(fault.html);
        return;
      }
    }
    let status = 200;
    let failure: string | undefined;
    let accessKeyId: string | undefined;
    let answer: object;
    try {
      const table = this.#tables.find((known) => target === `${known.targetPrefix}.${operation}`);
      const action = table?.operations[operation];
      if (table === undefined || action === undefined) {
        throw new ApiError('UnknownOperationException', '', { status: 404 });
      }
      const credentials = this.#authenticate(request, body, table, operation);
      accessKeyId = credentials.accessKeyId;
      if (fault?.error !== undefined) {
        const { name, message = 'injected', status: code } = fault.error;
        throw new ApiError(name, message, code === undefined ? {} : { status: code });
      }
      if (input === undefined) throw new ApiError('SerializationException', 'not a JSON object');
      answer = await action({ operation, input, credentials });
    } catch (error) {
      const known =
        error instanceof ApiError
          ? error
          : new ApiError('InternalServerError', String(error), { status: 500 });
      status = known.status;
      failure = known.code;
      answer = known.body();
    }
    this.#record(operation, input, accessKeyId, status, failure);
    const text = JSON.stringify(answer);
    response.writeHead(status, {
      // Clients correct their clock by it.
      date: new Date(this.#service.clock.now()).toUTCString(),
      'content-type': 'application/x-amz-json-1.1',
      'content-length': Buffer.byteLength(text),
      'x-amzn-requestid': randomUUID(),
    });
    response.end(text);
  }

  #authenticate(
    request: IncomingMessage,
    body: Buffer,
    table: ApiTable,
    operation: string,
  ): Credentials {
    const { settings, clock, credentials } = this.#service;
    const check = verifySignature(
      { method: request.method ?? '', target: request.url ?? '/', headers: request.headers, body },
      {
        service: table.signingName,
        region: settings.region,
        nowMs: clock.now(),
        maxSkewMs: settings.maxSkewMs,
        credentials,
      },
    );
    if (!check.ok) throw new ApiError(check.error, check.message, { isCoral: true });
    const action = `${table.actionPrefix}:${operation}`;
    if (check.credentials.denied?.includes(action) === true) {
      throw new ApiError(
        'AccessDeniedException',
        `User: arn:aws:sts::123456789012:assumed-role/emulator/user is not authorized to perform: ${action} on resource: arn:aws:ec2:${settings.region}:123456789012:instance/* because no identity-based policy allows the ${action} action`,
        { capitalMessage: true },
      );
    }
    return check.credentials;
  }

  #record(
    operation: string,
    input: Readonly<Record<string, unknown>> | undefined,
    accessKeyId: string | undefined,
    status: number,
    error: string | undefined,
  ): void {
    const at = Date.now();
    this.#service.apiCalls.push({ operation, input: input ?? {}, at, accessKeyId, status, error });
    this.#service.log(`api ${operation}: ${status}${error === undefined ? '' : ` ${error}`}`);
    this.#service.changed();
  }

  #sleep(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(() => {
        this.#timers.delete(timer);
        resolve();
      }, ms);
      this.#timers.add(timer);
    });
  }
}

function parseBody(body: Buffer): Readonly<Record<string, unknown>> | undefined {
  try {
    const json: unknown = JSON.parse(body.toString());
    return typeof json === 'object' && json !== null && !Array.isArray(json)
      ? { ...json }
      : undefined;
  } catch {
    return undefined;
  }
}
