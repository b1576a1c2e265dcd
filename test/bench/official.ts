import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import WebSocket from 'ws';
import { benchNode, cleanEnvironment, exited, ignore, pause } from './process.ts';
import { startService, type Peer } from './peer.ts';
import { onPath } from './programs.ts';
import type { ServiceEvent } from './service.ts';

type Received = Extract<ServiceEvent, { kind: 'received' }>;

/**
 * The upload rate of session-manager-plugin, bytes/ms: the program itself when it is on PATH, else
 * its sending loop rebuilt from its public source (streaming of standard input: read at most 1024
 * bytes, send, sleep 1 ms). The rebuilt loop flatters it: it neither hashes nor awaits anything.
 */
export async function officialUpload(
  forMs: number,
): Promise<{ readonly bytesPerMs: number; readonly isReal: boolean }> {
  const plugin = onPath('session-manager-plugin');
  const peer = await startService({ downloadBytes: 0, isBare: plugin === undefined });
  try {
    const stop = plugin === undefined ? startLoop(peer) : startPlugin(plugin, peer);
    const first = await peer.next('received', (event) => event.bytes > 0);
    await pause(forMs);
    await stop();
    // Reports come every few MiB, and a last one when the stream falls silent.
    const last = await lastReport(peer, first);
    return { bytesPerMs: last.bytes / (last.at - first.at), isReal: plugin !== undefined };
  } finally {
    peer.close();
  }
}

async function lastReport(peer: Peer, first: Received): Promise<Received> {
  let last = first;
  for (;;) {
    try {
      last = await peer.next('received', undefined, 500);
    } catch {
      return last;
    }
  }
}

function startLoop(peer: Peer): () => Promise<void> {
  const webSocket = new WebSocket(peer.url, {
    perMessageDeflate: false,
    ca: readFileSync(peer.env['AWS_CA_BUNDLE'] ?? ''),
  });
  const message = Buffer.alloc(120 + 1024);
  let timer: NodeJS.Timeout | undefined;
  const step = (): void => {
    webSocket.send(message);
    timer = setTimeout(step, 1);
  };
  webSocket.on('open', step);
  return () => {
    clearTimeout(timer);
    webSocket.terminate();
    return Promise.resolve();
  };
}

function startPlugin(plugin: string, peer: Peer): () => Promise<void> {
  const response = { SessionId: 'bench-session', TokenValue: 'bench-token', StreamUrl: peer.url };
  const endpoint = peer.env['AWS_ENDPOINT_URL_SSM'] ?? '';
  const request = JSON.stringify({ Target: benchNode });
  const args = [JSON.stringify(response), 'eu-central-1', 'StartSession', '', request, endpoint];
  const child = spawn(plugin, args, {
    // A Go program takes its roots from here; AWS_CA_BUNDLE it ignores for the WebSocket.
    env: cleanEnvironment({ ...peer.env, SSL_CERT_FILE: peer.env['AWS_CA_BUNDLE'] ?? '' }),
    stdio: ['pipe', 'ignore', 'inherit'],
  });
  const chunk = Buffer.alloc(64 * 1024, 'u');
  child.stdin.on('error', ignore);
  const feed = (): void => {
    while (child.stdin.writable && child.stdin.write(chunk));
  };
  child.stdin.on('drain', feed);
  feed();
  return async () => {
    child.kill('SIGKILL');
    await exited(child);
  };
}
