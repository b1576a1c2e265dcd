import { createServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import type { Duplex } from 'node:stream';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { WebSocketServer, type WebSocket } from 'ws';
import { certificates } from '../emulator/certs.ts';
import { decode, encode, encodeAck } from '../emulator/codec.ts';
import { nowMs } from './process.ts';

/**
 * The least that can play the service and an agent without being the bottleneck: download messages
 * are encoded in advance, acknowledgements are read and thrown away. It checks nothing; what is
 * correct is shown by the tests against the emulator, what is fast is shown here.
 */
export interface ServiceOptions {
  /** Bytes to send down once the session is open; 0 for none. */
  readonly downloadBytes: number;
  /** Plain WebSocket frames without a session, for the bare loops. */
  readonly isBare: boolean;
}

export type ServiceEvent =
  | { readonly kind: 'ready'; readonly env: Record<string, string>; readonly url: string }
  | { readonly kind: 'start-session'; readonly at: number }
  | { readonly kind: 'received'; readonly bytes: number; readonly at: number };

const payloadBytes = 1024;
const reportEveryBytes = 4 * 1024 * 1024;

export async function serve(
  options: ServiceOptions,
  tell: (event: ServiceEvent) => void,
): Promise<void> {
  const { ca, key, cert } = await certificates();
  const directory = mkdtempSync(join(tmpdir(), 'ssm-bridge-bench-'));
  process.once('exit', () => {
    rmSync(directory, { recursive: true, force: true });
  });
  const caFile = join(directory, 'ca.pem');
  writeFileSync(caFile, ca);
  let streamUrl = '';
  const server = createServer({ key, cert }, (request, response) => {
    const operation = String(request.headers['x-amz-target']).split('.')[1];
    if (operation === 'StartSession') tell({ kind: 'start-session', at: nowMs() });
    request.resume();
    request.on('end', () => {
      const body = { SessionId: 'bench-session', TokenValue: 'bench-token', StreamUrl: streamUrl };
      response.setHeader('content-type', 'application/x-amz-json-1.1');
      response.end(JSON.stringify(body));
    });
  });
  const gateway = new WebSocketServer({ noServer: true, perMessageDeflate: false });
  server.on('upgrade', (request, socket: Duplex, head) => {
    gateway.handleUpgrade(request, socket, head, (webSocket) => {
      if (options.isBare) bare(webSocket, socket, options, tell);
      else session(webSocket, socket, options, tell);
    });
  });
  server.listen(0, '127.0.0.1', () => {
    // A TCP server's address is an object; the string form is for pipes.
    const { port } = server.address() as AddressInfo;
    streamUrl = `wss://localhost:${port}/v1/data-channel/bench-session?role=publish_subscribe`;
    tell({
      kind: 'ready',
      url: streamUrl,
      env: {
        AWS_ENDPOINT_URL_SSM: `https://localhost:${port}`,
        AWS_CA_BUNDLE: caFile,
        AWS_REGION: 'eu-central-1',
        AWS_ACCESS_KEY_ID: 'AKIABENCHBENCHBENCH1',
        AWS_SECRET_ACCESS_KEY: 'bench',
        AWS_EC2_METADATA_DISABLED: 'true',
      },
    });
  });
}

function session(
  webSocket: WebSocket,
  socket: Duplex,
  options: ServiceOptions,
  tell: (event: ServiceEvent) => void,
): void {
  const count = counter(tell);
  webSocket.on('error', ignore);
  webSocket.on('message', (data: Buffer, isBinary) => {
    if (!isBinary) {
      webSocket.send(agentMessage(0, 5, handshakeRequest));
      return;
    }
    const message = decode(data);
    if (message?.type !== 'input_stream_data') return;
    webSocket.send(encodeAck(message.type, message.messageId, message.seq));
    if (message.payloadType === 6) {
      webSocket.send(agentMessage(1, 7, '{"HandshakeTimeToComplete":1,"CustomerMessage":""}'));
      // The bridge waits for a first byte from sshd, and no longer than a login may take.
      if (options.downloadBytes > 0) void blast(socket, options.downloadBytes);
      else webSocket.send(agentMessage(2, 1, 'SSH-2.0-bench\r\n'));
    } else if (message.payloadType === 1) {
      count(message.payload.length);
    } else if (message.payloadType === 10) {
      webSocket.close(1000);
    }
  });
}

function bare(
  webSocket: WebSocket,
  socket: Duplex,
  options: ServiceOptions,
  tell: (event: ServiceEvent) => void,
): void {
  const count = counter(tell);
  webSocket.on('error', ignore);
  webSocket.on('message', (data: Buffer) => {
    count(data.length - 120);
  });
  if (options.downloadBytes > 0) void blast(socket, options.downloadBytes);
}

function counter(tell: (event: ServiceEvent) => void): (bytes: number) => void {
  let received = 0;
  let reported = -reportEveryBytes;
  let timer: NodeJS.Timeout | undefined;
  const report = (): void => {
    reported = received;
    tell({ kind: 'received', bytes: received, at: nowMs() });
  };
  return (bytes) => {
    received += bytes;
    if (received - reported >= reportEveryBytes) report();
    clearTimeout(timer);
    timer = setTimeout(report, 20);
  };
}

const handshakeRequest =
  '{"AgentVersion":"3.3.0.0","RequestedClientActions":[{"ActionType":"SessionType","ActionParameters":{"SessionType":"Port","Properties":{"portNumber":"22"}}}]}';

function agentMessage(seq: number, payloadType: number, payload: string): Buffer {
  return encode({ type: 'output_stream_data', seq, payloadType, payload: Buffer.from(payload) });
}

/** Writes `bytes` of stream data as fast as the connection takes them, in ready-made batches. */
async function blast(socket: Duplex, bytes: number): Promise<void> {
  const perBatch = 64;
  const payload = Buffer.alloc(payloadBytes, 'x');
  payload.write('SSH-2.0-bench\r\n');
  const message = encode({ type: 'output_stream_data', payloadType: 1, payload });
  const frame = Buffer.concat([Buffer.from([0x82, 126, 0, 0]), message]);
  frame.writeUInt16BE(message.length, 2);
  let seq = 2;
  const messages = Math.ceil(bytes / payloadBytes);
  for (let sent = 0; sent < messages;) {
    const count = Math.min(perBatch, messages - sent);
    const batch = Buffer.allocUnsafe(count * frame.length);
    for (let index = 0; index < count; index += 1) {
      frame.copy(batch, index * frame.length);
      batch.writeUInt32BE(seq, index * frame.length + 4 + 52);
      batch.writeUInt32BE(seq, index * frame.length + 4 + 68);
      seq += 1;
    }
    sent += count;
    if (!socket.write(batch)) {
      if (socket.destroyed || !(await drained(socket))) return;
    }
  }
}

function ignore(): void {
  // A client that hangs up has what it wanted.
}

/** False when it is closed instead. */
function drained(socket: Duplex): Promise<boolean> {
  return new Promise((resolve) => {
    const finish = (isOpen: boolean) => (): void => {
      socket.off('drain', onDrain);
      socket.off('close', onClose);
      resolve(isOpen);
    };
    const onDrain = finish(true);
    const onClose = finish(false);
    socket.on('drain', onDrain);
    socket.on('close', onClose);
  });
}
