import { describe, expect, it } from 'vitest';
import { SessionPeer } from '../support/session-peer.ts';

describe('a lost socket', () => {
  it('is not the end, whatever the close code', () => {
    for (const code of [1000, 1001, 1006, 1009, 4000, undefined]) {
      const peer = SessionPeer.open();
      peer.disconnect(code);
      expect(peer.take().all).toEqual([]);
      expect(peer.session.phase).toBe('open');
    }
  });

  it('stops all sending, and all wakes', () => {
    const peer = SessionPeer.open();
    peer.send(5);
    peer.take();
    peer.disconnect(1006);
    expect(peer.capacity()).toBe(0);
    peer.session.noteSendBlocked();
    expect(peer.session.nextWakeAt()).toBeUndefined();
    peer.wake(peer.now + 100_000);
    peer.disconnect(1006);
    expect(peer.take().all).toEqual([]);
  });

  it('leaves counters, payload types and mode as they were', () => {
    const peer = SessionPeer.open();
    peer.send(5);
    peer.output('a');
    peer.disconnect(1000);
    peer.connect();
    peer.acknowledge(1);
    peer.take();
    peer.output('b');
    peer.send(6);
    expect(peer.take()).toMatchObject({ delivered: 'b', acknowledged: [3], sent: [2] });
  });
});

describe('the next socket', () => {
  it('gets a new token and request, then the last acknowledgement, then everything unacknowledged in order', () => {
    const peer = SessionPeer.open();
    peer.output('a');
    peer.now += 5;
    for (let i = 0; i < 5; i += 1) peer.send(10);
    peer.acknowledge(3);
    const before = peer
      .take()
      .of('transmit')
      .map(({ frame }) => Buffer.from(frame).toString('hex'));
    peer.disconnect(1000);
    peer.now += 20;
    const outputs = peer.session.socketOpened(
      { tokenValue: 'second token', requestId: 'second request' },
      peer.instant,
    );
    const [first, ...rest] = outputs;
    expect(first?.kind === 'transmit-text' && (JSON.parse(first.text) as unknown)).toMatchObject({
      TokenValue: 'second token',
      RequestId: 'second request',
      ClientId: '51103438-0f13-4a5d-917d-6d2fe721e5b9',
    });
    const frames = rest.map((output) =>
      output.kind === 'transmit' ? Buffer.from(output.frame).toString('hex') : output.kind,
    );
    // Message 1, 2, 4 and 5 are the very bytes sent before; the first frame is an acknowledgement.
    const data = before.filter((hex) => hex.includes(Buffer.from('input_stream').toString('hex')));
    expect(frames.slice(1)).toEqual([data[0], data[1], data[3], data[4]]);
    expect(frames[0]).toContain(Buffer.from('acknowledge').toString('hex'));
  });

  it('gets no acknowledgement when nothing was ever received', () => {
    const peer = new SessionPeer();
    peer.connect();
    peer.disconnect();
    peer.take();
    peer.connect();
    expect(peer.take().kinds).toEqual(['transmit-text']);
  });

  it('may replace one that was not reported lost', () => {
    const peer = SessionPeer.open();
    peer.send(5);
    peer.take();
    peer.connect();
    expect(peer.take()).toMatchObject({
      kinds: ['transmit-text', 'transmit', 'transmit'],
      sent: [1],
    });
  });

  it('has no deadline for what its predecessor was waiting for', () => {
    const peer = SessionPeer.open({ messagesPerSecond: 100 });
    let seq = 0;
    while (peer.capacity() > 0) {
      peer.send(1);
      peer.acknowledge((seq += 1));
    }
    peer.session.noteSendBlocked();
    expect(peer.session.nextWakeAt()).toBeDefined();
    peer.disconnect();
    peer.connect();
    expect(peer.session.nextWakeAt()).toBeUndefined();
  });

  it('gets the replay at the pace, before any new data', () => {
    const peer = SessionPeer.open({ messagesPerSecond: 100 });
    for (let i = 0; i < 30; i += 1) {
      peer.now += 10;
      peer.send(10);
    }
    peer.disconnect();
    peer.take();
    peer.now += 1000;
    peer.connect();
    const sent = [...peer.take().sent];
    expect(sent).toEqual([1, 2, 3, 4, 5]);
    const start = peer.now;
    while (sent.length < 30) {
      expect(peer.capacity()).toBe(0);
      expect(peer.wakeNext()).toBe(true);
      sent.push(...peer.take().sent);
    }
    // By then the resend timer has queued the first ones again.
    expect(sent.slice(0, 30)).toEqual(Array.from({ length: 30 }, (_, i) => i + 1));
    expect(peer.now - start).toBe(280);
  });

  it('drops an acknowledged message from the replay', () => {
    const peer = SessionPeer.open({ messagesPerSecond: 20 });
    for (let i = 0; i < 3; i += 1) {
      peer.now += 50;
      peer.send(10);
    }
    peer.disconnect();
    peer.take();
    peer.now += 50;
    peer.connect();
    expect(peer.take().sent).toEqual([1]);
    peer.acknowledge(2);
    peer.wakeNext();
    expect(peer.take().sent).toEqual([3]);
    expect(peer.session.unackedMessages).toBe(2);
  });

  it('repeats a handshake response that was lost with the socket before', () => {
    const peer = new SessionPeer();
    peer.connect();
    peer.request();
    peer.disconnect();
    peer.take();
    peer.connect();
    expect(peer.take()).toMatchObject({ acknowledged: [0], sent: [0] });
    peer.complete();
    expect(peer.session.phase).toBe('open');
  });

  it('starts its own count of overtaken messages', () => {
    const peer = SessionPeer.open();
    peer.send(1);
    peer.now += 50;
    peer.send(2);
    peer.disconnect();
    peer.now += 50;
    peer.connect();
    peer.take();
    peer.acknowledge(2);
    expect(peer.take().sent).toEqual([]);
  });
});

describe('closes that follow large messages', () => {
  function grown(): SessionPeer {
    const peer = SessionPeer.open();
    for (let i = 0; i < 3; i += 1) peer.send(peer.capacity());
    expect(peer.capacity()).toBe(8192);
    peer.take();
    return peer;
  }

  it('with code 1009 lead to small messages from then on', () => {
    const peer = grown();
    peer.disconnect(1009);
    peer.connect();
    expect(peer.capacity()).toBe(1024);
    for (let i = 0; i < 5; i += 1) peer.send(1024);
    expect(peer.capacity()).toBe(1024);
  });

  it('with code 1009 three times in a row end the session with advice', () => {
    const peer = grown();
    for (let i = 0; i < 3; i += 1) {
      expect(peer.session.phase).toBe('open');
      peer.disconnect(1009);
      peer.connect();
    }
    expect(peer.take().of('failed')[0]?.error).toMatchObject({
      code: 'session.lost',
      hint: expect.stringContaining('--payload-size') as string,
    });
  });

  it('with code 1009 do not end a session that gets on in between', () => {
    const peer = grown();
    for (let seq = 1; seq <= 3; seq += 1) {
      peer.disconnect(1009);
      peer.connect();
      peer.acknowledge(seq);
      peer.disconnect(1009);
      peer.connect();
    }
    expect(peer.session.phase).toBe('open');
  });

  it('with other codes lead to small messages at the second time without an acknowledgement', () => {
    const peer = grown();
    peer.disconnect(1006);
    peer.connect();
    expect(peer.capacity()).toBe(8192);
    peer.acknowledge(1);
    peer.disconnect(1006);
    peer.connect();
    expect(peer.capacity()).toBe(8192);
    peer.disconnect(1006);
    peer.connect();
    expect(peer.capacity()).toBe(1024);
  });

  it('count also when they are not reported but a new socket simply comes', () => {
    const peer = grown();
    peer.connect();
    expect(peer.capacity()).toBe(8192);
    peer.connect();
    expect(peer.capacity()).toBe(1024);
  });

  it('are not blamed on messages that are small or acknowledged', () => {
    const peer = SessionPeer.open();
    for (let i = 0; i < 4; i += 1) peer.send(1024);
    for (let i = 0; i < 5; i += 1) {
      peer.disconnect(1009);
      peer.connect();
    }
    expect(peer.session.phase).toBe('open');
    peer.send(peer.capacity());
    peer.send(peer.capacity());
    expect(peer.capacity()).toBe(8192);
  });
});

describe('agents that ignore duplicates', () => {
  const old = { agentVersion: '3.1.1188.0' };

  /** Everything sent was received, but the acknowledgements of all but the last were lost. */
  function afterLostAcknowledgements(options = {}): SessionPeer {
    const peer = SessionPeer.open(options, old);
    peer.output('banner');
    for (let i = 0; i < 5; i += 1) peer.send(1000);
    peer.disconnect();
    peer.connect();
    peer.take();
    return peer;
  }

  /** Time passes, with traffic that the agent acknowledges. */
  function talk(peer: SessionPeer, rounds: number, firstSeq: number): void {
    for (let round = 0; round < rounds; round += 1) {
      peer.send(1);
      peer.now += 500;
      peer.acknowledge(firstSeq + round);
      peer.wake();
    }
  }

  it('are taken to have what they stay silent about, but for the oldest', () => {
    const peer = afterLostAcknowledgements();
    expect(peer.session.unackedMessages).toBe(5);
    talk(peer, 30, 6);
    expect(peer.session.unackedMessages).toBe(1);
  });

  it('are not, before they have sent anything', () => {
    const peer = SessionPeer.open({}, old);
    for (let i = 0; i < 5; i += 1) peer.send(1000);
    peer.disconnect();
    peer.connect();
    talk(peer, 30, 6);
    expect(peer.session.unackedMessages).toBe(5);
  });

  it('are not, about what was sent before that', () => {
    const peer = new SessionPeer();
    peer.connect();
    peer.request(old);
    peer.complete();
    // The response is never acknowledged, and the agent is not ready for message 1.
    peer.send(1);
    talk(peer, 30, 2);
    peer.output('banner');
    talk(peer, 1, 32);
    expect(peer.session.unackedMessages).toBe(2);
  });

  it('of newer versions are never', () => {
    const peer = SessionPeer.open({}, { agentVersion: '3.2.1041.0' });
    peer.output('banner');
    for (let i = 0; i < 5; i += 1) peer.send(1000);
    peer.disconnect();
    peer.connect();
    talk(peer, 30, 6);
    expect(peer.session.unackedMessages).toBe(5);
  });

  it('get a small probe beyond a window that is full of such messages', () => {
    const peer = afterLostAcknowledgements({ maxInFlightMessages: 5, maxInFlightBytes: 5500 });
    expect(peer.capacity()).toBe(0);
    const start = peer.now;
    while (peer.capacity() === 0) peer.wakeNext();
    expect(peer.now - start).toBeLessThan(2000);
    expect(peer.capacity()).toBe(1024);
    peer.send(1);
    expect(peer.capacity()).toBe(0);
    peer.now += 10;
    peer.acknowledge(6);
    expect(peer.capacity()).toBe(0);
  });

  it('get no more than a bounded number of probes', () => {
    const peer = afterLostAcknowledgements({ maxInFlightMessages: 5 });
    for (let i = 0; i < 1000; i += 1) {
      peer.wakeNext();
      while (peer.capacity() > 0) peer.send(1);
    }
    expect(peer.session.unackedMessages).toBe(5 + 256);
  });
});
