import { connect } from 'node:net';
import { afterEach, expect, test } from 'vitest';
import { rig as makeRig, type Rig } from './fixtures.ts';
import { callApi, resumeSession, startSession, TestClient } from './test-client.ts';
import type { DirectionFaults, Emulator, SessionRecord } from './types.ts';

let rig: Rig | undefined;
const setUp = async (...options: Parameters<typeof makeRig>): Promise<Rig> => {
  rig = await makeRig(...options);
  return rig;
};

afterEach(async () => {
  await rig?.close();
  rig = undefined;
});

async function open(emulator: Emulator): Promise<{ client: TestClient; session: SessionRecord }> {
  const client = await TestClient.start(emulator);
  await emulator.waitFor(() => emulator.sessions.at(-1)?.handshakeDone === true, 'open');
  return { client, session: emulator.sessions.at(-1)! };
}

test.each<[string, DirectionFaults]>([
  ['loss', { loss: 0.2 }],
  ['duplicate', { duplicate: 0.3 }],
  ['reorder', { reorder: 0.3 }],
  ['corruptDigest', { corruptDigest: 0.2 }],
  ['corruptPayload', { corruptPayload: 0.2 }],
  ['truncate', { truncate: 0.2 }],
  ['oversizeHeader', { oversizeHeader: 0.2 }],
  ['unknownType', { unknownType: 0.3 }],
])('%s towards the client happens, and the data still gets through', async (name, faults) => {
  const data = Buffer.alloc(100_000, 'abcdefg');
  const { emulator } = await setUp((socket) => socket.on('data', () => socket.write(data)));
  const { client } = await open(emulator);
  emulator.faults.set({ toClient: faults });
  client.send('go');
  await emulator.waitFor(() => client.receivedBytes >= data.length, 'data');
  expect(Buffer.concat(client.received).equals(data)).toBe(true);
  expect(emulator.faults.hits[`toClient.${name}`]).toBeGreaterThan(0);
  expect(emulator.violations()).toEqual([]);
});

test.each<[string, DirectionFaults]>([
  ['loss', { loss: 1 }],
  ['truncate', { truncate: 1 }],
  ['oversizeHeader', { oversizeHeader: 1 }],
])('%s towards the agent leaves a message unacknowledged', async (name, faults) => {
  const { emulator } = await setUp();
  const { client } = await open(emulator);
  emulator.faults.set({ toAgent: { ...faults, only: (frame) => frame.type !== 'acknowledge' } });
  const frame = client.send('hello');
  await emulator.waitFor(() => emulator.faults.hits[`toAgent.${name}`] === 1, 'fault');
  emulator.faults.clear();
  client.webSocket.send(frame);
  await emulator.waitFor(() => client.text === 'hello', 'echo');
  expect(client.messages.filter((message) => message.type === 'acknowledge')).toHaveLength(2);
  expect(emulator.violations()).toEqual([]);
});

test('withheld acknowledgements never reach the client', async () => {
  const { emulator } = await setUp();
  const { client } = await open(emulator);
  emulator.faults.set({ toClient: { withholdAcks: true } });
  client.send('hello');
  await emulator.waitFor(() => client.text === 'hello', 'echo');
  expect(client.acked.has(1)).toBe(false);
});

test('delay keeps the order, with jitter too', async () => {
  const { emulator } = await setUp();
  const { client } = await open(emulator);
  emulator.faults.set({ toClient: { delayMs: 10, jitterMs: 30 } });
  for (let index = 0; index < 30; index++) client.send(`${index},`);
  await emulator.waitFor(() => client.text.endsWith('29,'), 'echo');
  const fresh = client.messages
    .filter((message) => message.payloadType === 1)
    .map((message) => message.seq);
  const firsts = fresh.filter((seq, index) => fresh.indexOf(seq) === index);
  expect(firsts).toEqual([...firsts].sort((left, right) => left - right));
});

test('a stall towards the client ends when the faults are cleared', async () => {
  const { emulator } = await setUp();
  const { client, session } = await open(emulator);
  emulator.faults.set({ toClient: { stall: true } });
  client.send('hello');
  await emulator.waitFor(() => session.counters.sentBytes > 0 && session.unacked > 0, 'sent');
  expect(client.text).toBe('');
  emulator.faults.clear();
  await emulator.waitFor(() => client.text === 'hello', 'echo');
});

test('a stall towards the agent stops the reading of the socket', async () => {
  const { emulator } = await setUp();
  const { client, session } = await open(emulator);
  emulator.faults.set({ toAgent: { stall: true } }, session.id);
  for (let index = 0; index < 2000; index++) client.send(Buffer.alloc(16_384));
  await emulator.waitFor(() => client.webSocket.bufferedAmount > 1_000_000, 'a full socket');
  expect(session.counters.messages).toBeLessThan(2000);
  emulator.faults.clear(session.id);
  await emulator.waitFor(() => client.receivedBytes === 2000 * 16_384, 'echo', 20_000);
  expect(emulator.violations()).toEqual([]);
});

test.each([
  ['close', 1001, 1001],
  ['close', 4321, 4321],
  ['end', undefined, 1006],
  ['reset', undefined, 1006],
] as const)('socket fault %s (%s) after so many bytes', async (how, code, seen) => {
  const { emulator } = await setUp((socket) => socket.write(Buffer.alloc(50_000)));
  emulator.faults.set({
    socket: [{ how, after: { bytes: 20_000 }, ...(code === undefined ? {} : { code }) }],
  });
  const client = await TestClient.start(emulator);
  await emulator.waitFor(() => client.closeCode !== undefined, 'close');
  expect(client.closeCode).toBe(seen);
  expect(emulator.faults.hits[`socket.${how}`]).toBe(1);
  const [session] = emulator.sessions;
  await client.open(await resumeSession(emulator, session!.id));
  await emulator.waitFor(() => client.receivedBytes === 50_000, 'the rest');
  expect(session?.state).toBe('open');
});

test('a socket fault with a time and no limit hits every connection', async () => {
  const { emulator } = await setUp();
  emulator.faults.set({ socket: [{ how: 'reset', after: { ms: 20 }, times: Infinity }] });
  const client = await TestClient.start(emulator);
  await emulator.waitFor(() => client.closeCode === 1006, 'first close');
  await client.open(await resumeSession(emulator, emulator.sessions[0]!.id));
  await emulator.waitFor(() => client.closeCode === 1006, 'second close');
  expect(emulator.faults.hits['socket.reset']).toBe(2);
});

test('a blackhole keeps the connection and says nothing, not even pong', async () => {
  const { emulator } = await setUp();
  const { client, session } = await open(emulator);
  let pongs = 0;
  client.webSocket.on('pong', () => (pongs += 1));
  session.blackholeSocket();
  client.webSocket.ping();
  client.send('hello');
  await expect(emulator.waitFor(() => client.text !== '' || pongs > 0, 'x', 200)).rejects.toThrow();
  expect(client.closeCode).toBeUndefined();
  const old = client.webSocket;
  await client.open(await resumeSession(emulator, session.id));
  await emulator.waitFor(() => session.counters.connections === 2, 'resume');
  old.terminate();
});

test.each([
  [{ error: { name: 'ThrottlingException' } }, 400, 'ThrottlingException'],
  [{ error: { name: 'InternalServerError', status: 500 } }, 500, 'InternalServerError'],
  [{ html: '<html>log in</html>' }, 200, undefined],
])('API fault %j', async (fault, status, name) => {
  const { emulator } = await setUp();
  emulator.faults.set({ api: [{ operation: 'StartSession', times: 1, ...fault }] });
  const answer = await callApi(emulator, 'StartSession', {});
  expect(answer.status).toBe(status);
  expect(answer.body['__type']).toBe(name);
  expect(emulator.faults.hits['api.StartSession']).toBe(1);
  await startSession(emulator);
});

test('API faults hang and reset', async () => {
  const { emulator } = await setUp();
  emulator.faults.set({
    api: [
      { operation: 'StartSession', reset: true },
      { operation: '*', hang: true },
    ],
  });
  await expect(startSession(emulator)).rejects.toThrow();
  const hanging = callApi(emulator, 'ResumeSession', { SessionId: 'x' });
  hanging.catch(() => undefined);
  await emulator.waitFor(() => emulator.apiCalls.at(-1)?.error === 'hang', 'call');
});

test.each([
  [{ status: 403 }, 403],
  [{ html: '<html>log in</html>' }, 200],
  [{ status: 503, delayMs: 20 }, 503],
])('upgrade fault %j', async (fault, status) => {
  const { emulator } = await setUp();
  emulator.faults.set({ upgrade: [{ ...fault, times: 1 }] });
  const client = new TestClient(emulator);
  const grant = await startSession(emulator);
  await client.open(grant);
  expect(client.refusedWith).toBe(status);
  await client.open(grant);
  await emulator.waitFor(() => emulator.sessions[0]?.handshakeDone === true, 'open');
});

test('an upgrade can be reset, closed at once, or met with silence', async () => {
  const { emulator } = await setUp();
  emulator.faults.set({
    upgrade: [
      { reset: true, times: 1 },
      { closeCode: 1011, times: 1 },
      { silent: true, times: 1 },
    ],
  });
  const client = new TestClient(emulator);
  const grant = await startSession(emulator);
  await client.open(grant);
  expect(client.webSocket.readyState).toBeGreaterThan(1);
  await client.open(grant);
  await emulator.waitFor(() => client.closeCode === 1011, 'close');
  await client.open(grant);
  await expect(emulator.waitFor(() => client.frames.length > 0, 'x', 150)).rejects.toThrow();
  client.webSocket.terminate();
});

test.each(['silent', 'reset', 'end', 'garbage'] as const)('connect fault %s', async (how) => {
  const { emulator } = await setUp();
  emulator.faults.set({ connect: [{ how, times: 1 }] });
  const socket = connect({ host: '127.0.0.1', port: emulator.port });
  let heard = '';
  let isOver = false;
  socket.on('data', (chunk) => (heard += chunk.toString()));
  socket.on('error', () => (isOver = true));
  socket.on('end', () => (isOver = true));
  if (how === 'silent') {
    socket.write('hello?');
    await expect(emulator.waitFor(() => isOver, 'x', 150)).rejects.toThrow();
  } else {
    await emulator.waitFor(() => isOver, 'end of the connection');
  }
  expect(heard.startsWith('220 ')).toBe(how === 'garbage');
  socket.destroy();
  await startSession(emulator);
});

test('the same seed gives the same faults', async () => {
  const runs: string[] = [];
  for (let run = 0; run < 2; run++) {
    const made = await setUp((socket) => socket.once('data', () => socket.write('y')), {
      seed: 42,
    });
    const { emulator } = made;
    const { client } = await open(emulator);
    emulator.faults.set({ toAgent: { loss: 0.5, only: (frame) => frame.type !== 'acknowledge' } });
    for (let index = 0; index < 40; index++) client.send('x');
    client.send('last');
    await emulator.waitFor(() => emulator.sessions.at(-1)!.counters.messages === 42, 'messages');
    runs.push(String(emulator.faults.hits['toAgent.loss']));
    await made.close();
  }
  rig = undefined;
  expect(runs[0]).toBe(runs[1]);
});

test('a session with round trip time answers no sooner than that', async () => {
  const { emulator } = await setUp(undefined, { rttMs: 60 });
  const before = performance.now();
  const { client } = await open(emulator);
  client.send('hello');
  await emulator.waitFor(() => client.text === 'hello', 'echo');
  // TCP, TLS and the call itself; then the upgrade, the handshake, and the echo.
  expect(performance.now() - before).toBeGreaterThan(60 * 5);
});
