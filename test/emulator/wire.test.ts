import { readFileSync } from 'node:fs';
import type { Socket } from 'node:net';
import { afterEach, expect, test } from 'vitest';
import * as codec from './codec.ts';
import { rig as makeRig, type Rig } from './fixtures.ts';
import { startSession, TestClient } from './test-client.ts';

/** Frames captured from AWS's public client and agent; the first line says from which. */
interface Captured {
  readonly session: string;
  readonly from: 'client' | 'agent';
  readonly text?: string;
  readonly frame?: string;
  readonly example?: boolean;
}

const captured = readFileSync(
  new URL('../vectors/captured-sessions.jsonl', import.meta.url),
  'utf8',
)
  .trim()
  .split('\n')
  .slice(1)
  .map((line) => JSON.parse(line) as Captured); // our own file

function frames(session: string, from: string): Buffer[] {
  return captured
    .filter((item) => item.session === session && item.from === from && item.example !== true)
    .flatMap((item) => (item.frame === undefined ? [] : [Buffer.from(item.frame, 'base64')]));
}

let rig: Rig | undefined;

afterEach(async () => {
  await rig?.close();
  rig = undefined;
});

test('every captured frame is decoded and encoded to the same bytes', () => {
  const all = captured.flatMap((item) => (item.frame === undefined ? [] : [item.frame]));
  expect(all.length).toBeGreaterThan(30);
  for (const base64 of all) {
    const frame = Buffer.from(base64, 'base64');
    const message = codec.decode(frame)!;
    expect(message.payloadLength).toBe(message.payload.length);
    const again = codec.encode({
      ...message,
      headerLength: 116,
      messageId: message.messageId.replaceAll('-', ''),
    });
    expect(again.equals(frame)).toBe(true);
  }
});

test('a resent message has the same bytes as the first one', () => {
  const [first, second] = frames('resume', 'agent');
  expect(first?.equals(second!)).toBe(true);
});

test('a resumed socket has a new request id and the same client id', () => {
  const [first, second] = captured
    .filter((item) => item.session === 'resume' && item.text !== undefined)
    .map((item) => JSON.parse(item.text!) as Record<string, string>);
  expect(first?.['ClientId']).toBe(second?.['ClientId']);
  expect(first?.['RequestId']).not.toBe(second?.['RequestId']);
});

/** What of an agent's message does not differ from run to run. */
function facts(frame: Buffer): string {
  const message = codec.decode(frame)!;
  const payload = message.payload
    .toString('latin1')
    .replace(/"HandshakeTimeToComplete":\d+/, '"HandshakeTimeToComplete":0')
    .replace(/"SessionId":"[^"]*"/, '"SessionId":""')
    // The port of the destination, which is another one here.
    .replace(/"portNumber":"\d+"/, '"portNumber":"0"');
  return `${message.headerLength} ${message.type} ${message.seq} ${message.flags} ${message.payloadType} ${payload}`;
}

/** The payloads of type 1, joined. */
function outputOf(all: readonly Buffer[]): Buffer {
  const messages = all.map((frame) => codec.decode(frame)!);
  return Buffer.concat(
    messages.filter((message) => message.payloadType === 1).map((message) => message.payload),
  );
}

const isStream = (fact: string): boolean => fact.includes('output_stream_data');
const isAck = (fact: string): boolean => fact.includes(' acknowledge ');

/** The little server of the capture: greets, takes 3004 bytes, answers with 3009, closes. */
function transcript(socket: Socket): void {
  let received = 0;
  socket.write('SSH-2.0-transcript_1.0\r\n');
  socket.on('data', (chunk) => {
    received += chunk.length;
    if (received < 3004) return;
    socket.write('got 3004\n');
    setTimeout(() => {
      socket.end(Buffer.from(Array.from({ length: 3000 }, (_, index) => index & 255)));
    }, 20);
  });
}

/** Sends the captured client's stream messages as they were, each when the agent is ready for it. */
async function replay(session: 'basic' | 'mux', input: object): Promise<TestClient> {
  rig = await makeRig(transcript, {}, { agentVersion: '3.3.0.0' });
  const { emulator, destination } = rig;
  const parameters = { portNumber: [String(destination.port)], ...input };
  if (session === 'basic') parameters.portNumber = ['22'];
  const isRemote = session === 'mux';
  const grant = await startSession(emulator, {
    DocumentName: isRemote ? 'AWS-StartPortForwardingSessionToRemoteHost' : 'AWS-StartSSHSession',
    Parameters: parameters,
  });
  const client = new TestClient(emulator, { handshake: false });
  await client.open(grant);
  const has = (payloadType: number) => () =>
    client.has((message) => message.payloadType === payloadType);
  const [response, ...rest] = frames(session, 'client');
  await emulator.waitFor(has(5), 'HandshakeRequest');
  client.webSocket.send(response!);
  await emulator.waitFor(() => emulator.sessions[0]?.handshakeDone === true, 'open');
  if (!isRemote) await emulator.waitFor(has(1), 'greeting');
  // As captured: the last message of the smux session, its FIN, comes after the agent's.
  const last = isRemote ? rest.pop() : undefined;
  for (const [index, frame] of rest.entries()) {
    client.webSocket.send(frame);
    if (isRemote && index === 0) await emulator.waitFor(has(1), 'greeting');
  }
  // Where the byte stream is cut into messages depends on when the agent reads.
  const expected = outputOf(frames(session, 'agent')).length;
  await emulator.waitFor(() => client.receivedBytes === expected, 'all of the agent');
  if (last !== undefined) client.webSocket.send(last);
  const acks = frames(session, 'agent').map(facts).filter(isAck).length;
  await emulator.waitFor(() => client.acked.size === acks, 'acknowledgements');
  expect(emulator.violations()).toEqual([]);
  return client;
}

test('replaying the captured SSH session gives the captured messages of the agent', async () => {
  const client = await replay('basic', {});
  const heard = client.frames.map(facts);
  const expected = frames('basic', 'agent').map(facts);
  expect(heard.filter(isStream)).toEqual(expected.filter(isStream));
  expect(heard.filter(isAck)).toEqual(expected.filter(isAck));
  await rig?.emulator.waitFor(() => client.closedOutput === '', 'channel_closed');
});

test('replaying the captured smux session gives the same bytes in the same frames', async () => {
  const client = await replay('mux', { host: ['127.0.0.1'] });
  expect(outputOf(client.frames).equals(outputOf(frames('mux', 'agent')))).toBe(true);
  const acks = (all: Buffer[]): string[] => all.map(facts).filter(isAck);
  expect(acks(client.frames)).toEqual(acks(frames('mux', 'agent')));
});

test('the properties of each document are those the agent sends', async () => {
  rig = await makeRig();
  const { emulator, destination } = rig;
  const properties: unknown[] = [];
  for (const input of [
    {},
    {
      DocumentName: 'AWS-StartPortForwardingSession',
      Parameters: { portNumber: ['22'], localPortNumber: ['5022'] },
    },
    {
      DocumentName: 'AWS-StartPortForwardingSessionToRemoteHost',
      Parameters: { host: ['127.0.0.1'], portNumber: [String(destination.port)] },
    },
  ]) {
    const client = await TestClient.start(emulator, {}, input);
    await emulator.waitFor(() => client.has((message) => message.payloadType === 5), 'request');
    const request = client.messages.find((message) => message.payloadType === 5);
    const match = /"Properties":(\{[^}]*\})/.exec(String(request?.payload));
    properties.push(JSON.parse(match![1]!));
  }
  const port = String(destination.port);
  expect(properties).toEqual([
    { portNumber: '22' },
    { portNumber: '22', localPortNumber: '5022', type: 'LocalPortForwarding' },
    { host: '127.0.0.1', portNumber: port, localPortNumber: '0', type: 'LocalPortForwarding' },
  ]);
});
