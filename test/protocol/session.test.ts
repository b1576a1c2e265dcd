import { describe, expect, it } from 'vitest';
import { decodeMessage } from '../../src/protocol/codec.ts';
import { SessionPeer } from '../support/session-peer.ts';
import { naiveDecode, sha256Hex } from '../support/naive-codec.ts';

const text = (payload: Uint8Array | undefined): string => new TextDecoder().decode(payload);

describe('incoming stream messages', () => {
  it('are acknowledged with type, id and number, and delivered', () => {
    const peer = SessionPeer.open();
    peer.output('SSH-2.0-x\r\n', { messageId: '00112233-4455-4677-8899-aabbccddeeff' });
    const taken = peer.take();
    expect(taken.kinds).toEqual(['transmit', 'deliver']);
    const [message] = taken.messages;
    expect(message).toMatchObject({
      messageType: 'acknowledge',
      seq: 0n,
      flags: 3n,
      payloadType: 0,
    });
    expect(text(message?.payload)).toBe(
      '{"AcknowledgedMessageType":"output_stream_data",' +
        '"AcknowledgedMessageId":"00112233-4455-4677-8899-aabbccddeeff",' +
        '"AcknowledgedMessageSequenceNumber":2,"IsSequentialMessage":true}',
    );
    expect(message?.digest).toBe(sha256Hex(message?.payload ?? new Uint8Array()));
    expect(taken.delivered).toBe('SSH-2.0-x\r\n');
  });

  it('are acknowledged early and delivered in order', () => {
    const peer = SessionPeer.open();
    peer.output('c', { seq: 4 });
    peer.output('b', { seq: 3 });
    expect(peer.take()).toMatchObject({ acknowledged: [4, 3], delivered: '' });
    peer.output('a', { seq: 2 });
    expect(peer.take()).toMatchObject({ acknowledged: [2], delivered: 'abc' });
  });

  it('are acknowledged again when they come again, and not delivered again', () => {
    const peer = SessionPeer.open();
    peer.output('a');
    peer.output('early', { seq: 5 });
    peer.take();
    peer.output('a', { seq: 2 });
    peer.output('early', { seq: 5 });
    peer.request();
    expect(peer.take()).toMatchObject({ acknowledged: [2, 5, 3], delivered: '' });
  });

  it('are kept as they were, though the bytes received are reused', () => {
    const peer = SessionPeer.open();
    const source = new SessionPeer();
    peer.output('late', { seq: 3 });
    // The peer's own buffers are fresh each time; this one is not.
    const early = Buffer.from(frameOf(source, 'kept', 4));
    peer.session.receive(early, peer.instant);
    early.fill(0);
    peer.take();
    peer.output('first ', { seq: 2 });
    expect(peer.take().delivered).toBe('first latekept');
  });

  it('of payload types other than output are acknowledged, advance the sequence, and are not delivered', () => {
    const peer = SessionPeer.open();
    peer.output('x');
    for (const type of [0, 2, 3, 4, 8, 9, 11, 12, 99]) peer.stream(type, 'text');
    peer.output('y');
    const taken = peer.take();
    expect(taken.acknowledged).toEqual([2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
    expect(taken.delivered).toBe('xy');
    expect(taken.ignored).toHaveLength(9);
  });

  it('may be flags between data, which take a number each', () => {
    const peer = SessionPeer.open();
    peer.output('x');
    peer.stream(10, new Uint8Array([0, 0, 0, 3]));
    peer.output('y');
    const taken = peer.take();
    expect(taken.acknowledged).toEqual([2, 3, 4]);
    expect(taken.of('flag')).toEqual([{ kind: 'flag', value: 3 }]);
    expect(taken.delivered).toBe('xy');
    peer.stream(10, new Uint8Array([0, 3]));
    expect(peer.take().ignored).toEqual(['payload type 10']);
  });

  it('may be empty: acknowledged, with nothing to deliver', () => {
    const peer = SessionPeer.open();
    peer.output('', { digest: new Uint8Array(32) });
    expect(peer.take()).toMatchObject({ kinds: ['transmit'], acknowledged: [2] });
  });

  it('do not depend on flags or dates', () => {
    const peer = SessionPeer.open();
    peer.output('x', { flags: 99, createdAt: 0 });
    expect(peer.take().delivered).toBe('x');
  });

  it('of the other direction are ignored', () => {
    const peer = SessionPeer.open();
    peer.receive({ messageType: 'input_stream_data', seq: 2, payloadType: 1, payload: 'x' });
    expect(peer.take()).toMatchObject({ kinds: ['ignored'] });
  });

  it('without a socket are ignored, so that they come again', () => {
    const peer = SessionPeer.open();
    peer.disconnect();
    peer.output('x', { seq: 2 });
    expect(peer.take().kinds).toEqual(['ignored']);
    peer.connect();
    peer.output('x', { seq: 2 });
    expect(peer.take().delivered).toBe('x');
  });

  it('beyond the bound of early ones are refused unacknowledged, the expected one never', () => {
    const peer = SessionPeer.open();
    const large = new Uint8Array(4 * 1024 * 1024);
    peer.output(large, { seq: 3 });
    peer.output(large, { seq: 5 });
    peer.take();
    peer.output('x', { seq: 6 });
    expect(peer.take()).toMatchObject({ kinds: ['ignored'], acknowledged: [] });
    peer.output(new Uint8Array(9 * 1024 * 1024), { seq: 2 });
    const taken = peer.take();
    expect(taken.acknowledged).toEqual([2]);
    expect(taken.of('deliver')).toHaveLength(2);
  });

  function frameOf(_source: SessionPeer, payload: string, seq: number): Uint8Array {
    const inner = SessionPeer.open();
    inner.send(new TextEncoder().encode(payload));
    const [output] = inner.take().of('transmit');
    const frame = Buffer.from(output?.frame ?? []);
    frame.write('output_stream_data'.padEnd(32, ' '), 4, 'latin1');
    frame.writeBigInt64BE(BigInt(seq), 48);
    return frame;
  }
});

describe('messages that are no stream data', () => {
  it('are ignored when malformed, and the session goes on', () => {
    const peer = SessionPeer.open();
    peer.receive({ messageType: 'output_stream_data', headerLength: 5000, seq: 2, payload: 'x' });
    expect(peer.session.receive(new Uint8Array(0), peer.instant)).toMatchObject([
      { kind: 'ignored' },
    ]);
    peer.take();
    peer.output('still here');
    expect(peer.take().delivered).toBe('still here');
  });

  it('are ignored when of an unknown type, with a printable name', () => {
    const peer = SessionPeer.open();
    peer.receive({ messageType: 'agent_session_state', payload: '{}' });
    peer.receive({ messageType: 'x\u0007\u001b[2J', payload: '{}' });
    expect(peer.take().ignored).toEqual([
      'message of type agent_session_state',
      'message of type x[2J',
    ]);
  });

  it('may come as text', () => {
    const peer = SessionPeer.open();
    expect(peer.session.receiveText('{"x":1}', peer.instant)).toMatchObject([{ kind: 'ignored' }]);
    const start = `\0\0\0t${'start_publication'.padEnd(32)}`;
    expect(peer.session.receiveText(start, peer.instant)).toEqual([
      { kind: 'publication', paused: false },
    ]);
    const giant = start.padEnd(100_000);
    expect(peer.session.receiveText(giant, peer.instant)).toEqual([
      { kind: 'ignored', reason: 'oversize text frame' },
    ]);
    peer.close();
    expect(peer.session.receiveText(giant, peer.instant)).toEqual([]);
  });
});

describe('damaged stream data', () => {
  const wrong = { digest: new Uint8Array(32).fill(1) };

  it('is neither delivered nor acknowledged, and asks for another socket once', () => {
    const peer = SessionPeer.open();
    peer.output('bad', { ...wrong, seq: 2 });
    peer.output('bad', { ...wrong, seq: 3 });
    const taken = peer.take();
    expect(taken.kinds).toEqual(['reconnect', 'ignored']);
    peer.output('good', { seq: 2 });
    expect(peer.take().delivered).toBe('good');
  });

  it('asks again on the next socket, and ends the session when no socket brings anything whole', () => {
    const peer = SessionPeer.open();
    for (let socket = 1; socket < 5; socket += 1) {
      peer.output('bad', { ...wrong, seq: 2 });
      expect(peer.take().kinds).toContain('reconnect');
      peer.disconnect();
      peer.connect();
    }
    peer.take();
    peer.output('bad', { ...wrong, seq: 2 });
    expect(peer.take().of('failed')[0]?.error.code).toBe('protocol.malformed');
  });

  it('does not end a session that gets on in between', () => {
    const peer = SessionPeer.open();
    for (let socket = 0; socket < 20; socket += 1) {
      peer.output('good');
      peer.output('good');
      peer.output('bad', { ...wrong, seq: 100 });
      peer.disconnect();
      peer.connect();
    }
    expect(peer.take().of('failed')).toEqual([]);
  });
});

describe('outgoing data', () => {
  it('follows the handshake response in sequence, with flags 0 and payload type 1', () => {
    const peer = SessionPeer.open();
    peer.send(10);
    peer.send(20);
    const { messages } = peer.take();
    expect(messages.map(({ seq }) => seq)).toEqual([1n, 2n]);
    expect(messages[0]).toMatchObject({
      messageType: 'input_stream_data',
      flags: 0n,
      payloadType: 1,
      createdAt: BigInt(1_700_000_000_000 + peer.now),
      digest: sha256Hex(new Uint8Array(10).fill(0x61)),
    });
  });

  it('is not rewritten: a lone line feed stays one', () => {
    const peer = SessionPeer.open();
    peer.send(new Uint8Array([0x0a]));
    expect([...(peer.take().messages[0]?.payload ?? [])]).toEqual([0x0a]);
  });

  it('is copied', () => {
    const peer = SessionPeer.open();
    const payload = new TextEncoder().encode('before');
    peer.send(payload);
    payload.fill(0);
    peer.take();
    peer.wakeNext();
    expect(text(peer.take().messages[0]?.payload)).toBe('before');
  });

  it('is refused when empty or larger than the capacity', () => {
    const peer = SessionPeer.open();
    expect(() => {
      peer.send(0);
    }).toThrow('more bytes');
    expect(() => {
      peer.send(1025);
    }).toThrow('more bytes');
    peer.send(1024);
    expect(() => {
      new SessionPeer().send(1);
    }).toThrow('more bytes');
  });

  it('grows per full payload, as far as the bound', () => {
    const peer = SessionPeer.open();
    const sizes = [1, 2, 3, 4, 5, 6].map(() => {
      const capacity = peer.capacity();
      peer.send(capacity);
      return capacity;
    });
    expect(sizes).toEqual([1024, 2048, 4096, 8192, 16_384, 16_384]);
  });

  it('stays large over a moment without messages in flight, if the last payload was full', () => {
    const peer = SessionPeer.open();
    for (let seq = 1; seq <= 3; seq += 1) {
      peer.send(peer.capacity());
      peer.acknowledge(seq);
    }
    expect(peer.capacity()).toBe(8192);
    peer.send(1);
    expect(peer.capacity()).toBe(8192);
    peer.acknowledge(4);
    expect(peer.capacity()).toBe(1024);
  });

  it('does not grow by small payloads', () => {
    const peer = SessionPeer.open();
    for (let i = 0; i < 10; i += 1) peer.send(100);
    expect(peer.capacity()).toBe(1024);
  });

  it('never exceeds a small bound that was set', () => {
    const peer = SessionPeer.open({ maxPayloadBytes: 600 });
    for (let i = 0; i < 5; i += 1) {
      expect(peer.capacity()).toBe(600);
      peer.send(600);
    }
  });

  it('stops at the byte bound and goes on with an acknowledgement', () => {
    const peer = SessionPeer.open({ maxInFlightBytes: 4000, maxPayloadBytes: 1024 });
    for (let i = 0; i < 3; i += 1) peer.send(1024);
    expect(peer.capacity()).toBe(0);
    expect(peer.session.unackedBytes).toBe(3072);
    peer.session.noteSendBlocked();
    const resendAt = peer.session.nextWakeAt() ?? 0;
    expect(resendAt).toBeGreaterThanOrEqual(peer.now + 250);
    peer.acknowledge(1);
    expect(peer.capacity()).toBe(1024);
  });

  it('stops at the message bound and goes on with an acknowledgement', () => {
    const peer = SessionPeer.open({ maxInFlightMessages: 3 });
    for (let i = 0; i < 3; i += 1) peer.send(1);
    expect(peer.capacity()).toBe(0);
    expect(peer.session.unackedMessages).toBe(3);
    peer.acknowledge(2);
    expect(peer.capacity()).toBe(1024);
  });

  it('fits a window smaller than a payload when nothing is in flight', () => {
    const peer = SessionPeer.open({ maxInFlightBytes: 100 });
    expect(peer.capacity()).toBe(100);
    peer.send(100);
    expect(peer.capacity()).toBe(0);
  });

  it('is paced, with a wake only for a source that has more', () => {
    const peer = SessionPeer.open({ messagesPerSecond: 100 });
    let sent = 0;
    while (peer.capacity() > 0) {
      peer.send(1);
      sent += 1;
    }
    // The handshake response took one of the burst of five; time has not moved since.
    expect(sent).toBe(4);
    const resendAt = peer.session.nextWakeAt();
    peer.session.noteSendBlocked();
    const paceAt = peer.session.nextWakeAt();
    expect(paceAt).toBe(peer.now + 40);
    expect(resendAt).toBeGreaterThan(paceAt ?? 0);
    peer.wake(paceAt);
    expect(peer.session.nextWakeAt()).toBe(resendAt);
    for (let i = 0; i < 4; i += 1) peer.send(1);
    expect(peer.capacity()).toBe(0);
  });

  it('does not wait for the pace to take several messages when one is asked for', () => {
    const peer = SessionPeer.open({ messagesPerSecond: 100 });
    while (peer.capacity() > 0) peer.send(1);
    peer.now += 10;
    expect(peer.capacity()).toBe(1024);
  });
});

describe('acknowledgements', () => {
  const acknowledgement = (payload: string) => ({ messageType: 'acknowledge', payload });

  it('release their message, in any order', () => {
    const peer = SessionPeer.open();
    peer.send(5);
    peer.send(6);
    peer.acknowledge(2);
    expect(peer.session).toMatchObject({ unackedMessages: 1, unackedBytes: 5 });
    peer.acknowledge(1);
    expect(peer.session).toMatchObject({ unackedMessages: 0, unackedBytes: 0 });
    expect(peer.session.nextWakeAt()).toBeUndefined();
  });

  it('of unknown or released messages have no effect', () => {
    const peer = SessionPeer.open();
    peer.send(5);
    peer.take();
    for (const seq of [0, 2, 99, Number.MAX_SAFE_INTEGER]) peer.acknowledge(seq);
    expect(peer.take().all).toEqual([]);
    expect(peer.session.unackedMessages).toBe(1);
  });

  it('are never acknowledged', () => {
    const peer = SessionPeer.open();
    peer.send(5);
    peer.take();
    peer.acknowledge(1);
    expect(peer.take().all).toEqual([]);
  });

  const tolerated = [
    '{"AcknowledgedMessageSequenceNumber":1}',
    '{ "IsSequentialMessage": true, "AcknowledgedMessageSequenceNumber": 1, "New": [] }',
    '{"AcknowledgedMessageSequenceNumber":1}\0\0',
  ];
  for (const payload of tolerated) {
    it(`are understood as ${JSON.stringify(payload)}`, () => {
      const peer = SessionPeer.open();
      peer.send(5);
      peer.receive(acknowledgement(payload));
      expect(peer.session.unackedMessages).toBe(0);
    });
  }

  const useless = [
    '',
    'null',
    '1',
    '[]',
    '{}',
    '{"AcknowledgedMessageSequenceNumber":"1"}',
    '{"AcknowledgedMessageSequenceNumber":1.5}',
    '{"AcknowledgedMessageSequenceNumber":-1}',
    '{"AcknowledgedMessageSequenceNumber":9007199254740993}',
    `{"AcknowledgedMessageSequenceNumber":1,"x":"${'y'.repeat(5000)}"}`,
  ];
  for (const payload of useless) {
    it(`are ignored as ${JSON.stringify(payload.slice(0, 60))}`, () => {
      const peer = SessionPeer.open();
      peer.send(5);
      peer.take();
      peer.receive(acknowledgement(payload));
      expect(peer.take().kinds).toEqual(['ignored']);
      expect(peer.session.unackedMessages).toBe(1);
    });
  }

  it('with a wrong digest are ignored', () => {
    const peer = SessionPeer.open();
    peer.send(5);
    peer.take();
    peer.receive({
      ...acknowledgement('{"AcknowledgedMessageSequenceNumber":1}'),
      digest: new Uint8Array(32),
    });
    expect(peer.take().kinds).toEqual(['ignored']);
    expect(peer.session.unackedMessages).toBe(1);
  });
});

describe('resending', () => {
  it('sends the same bytes again when no acknowledgement comes', () => {
    const peer = SessionPeer.open();
    peer.send(5);
    const [first] = peer.take().of('transmit');
    const copy = new Uint8Array(first?.frame ?? []);
    peer.wakeNext();
    const [again] = peer.take().of('transmit');
    expect(Buffer.compare(copy, again?.frame ?? new Uint8Array())).toBe(0);
  });

  it('leaves more time each round, up to five seconds, and never gives up', () => {
    const peer = SessionPeer.open({ messagesPerSecond: 10_000 });
    peer.send(5);
    peer.take();
    const delays: number[] = [];
    for (let round = 0; round < 130; round += 1) {
      const before = peer.now;
      expect(peer.wakeNext()).toBe(true);
      expect(peer.take().sent).toEqual([1]);
      delays.push(peer.now - before);
    }
    expect(delays.slice(0, 6)).toEqual([250, 500, 1000, 2000, 4000, 5000]);
    expect(new Set(delays.slice(5))).toEqual(new Set([5000]));
    expect(peer.session.phase).toBe('open');
    expect(peer.now).toBeGreaterThan(600_000);
  });

  it('stays within its bounds while acknowledgements are withheld for ten minutes', () => {
    const peer = SessionPeer.open({ maxInFlightBytes: 100_000 });
    const end = peer.now + 600_000;
    let sent = 0;
    while (peer.now < end) {
      for (let room = peer.capacity(); room > 0; room = peer.capacity()) {
        peer.send(room);
        sent += room;
      }
      peer.session.noteSendBlocked();
      expect(peer.session.unackedBytes).toBeLessThanOrEqual(100_000);
      expect(peer.wakeNext()).toBe(true);
    }
    expect(sent).toBe(peer.session.unackedBytes);
    expect(peer.session.phase).toBe('open');
    expect(peer.take().sent.length).toBeLessThan(300);
  });

  it('leaves nothing unacknowledged once the agent has had everything', () => {
    const peer = SessionPeer.open();
    let left = 100 * 1024;
    while (left > 0) {
      const size = Math.min(left, peer.capacity());
      if (size > 0) peer.send(size);
      left -= size;
      const { sent } = peer.take();
      peer.now += 5;
      for (const seq of sent) peer.acknowledge(seq);
    }
    expect(peer.session).toMatchObject({ unackedMessages: 0, unackedBytes: 0 });
    expect(peer.session.nextWakeAt()).toBeUndefined();
  });

  it('resends at most two messages a round while nothing at all is acknowledged', () => {
    const peer = SessionPeer.open();
    for (let i = 0; i < 40; i += 1) peer.send(100);
    peer.take();
    for (let round = 0; round < 5; round += 1) {
      peer.wakeNext();
      expect(peer.take().sent.length).toBeLessThanOrEqual(2);
    }
  });

  it('resends at once what a clearly later message has overtaken, once', () => {
    const peer = SessionPeer.open();
    peer.send(1);
    peer.now += 20;
    peer.send(2);
    peer.take();
    peer.now += 20;
    peer.acknowledge(2);
    expect(peer.take().sent).toEqual([1]);
    peer.send(3);
    peer.now += 20;
    peer.take();
    peer.acknowledge(3);
    expect(peer.take().sent).toEqual([]);
  });

  it('does not take messages of one burst for overtaken', () => {
    const peer = SessionPeer.open();
    for (let i = 0; i < 3; i += 1) peer.send(1);
    peer.now += 20;
    peer.take();
    peer.acknowledge(3);
    expect(peer.take().sent).toEqual([]);
  });

  it('speeds up while resends are what gets acknowledged', () => {
    const peer = SessionPeer.open();
    for (let i = 0; i < 40; i += 1) peer.send(100);
    peer.take();
    const rounds: number[] = [];
    while (peer.session.unackedMessages > 0) {
      peer.wakeNext();
      const { sent } = peer.take();
      rounds.push(sent.length);
      peer.now += 5;
      for (const seq of sent) peer.acknowledge(seq);
    }
    expect(rounds.length).toBeLessThan(7);
  });

  it('takes no round-trip sample from a message that was sent twice', () => {
    const peer = SessionPeer.open();
    const before = peer.session.resendAfterMs;
    peer.send(5);
    peer.wakeNext();
    peer.now += 60_000;
    peer.acknowledge(1);
    expect(peer.session.resendAfterMs).toBe(before);
    peer.send(5);
    peer.now += 2_000;
    peer.acknowledge(2);
    expect(peer.session.resendAfterMs).toBeGreaterThan(before);
  });

  it('is the first thing to be sent when the pace allows, before new data', () => {
    const peer = SessionPeer.open({ messagesPerSecond: 20 });
    for (let i = 0; i < 3; i += 1) {
      peer.now += 50;
      peer.send(1);
    }
    peer.disconnect();
    peer.connect();
    peer.take();
    peer.now += 50;
    expect(peer.capacity()).toBe(0);
    peer.session.noteSendBlocked();
    peer.wakeNext();
    expect(peer.take().sent).toEqual([1]);
  });
});

describe('the end', () => {
  it('is channel_closed, also with a short header and NUL padding', () => {
    const peer = SessionPeer.open();
    peer.output('last');
    peer.close('{"Output":"x"}', { headerLength: 112, pad: '\0' });
    const taken = peer.take();
    expect(taken.delivered).toBe('last');
    expect(taken.of('closed')).toEqual([{ kind: 'closed', output: 'x', incomplete: false }]);
    expect(taken.acknowledged).toEqual([2]);
    expect(peer.session.phase).toBe('closed');
  });

  it('is incomplete when messages before the last are missing', () => {
    const peer = SessionPeer.open();
    peer.output('after the gap', { seq: 3 });
    peer.close();
    expect(peer.take().of('closed')).toMatchObject([{ incomplete: true }]);
  });

  it('is in doubt soon after a resume, when what was under way may not have come again', () => {
    const endAfter = (ms: number): unknown[] => {
      const peer = SessionPeer.open();
      peer.output('x');
      peer.disconnect();
      peer.connect();
      peer.now += ms;
      peer.close();
      return peer.take().of('closed');
    };
    expect(endAfter(2999)).toMatchObject([{ incomplete: true }]);
    expect(endAfter(3000)).toMatchObject([{ incomplete: false }]);
  });

  it('has the output of the service, readable and bounded', () => {
    const closedBy = (json: string): string => {
      const peer = SessionPeer.open();
      peer.close(json, { digest: new Uint8Array(32) });
      return peer.take().of('closed')[0]?.output ?? 'no end';
    };
    expect(closedBy('{}')).toBe('');
    expect(closedBy('no json')).toBe('');
    expect(closedBy('{"Output":7}')).toBe('');
    expect(closedBy('{"Output":"----------ERROR-------\\nUnable\\tto\\u001b[31m connect"}')).toBe(
      '----------ERROR-------\nUnable\tto[31m connect',
    );
    expect(closedBy(`{"Output":"${'é'.repeat(10_000)}"}`)).toBe('é'.repeat(4096));
    expect(closedBy(`{"Output":"${'x'.repeat(70_000)}"}`)).toBe('');
  });

  it('may come before the handshake', () => {
    const peer = new SessionPeer();
    peer.connect();
    peer.close('{"Output":"Plugin with name Port is not supported"}');
    expect(peer.take().of('closed')[0]?.output).toContain('Port is not supported');
  });
});

describe('terminate', () => {
  it('sends the flag in sequence and reports its acknowledgement, once', () => {
    const peer = SessionPeer.open();
    peer.send(5);
    peer.take();
    peer.terminate();
    const [flag] = peer.take().messages;
    expect(flag).toMatchObject({ messageType: 'input_stream_data', seq: 2n, payloadType: 10 });
    expect([...(flag?.payload ?? [])]).toEqual([0, 0, 0, 2]);
    peer.terminate();
    peer.acknowledge(1);
    expect(peer.take().all).toEqual([]);
    peer.acknowledge(2);
    expect(peer.take().all).toEqual([{ kind: 'terminated' }]);
    peer.acknowledge(2);
    expect(peer.take().all).toEqual([]);
  });

  it('does not wait for the pace, but counts towards it', () => {
    const peer = SessionPeer.open({ messagesPerSecond: 20 });
    while (peer.capacity() > 0) peer.send(1);
    peer.take();
    peer.terminate();
    expect(peer.take().messages[0]?.payloadType).toBe(10);
  });

  it('still delivers what the agent sends, and takes no more data', () => {
    const peer = SessionPeer.open();
    peer.terminate();
    peer.take();
    expect(peer.capacity()).toBe(0);
    peer.output('rest');
    peer.stream(10, new Uint8Array([0, 0, 0, 3]));
    expect(peer.take()).toMatchObject({ delivered: 'rest', acknowledged: [2, 3] });
    peer.close();
    expect(peer.take().kinds).toEqual(['closed']);
  });

  it('before the session is open is remembered until it is', () => {
    const peer = new SessionPeer();
    peer.connect();
    peer.terminate();
    peer.request();
    peer.terminate();
    peer.take();
    peer.complete();
    const taken = peer.take();
    expect(taken.kinds).toEqual(['transmit', 'opened', 'transmit']);
    expect(taken.messages[1]?.payloadType).toBe(10);
    expect(peer.session.phase).toBe('terminating');
  });

  it('without a socket is sent over the next', () => {
    const peer = SessionPeer.open();
    peer.disconnect();
    peer.terminate();
    expect(peer.take().all).toEqual([]);
    peer.connect();
    expect(peer.take().sent).toEqual([1]);
  });
});

describe('frames', () => {
  it('are of one allocation each and read back as what was meant', () => {
    const peer = SessionPeer.open();
    peer.send(700);
    const [output] = peer.take().of('transmit');
    const frame = output?.frame ?? new Uint8Array();
    expect(frame.length).toBe(820);
    expect(decodeMessage(frame)).toMatchObject({ kind: 'stream', seq: 1, payloadType: 1 });
    expect(naiveDecode(frame)?.messageId).toMatch(/^[0-9a-f-]{36}$/);
  });
});
