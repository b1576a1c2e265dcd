import * as crypto from 'node:crypto';
import { readFileSync } from 'node:fs';
import WebSocket from 'ws';
import { costOf } from './process.ts';

/**
 * What `ws` alone can do on this machine: a loop that receives or sends messages of our layout with
 * one SHA-256 each, no sequence, no acknowledgement, no pipe. The yardstick for the relay.
 */
export interface BareOptions {
  readonly url: string;
  readonly caFile: string;
  readonly direction: 'receive' | 'send';
  readonly bytes: number;
  readonly payloadBytes: number;
  /** Sending only: no more than this, a few at a time, as the bridge does for the service's sake. */
  readonly messagesPerSecond?: number;
}

export interface BareResult {
  readonly ms: number;
  readonly cpuMs: number;
  readonly rssBytes: number;
  readonly pssBytes: number;
}

export function runBare(options: BareOptions): Promise<BareResult> {
  const webSocket = new WebSocket(options.url, {
    perMessageDeflate: false,
    ca: readFileSync(options.caFile),
  });
  return new Promise((resolve) => {
    webSocket.on('open', () => {
      const startedAt = performance.now();
      const cpuBefore = costOf(process.pid).cpuMs;
      const finish = (): void => {
        const ms = performance.now() - startedAt;
        const { cpuMs, rssBytes, pssBytes } = costOf(process.pid);
        resolve({ ms, cpuMs: cpuMs - cpuBefore, rssBytes, pssBytes });
        webSocket.terminate();
      };
      if (options.direction === 'receive') receive(webSocket, options.bytes, finish);
      else send(webSocket, options, finish);
    });
  });
}

function receive(webSocket: WebSocket, bytes: number, finish: () => void): void {
  let received = 0;
  let isDone = false;
  webSocket.on('message', (data: Buffer) => {
    const payload = data.subarray(120);
    crypto.hash('sha256', payload, 'buffer');
    received += payload.length;
    if (received < bytes || isDone) return;
    isDone = true;
    finish();
  });
}

function send(webSocket: WebSocket, options: BareOptions, finish: () => void): void {
  const { bytes, payloadBytes } = options;
  const payload = Buffer.alloc(payloadBytes, 'x');
  let sent = 0;
  const perMs = (options.messagesPerSecond ?? Number.POSITIVE_INFINITY) / 1000;
  const startedAt = performance.now();
  const isDue = (): boolean => sent < payloadBytes * perMs * (performance.now() - startedAt);
  const again = options.messagesPerSecond === undefined ? setImmediate : after4Ms;
  const step = (): void => {
    while (sent < bytes && isDue() && webSocket.bufferedAmount < 1024 * 1024) {
      const message = Buffer.allocUnsafe(120 + payloadBytes);
      message.set(crypto.hash('sha256', payload, 'buffer'), 80);
      message.set(payload, 120);
      sent += payloadBytes;
      webSocket.send(message, sent >= bytes ? finish : undefined);
    }
    if (sent < bytes) again(step);
  };
  step();
}

function after4Ms(act: () => void): void {
  setTimeout(act, 4);
}
