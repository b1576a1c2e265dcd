import { afterEach, expect, test } from 'vitest';
import { closedPort, echo, rig as makeRig, startDestination, type Rig } from './fixtures.ts';
import { TestClient } from './test-client.ts';
import type { Emulator } from './types.ts';

let rig: Rig | undefined;
const setUp = async (...options: Parameters<typeof makeRig>): Promise<Rig> => {
  rig = await makeRig(...options);
  return rig;
};

afterEach(async () => {
  await rig?.close();
  rig = undefined;
});

function frame(command: number, id: number, data = ''): Buffer {
  const bytes = Buffer.alloc(8 + data.length);
  bytes[0] = 1;
  bytes[1] = command;
  bytes.writeUInt16LE(data.length, 2);
  bytes.writeUInt32LE(id, 4);
  bytes.write(data, 8, 'latin1');
  return bytes;
}

interface Heard {
  readonly command: number;
  readonly id: number;
  readonly data: string;
}

function heard(client: TestClient): Heard[] {
  const bytes = Buffer.concat(client.received);
  const frames: Heard[] = [];
  for (let at = 0; at + 8 <= bytes.length;) {
    const length = bytes.readUInt16LE(at + 2);
    const data = bytes.toString('latin1', at + 8, at + 8 + length);
    frames.push({ command: bytes[at + 1]!, id: bytes.readUInt32LE(at + 4), data });
    at += 8 + length;
  }
  return frames;
}

const text = (client: TestClient, id: number): string =>
  heard(client)
    .filter((item) => item.id === id && item.command === 2)
    .map((item) => item.data)
    .join('');

const isFinished = (client: TestClient, id: number): boolean =>
  heard(client).some((item) => item.id === id && item.command === 1);

const isOpen = (emulator: Emulator) => () => emulator.sessions[0]?.handshakeDone === true;

async function open(emulator: Emulator, port: number, version = '1.2.764.0'): Promise<TestClient> {
  const client = await TestClient.start(
    emulator,
    { version },
    {
      DocumentName: 'AWS-StartPortForwardingSessionToRemoteHost',
      Parameters: { host: ['127.0.0.1'], portNumber: [String(port)], localPortNumber: ['0'] },
    },
  );
  await emulator.waitFor(isOpen(emulator), 'open');
  return client;
}

test('streams are dialled, echoed and closed', async () => {
  const { emulator, destination } = await setUp(echo);
  const client = await open(emulator, destination.port);
  expect(emulator.sessions[0]?.mode).toBe('mux');
  client.send(Buffer.concat([frame(0, 3), frame(2, 3, 'one'), frame(0, 5), frame(2, 5, 'tw')]));
  client.send(frame(2, 5, 'o').subarray(0, 5));
  client.send(frame(2, 5, 'o').subarray(5));
  await emulator.waitFor(() => text(client, 3) === 'one' && text(client, 5) === 'two', 'echo');
  client.send(frame(1, 3));
  await emulator.waitFor(() => isFinished(client, 3), 'FIN');
  await emulator.waitFor(() => destination.sockets[0]?.destroyed === true, 'close');
  client.send(frame(2, 5, '!'));
  await emulator.waitFor(() => text(client, 5) === 'two!', 'echo');
  expect(emulator.violations()).toEqual([]);
});

test('a destination that closes gives FIN after its last bytes', async () => {
  const { emulator, destination } = await setUp((socket) => socket.end('bye'));
  const client = await open(emulator, destination.port);
  client.send(frame(0, 3));
  await emulator.waitFor(() => isFinished(client, 3), 'FIN');
  expect(text(client, 3)).toBe('bye');
  expect(emulator.openSessionCount()).toBe(1);
});

test('FIN closes both ways: what the destination says later is lost', async () => {
  const { emulator, destination } = await setUp((socket) =>
    socket.resume().on('end', () => socket.end('late')),
  );
  const client = await open(emulator, destination.port);
  client.send(Buffer.concat([frame(0, 3), frame(2, 3, 'x'), frame(1, 3)]));
  await emulator.waitFor(() => isFinished(client, 3), 'FIN');
  await emulator.waitFor(() => destination.sockets[0]?.destroyed === true, 'close');
  expect(text(client, 3)).toBe('');
});

test('a refused destination gives the flag ConnectToPortError, then FIN', async () => {
  const { emulator } = await setUp(echo);
  const client = await open(emulator, await closedPort());
  client.send(frame(0, 3));
  await emulator.waitFor(() => isFinished(client, 3), 'FIN');
  const flag = client.messages.find((message) => message.payloadType === 10);
  expect(flag?.payload.readUInt32BE(0)).toBe(3);
  expect(emulator.openSessionCount()).toBe(1);
});

test('a stalled stream stops the whole session at 4 MiB', async () => {
  const { emulator, destination } = await setUp((socket) => {
    if (destinationCount++ === 0) socket.pause();
    else echo(socket);
  });
  let destinationCount = 0;
  const client = await open(emulator, destination.port);
  client.send(Buffer.concat([frame(0, 3), frame(0, 5)]));
  await emulator.waitFor(() => destination.sockets.length === 2, 'connections');
  const part = 'x'.repeat(32_768);
  let sent = 0;
  for (; sent < 600; sent++) client.send(frame(2, 3, part));
  client.send(frame(2, 5, 'hello'));
  let before = -1;
  await emulator.waitFor(() => {
    const isStill = before === client.acked.size && before > 100;
    before = client.acked.size;
    return isStill;
  }, 'acknowledgements to stop');
  expect(text(client, 5)).toBe('');
  destination.sockets[0]?.resume();
  await emulator.waitFor(() => text(client, 5) === 'hello', 'echo');
});

test('a protocol error: later bytes are acknowledged and go nowhere', async () => {
  const { emulator, destination } = await setUp(echo);
  const client = await open(emulator, destination.port);
  client.send(Buffer.from([2, 0, 0, 0, 3, 0, 0, 0]));
  client.send(frame(0, 3));
  client.send(frame(2, 3, 'hello'));
  await emulator.waitFor(() => client.acked.has(3), 'acks');
  expect(destination.sockets.length).toBe(0);
  expect(emulator.violations().join()).toContain('protocol error');
});

test.each([
  ['3.1.1511.0', '1.2.764.0', true],
  ['3.1.1446.0', '1.2.331.0', false],
  ['3.3.2299.0', '1.2.764.0', false],
  ['3.3.2299.0', '1.2.331.0', true],
])('keep-alive of agent %s with client %s: %s', async (agentVersion, version, hasKeepAlive) => {
  const { emulator, destination } = await setUp(
    echo,
    { agent: { smuxKeepAliveMs: 30, smuxTimeoutMs: 90 } },
    { agentVersion },
  );
  const client = await open(emulator, destination.port, version);
  if (hasKeepAlive) {
    await emulator.waitFor(() => heard(client).some((item) => item.command === 3), 'NOP');
    await emulator.waitFor(() => client.closedOutput !== undefined, 'end');
  } else {
    await expect(
      emulator.waitFor(
        () => client.receivedBytes > 0 || client.closedOutput !== undefined,
        'x',
        250,
      ),
    ).rejects.toThrow();
  }
});

test.each(['', '0.0.1', '1.1.69'])('client version "%s" gets basic mode', async (version) => {
  const { emulator, destination } = await setUp(echo);
  const client = await open(emulator, destination.port, version);
  expect(emulator.sessions[0]?.mode).toBe('basic');
  client.send('raw');
  await emulator.waitFor(() => client.text === 'raw', 'echo');
});

test('an agent too old for mux forwards in basic mode and redials after DisconnectToPort', async () => {
  const { emulator, destination } = await setUp(echo, {}, { agentVersion: '3.0.196.0' });
  const client = await open(emulator, destination.port);
  expect(emulator.sessions[0]?.mode).toBe('basic');
  client.send('a');
  await emulator.waitFor(() => client.text === 'a', 'echo');
  client.flag(1);
  await emulator.waitFor(() => client.acked.has(2), 'ack');
  client.send('b');
  await emulator.waitFor(() => client.text === 'ab', 'echo');
  expect(destination.sockets.length).toBe(2);
});

test('in basic forwarding a destination that closes tells nobody', async () => {
  const { emulator, destination } = await setUp((socket) => socket.end('x'));
  const client = await open(emulator, destination.port, '0.0.1');
  await emulator.waitFor(() => client.text === 'x', 'data');
  await emulator.waitFor(() => destination.sockets[0]?.destroyed === true, 'close');
  expect(emulator.openSessionCount()).toBe(1);
  client.send('again');
  await emulator.waitFor(() => client.text === 'xx', 'data of a second connection');
});

test('dials happen one after the other', async () => {
  const slow = await startDestination(echo);
  const { emulator, destination } = await setUp(echo, { agent: { dialDelayMs: 80 } });
  const client = await open(emulator, destination.port);
  client.send(Buffer.concat([frame(0, 3), frame(0, 5), frame(0, 7)]));
  await emulator.waitFor(() => destination.sockets.length === 1, 'first');
  expect(emulator.sessions[0]?.counters.dials).toBeLessThan(3);
  await emulator.waitFor(() => destination.sockets.length === 3, 'all');
  await slow.close();
});
