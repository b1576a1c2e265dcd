import { afterEach, expect, test } from 'vitest';
import * as codec from './codec.ts';
import { closedPort, nodeId, rig as makeRig, type Rig } from './fixtures.ts';
import { resumeSession, startSession, TestClient } from './test-client.ts';
import { pacedTuning } from './emulator.ts';

let rig: Rig | undefined;
const setUp = async (...options: Parameters<typeof makeRig>): Promise<Rig> => {
  rig = await makeRig(...options);
  return rig;
};

afterEach(async () => {
  await rig?.close();
  rig = undefined;
});

test('relays bytes both ways and says nothing against a correct client', async () => {
  const { emulator } = await setUp();
  const client = await TestClient.start(emulator);
  await emulator.waitFor(() => client.has((message) => message.payloadType === 7), 'complete');
  client.send('hello');
  await emulator.waitFor(() => client.text === 'hello', 'echo');
  await emulator.waitFor(() => client.acked.has(1), 'ack');
  const [session] = emulator.sessions;
  expect(session?.mode).toBe('basic');
  expect(session?.violations).toEqual([]);
});

test('the first message is start_publication with an empty payload and a wrong digest', async () => {
  const { emulator } = await setUp();
  const client = await TestClient.start(emulator);
  await emulator.waitFor(() => client.messages.length > 1, 'messages');
  const [first] = client.messages;
  expect(first?.type).toBe('start_publication');
  expect(first?.payload.length).toBe(0);
  expect(first?.digest.equals(Buffer.alloc(32))).toBe(true);
});

test('the handshake request is numbered 0 and carries the SYN bit', async () => {
  const { emulator } = await setUp();
  const client = await TestClient.start(emulator);
  await emulator.waitFor(() => client.has((message) => message.payloadType === 5), 'request');
  const request = client.messages.find((message) => message.payloadType === 5);
  expect(request?.seq).toBe(0);
  expect(request?.flags).toBe(1);
  expect(JSON.parse(String(request?.payload))).toMatchObject({
    RequestedClientActions: [
      {
        ActionType: 'SessionType',
        ActionParameters: { SessionType: 'Port', Properties: { portNumber: '22' } },
      },
    ],
  });
});

test('data before HandshakeComplete is acknowledged, lost and recorded', async () => {
  const { emulator } = await setUp(undefined, { agent: { handshakeCompleteDelayMs: 50 } });
  const client = await TestClient.start(emulator, { handshake: false });
  await emulator.waitFor(() => client.has((message) => message.payloadType === 5), 'request');
  client.nextSeq = 1;
  client.send('too early');
  client.nextSeq = 0;
  client.send(
    '{"ClientVersion":"1.2.764.0","ProcessedClientActions":[]}',
    codec.payloadTypes.handshakeResponse,
  );
  await emulator.waitFor(() => client.acked.has(1), 'ack');
  client.nextSeq = 2;
  await emulator.waitFor(() => emulator.sessions[0]?.handshakeDone === true, 'open');
  client.send('in time');
  await emulator.waitFor(() => client.text === 'in time', 'echo');
  expect(emulator.violations().join()).toContain('before HandshakeComplete');
});

test('data is not acknowledged before the TCP connection is up', async () => {
  const { emulator } = await setUp(undefined, { agent: { dialDelayMs: 150 } });
  const client = await TestClient.start(emulator);
  await emulator.waitFor(() => client.has((message) => message.payloadType === 7), 'complete');
  const frame = client.send('first');
  client.send('second');
  await emulator.waitFor(() => client.acked.has(2), 'early message to be acknowledged');
  expect(client.acked.has(1)).toBe(false);
  await emulator.waitFor(() => emulator.sessions[0]?.handshakeDone === true, 'dial');
  client.webSocket.send(frame);
  await emulator.waitFor(() => client.text === 'firstsecond', 'echo');
  expect(emulator.sessions[0]?.counters.duplicates).toBe(1);
  expect(emulator.violations()).toEqual([]);
});

test('an agent before 3.0.655.0 acknowledges and loses data that comes before the connection', async () => {
  const { emulator } = await setUp(
    undefined,
    { agent: { dialDelayMs: 150 } },
    { agentVersion: '3.0.600.0' },
  );
  const client = await TestClient.start(emulator);
  await emulator.waitFor(() => client.has((message) => message.payloadType === 7), 'complete');
  client.send('lost');
  await emulator.waitFor(() => client.acked.has(1), 'ack');
  await emulator.waitFor(() => emulator.sessions[0]?.handshakeDone === true, 'dial');
  client.send('kept');
  await emulator.waitFor(() => client.text === 'kept', 'echo');
});

test.each([
  ['3.3.2299.0', true],
  ['3.2.1000.0', false],
])('agent %s acknowledges duplicates again: %s', async (agentVersion, isReacked) => {
  const { emulator } = await setUp(undefined, {}, { agentVersion });
  const client = await TestClient.start(emulator);
  await emulator.waitFor(() => emulator.sessions[0]?.handshakeDone === true, 'open');
  const frame = client.send('once');
  await emulator.waitFor(() => client.text === 'once', 'echo');
  client.webSocket.send(frame);
  client.send('.');
  await emulator.waitFor(() => client.text === 'once.', 'echo');
  const acks = client.messages.filter((message) => String(message.payload).includes('Number":1,'));
  expect(acks.length).toBe(isReacked ? 2 : 1);
});

test('a handshake that is not answered ends the session with a text', async () => {
  const { emulator } = await setUp(undefined, { agent: { handshakeTimeoutMs: 80, drainMs: 50 } });
  const client = await TestClient.start(emulator, { handshake: false });
  await emulator.waitFor(() => client.closedOutput !== undefined, 'channel_closed');
  expect(client.closedOutput).toContain('Handshake timed out');
  expect(emulator.sessions[0]?.endedBy).toBe('handshake-failed');
});

test('an action status other than 1 ends the session', async () => {
  const { emulator } = await setUp(undefined, {}, { kms: true });
  const client = await TestClient.start(emulator);
  await emulator.waitFor(() => client.closedOutput !== undefined, 'channel_closed');
  expect(client.closedOutput).toContain('KMSEncryption failed on client with status 3');
});

test('channel_closed has a header of 112 bytes and a type padded with NULs', async () => {
  const { emulator } = await setUp((socket) => socket.end('bye'));
  const client = await TestClient.start(emulator);
  await emulator.waitFor(() => client.closedOutput !== undefined, 'channel_closed');
  const frame = client.frames.at(-1)!;
  expect(frame.readUInt32BE(0)).toBe(112);
  expect(frame.subarray(18, 36).equals(Buffer.alloc(18))).toBe(true);
  expect(client.text).toBe('bye');
  expect(emulator.sessions[0]?.endedBy).toBe('remote-closed');
  expect(client.closedOutput).toBe('');
});

test('without acknowledgements the agent gives up its tail after the drain time', async () => {
  const { emulator } = await setUp((socket) => socket.end('bye'), { agent: { drainMs: 300 } });
  const client = await TestClient.start(emulator);
  client.acks = false;
  await emulator.waitFor(() => client.closedOutput !== undefined, 'channel_closed');
  const { resent } = emulator.sessions[0]!.counters;
  expect(resent).toBeGreaterThan(0);
});

test('a stalled destination stops acknowledgements, and nothing is lost when it goes on', async () => {
  let received = 0;
  const { emulator, destination } = await setUp((socket) => {
    socket.pause();
    socket.on('data', (chunk) => (received += chunk.length));
  });
  const client = await TestClient.start(emulator);
  await emulator.waitFor(() => emulator.sessions[0]?.handshakeDone === true, 'open');
  const count = 1500;
  for (let index = 0; index < count; index++) client.send(Buffer.alloc(16_384, index));
  let before = -1;
  await emulator.waitFor(() => {
    const isStill = client.acked.size === before && client.acked.size > 1;
    before = client.acked.size;
    return isStill;
  }, 'acknowledgements to stop');
  expect(client.acked.size).toBeLessThan(count);
  destination.sockets[0]?.resume();
  await emulator.waitFor(() => received === count * 16_384, 'everything at the destination');
  await emulator.waitFor(() => client.acked.size === count + 1, 'everything acknowledged');
  expect(emulator.violations()).toEqual([]);
});

test('TerminateSession flag is acknowledged and ends the session', async () => {
  const { emulator } = await setUp();
  const client = await TestClient.start(emulator);
  await emulator.waitFor(() => emulator.sessions[0]?.handshakeDone === true, 'open');
  client.flag(2);
  await emulator.waitFor(() => emulator.openSessionCount() === 0, 'end');
  await emulator.waitFor(() => client.closedOutput === '', 'channel_closed');
  expect(emulator.sessions[0]?.endedBy).toBe('terminate-flag');
  expect(client.acked.has(1)).toBe(true);
});

test('DisconnectToPort ends an SSH session as failed, unacknowledged', async () => {
  const { emulator } = await setUp();
  const client = await TestClient.start(emulator);
  await emulator.waitFor(() => emulator.sessions[0]?.handshakeDone === true, 'open');
  client.flag(1);
  await emulator.waitFor(() => client.closedOutput !== undefined, 'end');
  expect(emulator.sessions[0]?.endedBy).toBe('remote-failed');
  expect(client.acked.has(1)).toBe(false);
});

test('a refused port crashes the worker: pause_publication, the reason much later', async () => {
  const port = await closedPort();
  const { emulator } = await setUp(
    undefined,
    { agent: { crashReportMs: 100 } },
    { ports: { 22: { host: '127.0.0.1', port } } },
  );
  const client = await TestClient.start(emulator);
  await emulator.waitFor(
    () => client.has((message) => message.type === 'pause_publication'),
    'pause',
  );
  expect(client.closedOutput).toBeUndefined();
  await emulator.waitFor(() => client.closedOutput !== undefined, 'channel_closed');
  expect(client.closedOutput).toContain('document process failed unexpectedly');
  expect(emulator.sessions[0]?.counters.failedDials).toBe(1);
});

test.each([
  ['shell', 'sh-4.2$ '],
  ['shell-handshake', 'sh-4.2$ '],
] as const)('behaviour %s starts a shell instead of a port', async (behaviour, prompt) => {
  const { emulator } = await setUp(undefined, {}, { behaviour });
  const client = await TestClient.start(emulator);
  await emulator.waitFor(() => client.text.endsWith(prompt), 'prompt');
  const request = client.messages.find((message) => message.payloadType === 5);
  expect(request === undefined).toBe(behaviour === 'shell');
});

test('an agent without the port plugin says so in channel_closed', async () => {
  const { emulator } = await setUp(undefined, {}, { behaviour: 'no-port-plugin' });
  const client = await TestClient.start(emulator);
  await emulator.waitFor(() => client.closedOutput !== undefined, 'channel_closed');
  expect(client.closedOutput).toContain('Port is not supported');
});

test('a repeated handshake request has the same bytes', async () => {
  const { emulator } = await setUp(undefined, { agent: { handshakeRequestCopies: 2 } });
  const client = await TestClient.start(emulator);
  await emulator.waitFor(() => client.has((message) => message.payloadType === 7), 'complete');
  const requests = client.frames.filter((frame) => codec.decode(frame)?.payloadType === 5);
  expect(requests.length).toBe(2);
  expect(requests[0]?.equals(requests[1]!)).toBe(true);
});

test('paced, the agent sends at most 1024 bytes a read and resends only the oldest', async () => {
  const { emulator } = await setUp((socket) => socket.write(Buffer.alloc(5000, 7)), {
    agent: pacedTuning,
  });
  const client = await TestClient.start(emulator);
  await emulator.waitFor(() => client.receivedBytes === 0 && client.messages.length > 2, 'start');
  client.acks = false;
  await emulator.waitFor(() => client.receivedBytes === 5000, 'data');
  await emulator.waitFor(() => emulator.sessions[0]!.counters.resent >= 2, 'resends');
  const data = client.messages.filter((message) => message.payloadType === 1);
  expect(Math.max(...data.map((message) => message.payload.length))).toBeLessThanOrEqual(1024);
  const seqs = data.map((message) => message.seq);
  const twice = new Set(seqs.filter((seq, index) => seqs.indexOf(seq) !== index));
  expect(twice.size).toBeLessThanOrEqual(1);
});

test('a new socket takes over: what was unacknowledged comes again, numbers go on', async () => {
  const { emulator } = await setUp((socket) => {
    socket.write('one');
    socket.on('data', () => socket.write('two'));
  });
  const client = await TestClient.start(emulator);
  await emulator.waitFor(() => client.text === 'one', 'data');
  const [session] = emulator.sessions;
  session?.resetSocket();
  await emulator.waitFor(() => session?.isConnected === false, 'loss');
  await client.open(await resumeSession(emulator, session!.id));
  client.send('x');
  await emulator.waitFor(() => client.text === 'onetwo', 'data');
  expect(session?.counters.connections).toBe(2);
  expect(emulator.violations()).toEqual([]);
});

test('paused while the client is away, the agent does not read its port', async () => {
  const chunk = Buffer.alloc(4 * 1024 * 1024, 1);
  const { emulator, destination } = await setUp((socket) =>
    socket.once('data', () => socket.write(chunk)),
  );
  const client = await TestClient.start(emulator);
  await emulator.waitFor(() => emulator.sessions[0]?.handshakeDone === true, 'open');
  const [session] = emulator.sessions;
  session?.resetSocket();
  await emulator.waitFor(() => session?.isConnected === false, 'loss');
  const sent = session!.counters.sentBytes;
  destination.sockets[0]?.write(chunk);
  await client.open(await resumeSession(emulator, session!.id));
  await emulator.waitFor(() => client.receivedBytes >= chunk.length, 'data');
  expect(sent).toBeLessThan(chunk.length);
});

test('the agent starts at StartSession when told to, and its request waits for the client', async () => {
  const { emulator } = await setUp(undefined, { agentStart: 'start-session' });
  const grant = await startSession(emulator);
  await emulator.waitFor(() => emulator.sessions[0]!.counters.sentMessages === 1, 'request');
  const client = new TestClient(emulator);
  await client.open(grant);
  await emulator.waitFor(() => emulator.sessions[0]?.handshakeDone === true, 'open');
});

test('forbidden and unknown hosts end a remote-host session with a text', async () => {
  const { emulator } = await setUp();
  for (const [host, text] of [
    ['169.254.169.254', 'is forbidden'],
    ['no-such-host.invalid', 'no such host'],
  ] as const) {
    const client = await TestClient.start(
      emulator,
      {},
      {
        DocumentName: 'AWS-StartPortForwardingSessionToRemoteHost',
        Parameters: { host: [host], portNumber: ['22'], localPortNumber: ['0'] },
      },
    );
    await emulator.waitFor(() => client.closedOutput !== undefined, 'channel_closed');
    expect(client.closedOutput).toContain(text);
  }
});

test('an idle session ends after the idle timeout, whatever the agent sends', async () => {
  const { emulator } = await setUp(undefined, { idleTimeoutMs: 200 });
  const client = await TestClient.start(emulator);
  await emulator.waitFor(() => client.closedOutput !== undefined, 'end');
  expect(emulator.sessions[0]?.endedBy).toBe('idle-timeout');
  expect(nodeId).toBe(emulator.sessions[0]?.target);
});
