import { existsSync } from 'node:fs';
import { afterEach, expect, test } from 'vitest';
import * as codec from './codec.ts';
import { defaultCredentials } from './emulator.ts';
import { isRefused, nodeId, rig as makeRig, type Rig } from './fixtures.ts';
import {
  callApi,
  resumeSession,
  signedHeaders,
  startSession,
  TestClient,
  type Grant,
} from './test-client.ts';
import type { Emulator } from './types.ts';

let rig: Rig | undefined;
const setUp = async (...options: Parameters<typeof makeRig>): Promise<Emulator> => {
  rig = await makeRig(...options);
  return rig.emulator;
};

afterEach(async () => {
  await rig?.close();
  rig = undefined;
});

async function open(emulator: Emulator): Promise<TestClient> {
  const client = await TestClient.start(emulator);
  await emulator.waitFor(() => emulator.sessions.at(-1)?.handshakeDone === true, 'open');
  return client;
}

const ssh = {
  Target: nodeId,
  DocumentName: 'AWS-StartSSHSession',
  Parameters: { portNumber: ['22'] },
};

test.each([
  ['another target', { ...ssh, Target: 'i-0aaaaaaaaaaaaaaaa' }, 'TargetNotConnected'],
  ['a malformed target', { ...ssh, Target: 'web' }, 'ValidationException'],
  ['no target', { ...ssh, Target: undefined }, 'ValidationException'],
  ['an unknown document', { ...ssh, DocumentName: 'AWS-Nope' }, 'InvalidDocument'],
  ['a text parameter', { ...ssh, Parameters: { portNumber: '22' } }, 'SerializationException'],
  ['a number parameter', { ...ssh, Parameters: { portNumber: [22] } }, 'SerializationException'],
  ['a bad port', { ...ssh, Parameters: { portNumber: ['70000'] } }, 'InvalidParameters'],
  ['an unknown parameter', { ...ssh, Parameters: { host: ['x'] } }, 'InvalidParameters'],
])('StartSession with %s is refused', async (_what, input, name) => {
  const emulator = await setUp();
  const answer = await callApi(emulator, 'StartSession', input);
  expect(answer.body['__type']).toBe(name);
  expect(answer.status).toBe(400);
  expect(emulator.apiCalls).toHaveLength(1);
});

test('a node that is offline is not connected', async () => {
  const emulator = await setUp(undefined, {}, { online: false });
  const answer = await callApi(emulator, 'StartSession', ssh);
  expect(answer.body).toEqual({
    __type: 'TargetNotConnected',
    message: `${nodeId} is not connected.`,
  });
});

test('denied, expired and unknown credentials are told apart', async () => {
  const emulator = await setUp();
  emulator.setCredentials([{ ...defaultCredentials, denied: ['ssm:StartSession'] }]);
  const denied = await callApi(emulator, 'StartSession', ssh);
  expect(denied.body['__type']).toBe('AccessDeniedException');
  expect(String(denied.body['Message'])).toContain('not authorized to perform: ssm:StartSession');
  emulator.setCredentials([{ ...defaultCredentials, state: 'expired' }]);
  const expired = await callApi(emulator, 'StartSession', ssh);
  expect(String(expired.body['__type'])).toContain('ExpiredTokenException');
  const unknown = await callApi(emulator, 'StartSession', ssh, { accessKeyId: 'AKIANOBODY' });
  expect(String(unknown.body['__type'])).toContain('UnrecognizedClientException');
  const wrong = await callApi(emulator, 'StartSession', ssh, { secret: 'wrong' });
  expect(String(wrong.body['__type'])).toContain('InvalidSignatureException');
});

test('an unsigned call is refused', async () => {
  const emulator = await setUp();
  const headers = { 'x-amz-target': 'AmazonSSM.StartSession' };
  const answer = await callApi(emulator, 'StartSession', ssh, { headers });
  expect(String(answer.body['__type'])).toContain('MissingAuthenticationTokenException');
});

async function refusal(emulator: Emulator, grant: Grant, headers: Record<string, string>) {
  const client = new TestClient(emulator, { headers });
  await client.open(grant);
  return { status: client.refusedWith, text: client.refusal };
}

test('an upgrade must be signed for ssmmessages, recently, and with few headers', async () => {
  const emulator = await setUp();
  const grant = await startSession(emulator);
  const signed = (options: object, extra = {}): Record<string, string> =>
    signedHeaders(emulator, 'GET', grant.url, '', { service: 'ssmmessages', ...options }, extra);
  for (const [headers, text] of [
    [{}, 'MissingAuthenticationToken'],
    [signed({ service: 'ssm' }), 'should be scoped to'],
    [signed({ at: Date.now() - 600_000 }), 'Signature expired'],
    [signed({ secret: 'x' }), 'does not match'],
    [signed({}, { 'x-extra': '1' }), 'x-extra must not be signed'],
  ] as const) {
    const { status, text: why } = await refusal(emulator, grant, headers);
    expect(status).toBe(403);
    expect(why).toContain(text);
  }
  const client = new TestClient(emulator);
  await client.open(grant);
  await emulator.waitFor(() => client.frames.length > 0, 'first frame');
});

test('an unsigned upgrade passes when signatures are not required', async () => {
  const emulator = await setUp(undefined, { requireSignature: false });
  const client = new TestClient(emulator, { headers: {} });
  await client.open(await startSession(emulator));
  await emulator.waitFor(() => client.frames.length > 0, 'first frame');
});

test('a presigned URL needs no headers, and must not be changed', async () => {
  const emulator = await setUp(undefined, { presignedUrls: true });
  const grant = await startSession(emulator);
  expect(grant.url).toContain('X-Amz-Signature=');
  const changed = { ...grant, url: grant.url.replace('X-Amz-Expires=300', 'X-Amz-Expires=301') };
  expect((await refusal(emulator, changed, {})).status).toBe(403);
  const client = new TestClient(emulator, { headers: {} });
  await client.open(grant);
  await emulator.waitFor(() => client.frames.length > 0, 'first frame');
});

test('OpenDataChannel can be denied', async () => {
  const emulator = await setUp();
  const grant = await startSession(emulator);
  emulator.setCredentials([{ ...defaultCredentials, denied: ['ssmmessages:OpenDataChannel'] }]);
  const client = new TestClient(emulator);
  await client.open(grant);
  expect(client.refusedWith).toBe(403);
  expect(emulator.upgrades.at(-1)?.why).toContain('AccessDenied');
});

test('the stream URL carries base64 with plus, slash and equals signs unescaped', async () => {
  const emulator = await setUp();
  const { url, sessionId } = await startSession(emulator);
  expect(url).toMatch(/\?role=publish_subscribe&cell-number=[^%&]*\+\/a=$/);
  expect(url).toContain(`/v1/data-channel/${sessionId}?`);
});

test('a token works once', async () => {
  const emulator = await setUp();
  const grant = await startSession(emulator);
  const first = new TestClient(emulator);
  await first.open(grant);
  await emulator.waitFor(() => first.frames.length > 0, 'first frame');
  const second = new TestClient(emulator, { clientId: first.clientId });
  await second.open(grant);
  await emulator.waitFor(() => second.closeCode === 1008, 'refusal');
  expect(emulator.violations().join()).toContain('token unknown or used before');
});

test('a token expires', async () => {
  const emulator = await setUp(undefined, { tokenLifetimeMs: 1000 });
  const grant = await startSession(emulator);
  emulator.clock.advance(1001);
  const client = new TestClient(emulator);
  await client.open(grant);
  await emulator.waitFor(() => client.closeCode === 1008, 'refusal');
  expect(emulator.violations()).toEqual([]);
});

test.each([
  ['RequestId used twice', { requestId: '0f0e0d0c-0b0a-4908-8706-050403020100' }, true],
  ['ClientId changed', {}, false],
])('on a resumed socket: %s', async (text, options, keepClientId) => {
  const emulator = await setUp();
  const client = await TestClient.start(emulator, options);
  await emulator.waitFor(() => emulator.sessions[0]?.handshakeDone === true, 'open');
  const { id } = emulator.sessions[0]!;
  const next = new TestClient(emulator, {
    ...options,
    ...(keepClientId ? { clientId: client.clientId } : {}),
  });
  await next.open(await resumeSession(emulator, id));
  await emulator.waitFor(() => next.closeCode === 1008, 'refusal');
  expect(emulator.violations().join()).toContain(text);
});

test('ResumeSession gives another host and port, and the new socket replaces the old', async () => {
  const emulator = await setUp();
  const grant = await startSession(emulator);
  const client = new TestClient(emulator);
  await client.open(grant);
  await emulator.waitFor(() => emulator.sessions[0]?.handshakeDone === true, 'open');
  const old = client.webSocket;
  const resumed = await resumeSession(emulator, grant.sessionId);
  expect(new URL(resumed.url).host).not.toBe(new URL(grant.url).host);
  await client.open(resumed);
  await emulator.waitFor(() => old.readyState === old.CLOSED, 'end of the old socket');
  client.send('hello');
  await emulator.waitFor(() => client.text === 'hello', 'echo');
});

test.each(['does-not-exist', 'empty-token'] as const)(
  'resuming a session that is over: %s',
  async (resumeGone) => {
    const emulator = await setUp(undefined, { resumeGone });
    const { sessionId } = await startSession(emulator);
    await callApi(emulator, 'TerminateSession', { SessionId: sessionId });
    const answer = await callApi(emulator, 'ResumeSession', { SessionId: sessionId });
    if (resumeGone === 'empty-token') expect(answer.body['TokenValue']).toBe('');
    else expect(answer.body['__type']).toBe('DoesNotExistException');
  },
);

test('TerminateSession closes the channel and the connection to the port', async () => {
  const emulator = await setUp();
  const client = await open(emulator);
  const [session] = emulator.sessions;
  await callApi(emulator, 'TerminateSession', { SessionId: session?.id });
  await emulator.waitFor(() => client.closedOutput === '', 'channel_closed');
  await emulator.waitFor(() => rig!.destination.sockets[0]?.destroyed === true, 'port');
  expect(session?.endedBy).toBe('terminate-api');
  await emulator.waitFor(() => client.closeCode === 1000, 'close');
});

test('a session has a longest duration when one is set', async () => {
  const emulator = await setUp(undefined, { maxDurationMs: 100 });
  const client = await open(emulator);
  await emulator.waitFor(() => client.closedOutput !== undefined, 'end');
  expect(emulator.sessions[0]?.endedBy).toBe('max-duration');
});

function frame(change: Partial<codec.Encodable>): Buffer {
  const payload = Buffer.from('x');
  return codec.encode({ type: 'input_stream_data', seq: 1, payloadType: 1, payload, ...change });
}

function damaged(at: number, value: number): Buffer {
  const bytes = frame({});
  bytes[at] = value;
  return bytes;
}

test.each<[string, Buffer | string]>([
  ['a second text frame', '{}'],
  ['payload digest wrong', damaged(85, 1)],
  ['payload length 9', damaged(119, 9)],
  ['flags 1', frame({ flags: 1 })],
  ['empty payload', frame({ payload: Buffer.alloc(0) })],
  ["message type 'output_stream_data'", frame({ type: 'output_stream_data' })],
  ['not padded with spaces', frame({ padding: 'nul' })],
  ['header length 116', frame({ headerLength: 112 })],
  ['payload type 3', frame({ payloadType: 3 })],
  ['payload type 6 with sequence number 1', frame({ payloadType: 6 })],
  ['message id', frame({ messageId: '0'.repeat(32) })],
  ['created date', frame({ createdDate: 1700000000 })],
  ['no AgentMessage', Buffer.from('hello')],
  [
    'which was never sent',
    codec.encodeAck('output_stream_data', '00112233-4455-4677-8899-aabbccddeeff', 99),
  ],
  ['acknowledged a message of type acknowledge', codec.encodeAck('acknowledge', '0'.repeat(36), 0)],
  [
    'acknowledge content malformed',
    frame({ type: 'acknowledge', seq: 0, flags: 3, payloadType: 0 }),
  ],
])('violation: %s', async (text, sent) => {
  const emulator = await setUp();
  const client = await open(emulator);
  client.webSocket.send(sent);
  await emulator.waitFor(() => emulator.violations().length > 0, 'violation');
  expect(emulator.violations().join()).toContain(text);
  await emulator.waitFor(() => client.closeCode === 1008, 'close');
});

test('violation: a resend with other bytes', async () => {
  const emulator = await setUp();
  const client = await open(emulator);
  client.webSocket.send(frame({}));
  client.webSocket.send(frame({}));
  await emulator.waitFor(() => emulator.violations().length > 0, 'violation');
  expect(emulator.violations().join()).toContain('resent with other bytes');
});

test('violation: an acknowledgement of a damaged message', async () => {
  const emulator = await setUp((socket) => socket.once('data', () => socket.write('y')));
  const client = await open(emulator);
  emulator.faults.set({ toClient: { corruptDigest: 1 } });
  client.send('x');
  const damagedOne = (message: codec.AgentMessage): boolean =>
    message.payloadType === 1 && message.payload.toString() === 'y';
  await emulator.waitFor(() => client.has(damagedOne), 'damaged message');
  client.ack(client.messages.find(damagedOne)!);
  await emulator.waitFor(() => emulator.violations().length > 0, 'violation');
  expect(emulator.violations().join()).toContain('only damaged copies');
});

test('violation: a gap that is never filled', async () => {
  const emulator = await setUp(undefined, { gapDeadlineMs: 150 });
  const client = await open(emulator);
  client.nextSeq = 5;
  client.send('x');
  await emulator.waitFor(() => emulator.violations().length > 0, 'violation');
  expect(emulator.violations().join()).toContain('sequence numbers never sent: 1, 2, 3, 4');
});

test('violation: acknowledgements that do not come in time', async () => {
  const emulator = await setUp(undefined, { ackDeadlineMs: 150 });
  const client = await open(emulator);
  client.acks = false;
  client.send('x');
  await emulator.waitFor(() => emulator.violations().length > 0, 'violation');
  expect(emulator.violations().join()).toContain('not acknowledged for 150 ms');
});

test('violation: too many messages for two seconds', async () => {
  const emulator = await setUp(undefined, { messageRateLimit: 100 });
  const client = await open(emulator);
  const timer = setInterval(() => {
    for (let count = 0; count < 10; count++) client.send('x');
  }, 20);
  try {
    await emulator.waitFor(() => client.closeCode === 1008, 'close', 15_000);
  } finally {
    clearInterval(timer);
  }
  expect(emulator.violations().join()).toContain('more than 100 stream messages a second');
  expect(client.has((message) => message.type === 'pause_publication')).toBe(true);
});

test('a payload over the limit is answered with close code 1009', async () => {
  const emulator = await setUp(undefined, { maxPayloadBytes: 1024 });
  const client = await open(emulator);
  client.send(Buffer.alloc(1025));
  await emulator.waitFor(() => client.closeCode === 1009, 'close');
  expect(emulator.violations()).toEqual([]);
});

test('upgrade headers that no client of the service sends are recorded', async () => {
  const emulator = await setUp();
  const client = new TestClient(emulator, { webSocketOptions: { perMessageDeflate: true } });
  await client.open(await startSession(emulator));
  expect(emulator.violations().join()).toContain('sec-websocket-extensions');
});

test('an agent that loses its own socket goes silent, and comes back', async () => {
  const emulator = await setUp();
  const client = await open(emulator);
  const [session] = emulator.sessions;
  session?.setAgentConnected(false);
  await emulator.waitFor(
    () => client.has((message) => message.type === 'pause_publication'),
    'pause',
  );
  const sent = client.send('hello');
  await emulator.waitFor(() => session?.counters.messages === 2, 'message at the service');
  expect(client.acked.has(1)).toBe(false);
  session?.setAgentConnected(true);
  client.webSocket.send(sent);
  await emulator.waitFor(() => client.text === 'hello', 'echo');
});

test('close ends everything: listeners, sockets and files', async () => {
  const emulator = await setUp();
  const client = await open(emulator);
  const { port, directory } = emulator;
  await emulator.close();
  await expect.poll(() => client.closeCode).toBe(1006);
  expect(await isRefused(port)).toBe(true);
  expect(existsSync(directory)).toBe(false);
  expect(emulator.sessions[0]?.endedBy).toBe('emulator');
});
