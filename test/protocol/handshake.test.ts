import { describe, expect, it } from 'vitest';
import { handshakeRequestJson, SessionPeer, type RequestFields } from '../support/session-peer.ts';
import vectors from '../vectors/messages.json' with { type: 'json' };

const decode = (payload: Uint8Array | undefined): string => new TextDecoder().decode(payload);
const forwarding = { type: 'LocalPortForwarding', portNumber: '80', host: 'db.internal' };

function answerTo(fields: RequestFields, options = {}) {
  const peer = new SessionPeer(options);
  peer.connect();
  peer.take();
  peer.request(fields);
  const taken = peer.take();
  const response = taken.messages.find((message) => message.payloadType === 6);
  return { peer, taken, response, failure: taken.of('failed')[0]?.error };
}

function opened(fields: RequestFields, options = {}) {
  const { peer } = answerTo(fields, options);
  peer.complete();
  return peer.take().of('opened')[0];
}

describe('the opening of a socket', () => {
  it('is one text frame with the five keys of the official client', () => {
    const peer = new SessionPeer();
    peer.connect();
    const { all } = peer.take();
    expect(all.map(({ kind }) => kind)).toEqual(['transmit-text']);
    expect(all[0]?.kind === 'transmit-text' && all[0].text).toBe(
      '{"MessageSchemaVersion":"1.0","RequestId":"d490b7e8-7e4e-460c-930c-d9ddd057f132",' +
        '"TokenValue":"token","ClientId":"51103438-0f13-4a5d-917d-6d2fe721e5b9",' +
        '"ClientVersion":"1.2.764.0"}',
    );
  });

  it('needs a version that agents can compare', () => {
    expect(() => new SessionPeer({ clientVersion: 'latest' })).toThrow('dotted numbers');
  });
});

describe('the handshake request', () => {
  it('is acknowledged, then answered with sequence number 0', () => {
    const { taken } = answerTo({});
    expect(taken.kinds).toEqual(['transmit', 'transmit']);
    expect(taken.acknowledged).toEqual([0]);
    expect(taken.sent).toEqual([0]);
  });

  it('is answered byte for byte as the official client does', () => {
    const captured = vectors.messages.find(({ name }) =>
      name.startsWith('ssh: input_stream_data type 6'),
    );
    const { response } = answerTo({}, { clientVersion: '1.2.0.0' });
    expect(Buffer.from(response?.payload ?? []).toString('hex')).toBe(captured?.payload);
    expect(response).toMatchObject({ flags: 0n, payloadType: 6 });
  });

  it('is answered once, though it comes twice under one number or under two', () => {
    const { peer } = answerTo({});
    peer.stream(5, handshakeRequestJson(), { seq: 0 });
    peer.request();
    const taken = peer.take();
    expect(taken.acknowledged).toEqual([0, 1]);
    expect(taken.sent).toEqual([]);
    peer.complete();
    expect(peer.take().kinds).toEqual(['transmit', 'opened']);
    peer.request();
    expect(peer.take()).toMatchObject({ acknowledged: [3], sent: [] });
  });

  it('may come ten seconds late', () => {
    const peer = new SessionPeer();
    peer.connect();
    peer.now += 10_000;
    peer.wake();
    peer.request();
    peer.now += 10_000;
    peer.acknowledge(0);
    peer.complete();
    expect(peer.take().of('opened')).toHaveLength(1);
  });

  it('may come before or after publication messages, which are not acknowledged', () => {
    const peer = new SessionPeer();
    peer.connect();
    peer.take();
    peer.receive({ messageType: 'start_publication', createdAt: 0, digest: new Uint8Array(32) });
    peer.receive({ messageType: 'pause_publication', headerLength: 112, payloadLength: 99 });
    expect(peer.take().all).toEqual([
      { kind: 'publication', paused: false },
      { kind: 'publication', paused: true },
    ]);
    expect(peer.session.phase).toBe('awaiting-request');
  });

  const unreadable: [string, string][] = [
    ['no JSON', 'nonsense'],
    ['no object', '[1]'],
    ['null', 'null'],
    ['an action that is no object', '{"AgentVersion":"3.3.0.0","RequestedClientActions":["x"]}'],
    ['more than 64 KiB', handshakeRequestJson({ properties: { x: 'y'.repeat(65_536) } })],
  ];
  for (const [what, json] of unreadable) {
    it(`ends the session when it is ${what}`, () => {
      const peer = new SessionPeer();
      peer.connect();
      peer.stream(5, json);
      expect(peer.take().of('failed')[0]?.error.code).toBe('protocol.handshake');
      expect(peer.session.phase).toBe('failed');
    });
  }
});

describe('requests that are refused', () => {
  const sessionType = {
    ActionType: 'SessionType',
    ActionParameters: { SessionType: 'Port', Properties: {} },
  };
  const cases: [string, RequestFields, string, number[], RegExp][] = [
    [
      'a shell session',
      { sessionType: 'Standard_Stream' },
      'protocol.wrong-session',
      [3],
      /type Standard_Stream, not of type Port/,
    ],
    ['a session of no type', { sessionType: 7 }, 'protocol.wrong-session', [3], /type \(none\)/],
    [
      'KMS encryption',
      {
        actions: [
          sessionType,
          { ActionType: 'KMSEncryption', ActionParameters: { KMSKeyId: 'key' } },
        ],
      },
      'protocol.handshake',
      [1, 2],
      /KMS encryption/,
    ],
    [
      'an unknown action',
      { actions: [sessionType, { ActionType: 'Dance\u001b[31m' }] },
      'protocol.handshake',
      [1, 3],
      /asks for Dance\[31m,/,
    ],
    [
      'an action without a name',
      { actions: [{}, sessionType] },
      'protocol.handshake',
      [3, 1],
      /\(none\)/,
    ],
    ['no action at all', { actions: [] }, 'protocol.handshake', [], /no session type/],
    ['actions that are no list', { actions: 'x' }, 'protocol.handshake', [], /no session type/],
    [
      'forwarding by an agent whose mode cannot be known',
      { agentVersion: '3.3-beta', properties: forwarding },
      'protocol.handshake',
      [1],
      /version 3\.3-beta/,
    ],
    [
      'forwarding by an agent without a version',
      { agentVersion: '', properties: forwarding },
      'protocol.handshake',
      [1],
      /version \(none\)/,
    ],
  ];
  for (const [what, fields, code, statuses, message] of cases) {
    it(`answers ${what}, then fails`, () => {
      const { response, failure, peer } = answerTo(fields);
      const json = JSON.parse(decode(response?.payload)) as {
        ProcessedClientActions: { ActionStatus: number; Error: string; ActionType: string }[];
      };
      const processed = json.ProcessedClientActions;
      expect(processed.map((action) => action.ActionStatus)).toEqual(statuses);
      for (const { ActionStatus, Error } of processed)
        expect(Error === '').toBe(ActionStatus === 1);
      expect(failure?.code).toBe(code);
      expect(failure?.message).toMatch(message);
      expect(failure?.hint).toBeTruthy();
      expect(peer.session.phase).toBe('failed');
    });
  }

  it('includes output without a handshake, as an old agent or a shell gives', () => {
    const peer = new SessionPeer();
    peer.connect();
    peer.output('$ ');
    const taken = peer.take();
    expect(taken.of('failed')[0]?.error).toMatchObject({
      code: 'protocol.wrong-session',
      hint: expect.stringContaining('2.3.672') as string,
    });
    expect(taken.delivered).toBe('');
  });

  it('includes data before the handshake is complete', () => {
    const { peer } = answerTo({});
    peer.output('early');
    const taken = peer.take();
    expect(taken.of('failed')[0]?.error.code).toBe('protocol.handshake');
    expect(taken.delivered).toBe('');
  });

  it('does not process what follows in the same breath', () => {
    const peer = new SessionPeer();
    peer.connect();
    peer.output('second', { seq: 1 });
    peer.take();
    peer.output('first', { seq: 0 });
    expect(peer.take().kinds).toEqual(['transmit', 'failed']);
  });
});

describe('payloads out of place', () => {
  it('are acknowledged and ignored before the request', () => {
    const peer = new SessionPeer();
    peer.connect();
    peer.take();
    peer.stream(7, '{}');
    peer.stream(10, new Uint8Array(4));
    const taken = peer.take();
    expect(taken.acknowledged).toEqual([0, 1]);
    expect(taken.ignored).toEqual([
      'payload type 7 before the handshake',
      'payload type 10 before the handshake',
    ]);
    peer.request();
    expect(peer.session.phase).toBe('awaiting-complete');
  });

  it('are acknowledged and ignored before its completion', () => {
    const { peer } = answerTo({});
    peer.stream(8, '{}');
    const taken = peer.take();
    expect(taken.acknowledged).toEqual([1]);
    expect(taken.ignored).toEqual(['payload type 8 during the handshake']);
    expect(peer.session.phase).toBe('awaiting-complete');
  });
});

describe('an opened session', () => {
  it('reports agent, properties and what was announced', () => {
    expect(opened({ agentVersion: '3.3.987.0' })).toEqual({
      kind: 'opened',
      mode: 'basic',
      agentVersion: '3.3.987.0',
      properties: { portNumber: '22' },
      announcedVersion: '1.2.764.0',
      smuxKeepAlive: false,
    });
  });

  it('takes properties of any shape', () => {
    expect(opened({ properties: null })?.properties).toEqual({});
    expect(opened({ properties: [1] })?.properties).toEqual({});
    const odd = { portNumber: 22, on: true, nested: {}, nothing: null, text: 'x' };
    expect(opened({ properties: odd })?.properties).toEqual({
      portNumber: '22',
      on: 'true',
      text: 'x',
    });
    const json = JSON.parse('{"__proto__":"x"}') as unknown;
    expect(Object.getPrototypeOf(opened({ properties: json })?.properties)).toBe(Object.prototype);
  });

  const modes: [string, string, string | undefined, string][] = [
    ['3.0.196.0', 'LocalPortForwarding', '1.2.764.0', 'basic'],
    ['3.0.196.1', 'LocalPortForwarding', '1.2.764.0', 'mux'],
    ['3.0.222.0', 'LocalPortForwarding', '1.1.70', 'mux'],
    ['3.3.987.0', 'LocalPortForwarding', '1.1.70.0', 'mux'],
    ['3.3.987.0', 'LocalPortForwarding', '1.1.69', 'basic'],
    ['3.3.987.0', 'LocalPortForwarding', '0.1.0', 'basic'],
    ['3.3.987', 'LocalPortForwarding', '1.2.764.0', 'mux'],
    ['10.0.0.0', 'LocalPortForwarding', '1.2.764.0', 'mux'],
    ['3.3.987.0', '', '1.2.764.0', 'basic'],
    ['unknown', '', '1.2.764.0', 'basic'],
  ];
  for (const [agentVersion, type, clientVersion, mode] of modes) {
    it(`is ${mode} for agent ${agentVersion}, type "${type}", client ${clientVersion}`, () => {
      expect(opened({ agentVersion, properties: { type } }, { clientVersion })?.mode).toBe(mode);
    });
  }

  it('is basic when that is forced, by announcing an old version', () => {
    const options = { forceBasicMode: true };
    const { response } = answerTo({ properties: forwarding }, options);
    expect(decode(response?.payload)).toContain('"ClientVersion":"1.1.69"');
    expect(opened({ properties: forwarding }, options)).toMatchObject({
      mode: 'basic',
      announcedVersion: '1.1.69',
      smuxKeepAlive: false,
    });
  });

  const keepAlives: [string, string, boolean][] = [
    ['3.1.1511.0', '1.2.764.0', true],
    ['3.1.1446.0', '1.2.764.0', false],
    ['3.1.1575.0', '1.2.764.0', false],
    ['3.3.987.0', '1.2.331.0', true],
    ['3.3.987.0', '1.2.332.0', false],
  ];
  for (const [agentVersion, clientVersion, expected] of keepAlives) {
    it(`${expected ? 'needs' : 'needs no'} smux keep-alive for agent ${agentVersion}, client ${clientVersion}`, () => {
      const session = opened({ agentVersion, properties: forwarding }, { clientVersion });
      expect(session).toMatchObject({ mode: 'mux', smuxKeepAlive: expected });
    });
  }

  it('takes no data before the handshake is complete', () => {
    const { peer } = answerTo({});
    expect(peer.capacity()).toBe(0);
    peer.complete();
    expect(peer.capacity()).toBe(1024);
  });
});

describe('agents that drop early data', () => {
  const old = { agentVersion: '3.0.654.0' };
  const sees = (peer: SessionPeer): number => {
    const capacity = peer.capacity();
    if (capacity === 0) peer.session.noteSendBlocked();
    return capacity;
  };

  it('get client bytes only after their first output', () => {
    const peer = SessionPeer.open({}, old);
    peer.now += 100;
    expect(sees(peer)).toBe(0);
    peer.output('SSH-2.0-OpenSSH\r\n');
    expect(sees(peer)).toBe(1024);
    expect(peer.session.nextWakeAt()).toBeUndefined();
  });

  it('get client bytes after a second, if there is no output', () => {
    const peer = SessionPeer.open({}, old);
    const openedAt = peer.now;
    expect(sees(peer)).toBe(0);
    expect(peer.session.nextWakeAt()).toBe(openedAt + 1000);
    peer.wake(openedAt + 999);
    expect(sees(peer)).toBe(0);
    peer.wakeNext();
    expect(sees(peer)).toBe(1024);
    expect(peer.session.nextWakeAt()).toBeUndefined();
  });

  it('are not mistaken for newer ones, nor for ones with smux', () => {
    expect(SessionPeer.open({}, { agentVersion: '3.0.655.0' }).capacity()).toBe(1024);
    const mux = SessionPeer.open({}, { ...old, properties: forwarding });
    expect(mux.capacity()).toBe(1024);
  });

  it('do not make a wake for a source that has nothing', () => {
    const peer = SessionPeer.open({}, old);
    expect(peer.session.nextWakeAt()).toBeUndefined();
  });
});
