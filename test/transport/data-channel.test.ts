import { describe, expect, it } from 'vitest';
import { BridgeError } from '../../src/errors.ts';
import { settled } from '../support/manual-clock.ts';
import { naiveEncode } from '../support/naive-codec.ts';
import { clientId, Harness, pattern } from './harness.ts';

const output = 1;
const flag = 10;

function networkDown(): BridgeError {
  return new BridgeError('network.unreachable', 'cannot connect to gateway.test:443');
}

describe('opening', () => {
  it('introduces itself with the token in a text frame before anything else', async () => {
    const { sockets } = await new Harness().open();
    expect(sockets[0]!.texts.map((text) => JSON.parse(text) as unknown)).toEqual([
      {
        MessageSchemaVersion: '1.0',
        RequestId: 'request-1',
        TokenValue: 'token-0',
        ClientId: clientId,
        ClientVersion: '1.2.764.0',
      },
    ]);
  });

  it('signs the stream URL and dials it verbatim', async () => {
    const harness = await new Harness().open();
    expect([harness.signedUrls, harness.sockets[0]!.url]).toEqual([
      ['wss://gateway.test/0?q=0'],
      'wss://gateway.test/0?q=0',
    ]);
  });

  it('tells the mode and the agent that it found', async () => {
    const { info } = await new Harness().open();
    expect([info?.mode, info?.agentVersion]).toEqual(['basic', '3.3.987.0']);
  });

  it('carries bytes both ways', async () => {
    const harness = await new Harness().open();
    harness.send('hello');
    harness.agent.sendOutput(new TextEncoder().encode('world'), harness.clock.now());
    await settled();
    expect([harness.received().toString(), harness.deliveredBytes().toString()]).toEqual([
      'hello',
      'world',
    ]);
  });

  it('holds bytes that are there before the channel is open, and then sends them', async () => {
    const harness = new Harness();
    harness.send('early');
    await harness.open();
    await settled();
    expect(harness.received().toString()).toBe('early');
  });

  it('delivers a duplicate once and acknowledges it twice', async () => {
    const harness = await new Harness().open();
    const frame = naiveEncode({
      messageType: 'output_stream_data',
      seq: 2,
      payloadType: output,
      payload: 'once',
    });
    harness.socket.deliver(frame);
    harness.socket.deliver(frame);
    await settled();
    expect(harness.deliveredBytes().toString()).toBe('once');
    expect(harness.socket.acknowledged()).toEqual([0, 1, 2, 2]);
  });

  it('gives up on a dial that hangs, after 15 s, and ends the session by the API', async () => {
    const harness = new Harness();
    harness.dialAnswers.push('hang');
    harness.channel.start();
    await harness.clock.pass(15_000);
    expect([harness.failure.code, harness.failure.message, harness.terminateCalls]).toEqual([
      'network.timeout',
      'the data channel at gateway.test did not open within 15 s',
      ['session-1'],
    ]);
  });

  it('gives up on a dial that hangs when the time to open is up before that', async () => {
    const harness = new Harness({ openBy: 6000 });
    harness.dialAnswers.push('hang');
    harness.channel.start();
    await harness.clock.pass(5000);
    expect([harness.failure.code, harness.failure.message]).toEqual([
      'network.timeout',
      'the data channel could not be opened in time',
    ]);
  });

  it('reports a failed dial at once', async () => {
    const harness = new Harness();
    harness.dialAnswers.push(networkDown());
    harness.channel.start();
    await settled();
    expect(harness.failure.code).toBe('network.unreachable');
  });

  it('says that the agent did not begin the handshake', async () => {
    const harness = new Harness({ isSilent: true });
    harness.channel.start();
    await harness.clock.pass(20_000);
    expect([harness.failure.code, harness.failure.message]).toEqual([
      'protocol.handshake',
      'the agent did not begin the handshake in time',
    ]);
  });

  it('says that the agent did not complete the handshake', async () => {
    const harness = new Harness();
    harness.onFrame = () => undefined;
    harness.channel.start();
    await harness.clock.pass(20_000);
    expect(harness.failure.message).toBe('the agent did not complete the handshake in time');
  });

  it('does not keep its opening deadline once it is open', async () => {
    const harness = await new Harness().open();
    await harness.clock.pass(30_000);
    expect(harness.end).toBeUndefined();
  });

  it('believes the third close before the handshake', async () => {
    const harness = new Harness({ isSilent: true });
    harness.channel.start();
    for (let count = 0; count < 3; count += 1) {
      await harness.clock.pass(1000);
      harness.socket.end({ kind: 'closed', code: 1008, reason: 'no' });
    }
    await settled();
    expect([harness.failure.code, harness.failure.message]).toEqual([
      'access.websocket',
      'the service closed the data channel before the handshake (close code 1008, no)',
    ]);
  });

  it('does not blame permissions for connections that are cut before the handshake', async () => {
    const harness = new Harness({ isSilent: true });
    harness.channel.start();
    for (let count = 0; count < 3; count += 1) {
      await harness.clock.pass(1000);
      harness.socket.end({ kind: 'closed', code: 1006, reason: '' });
    }
    await settled();
    expect(harness.failure.code).toBe('network.unreachable');
  });

  it('notices a socket that ended before it was handed over', async () => {
    const harness: Harness = new Harness({
      openSocket: (request, events) => {
        if (harness.dials === 0) events.onEnd({ kind: 'closed', code: 1006, reason: '' });
        return harness.dial(request.url, events);
      },
    });
    await harness.open();
    expect([harness.resumeCalls.length, harness.sockets[0]!.isDestroyed]).toEqual([1, true]);
  });
});

describe('a lost socket', () => {
  it('is replaced at once after close 1000, with the new token, the new URL and the same client id', async () => {
    const harness = await new Harness().open();
    harness.socket.end();
    await settled();
    const { sockets } = harness;
    const [text] = sockets[1]!.texts.map((json) => JSON.parse(json) as Record<string, string>);
    expect([sockets.length, sockets[1]!.url, text]).toMatchObject([
      2,
      'wss://gateway.test/1',
      { TokenValue: 'token-1', RequestId: 'request-2', ClientId: clientId },
    ]);
  });

  it('keeps its URL when the service gives none', async () => {
    const harness = await new Harness().open();
    harness.resumeAnswers.push(
      { tokenValue: 'a', streamUrl: undefined },
      { tokenValue: 'b', streamUrl: 'wss://other.test/' },
      { tokenValue: 'c', streamUrl: undefined },
    );
    for (let count = 0; count < 3; count += 1) {
      harness.socket.end();
      await harness.clock.pass(20_000);
    }
    expect(harness.sockets.slice(1).map(({ url }) => url)).toEqual([
      'wss://gateway.test/0?q=0',
      'wss://other.test/',
      'wss://other.test/',
    ]);
  });

  it('makes nobody say anything when it is replaced at the first attempt', async () => {
    const harness = await new Harness().open();
    harness.socket.end();
    await harness.clock.pass(20_000);
    expect(harness.notices).toEqual([]);
  });

  it('loses and doubles nothing that was on its way', async () => {
    const harness = await new Harness().open();
    const sent = pattern(300_000);
    harness.send(sent);
    // Every third message is lost, and so are the acknowledgements of the others.
    let count = 0;
    harness.socket.onFrame = (frame) => {
      count += 1;
      if (count % 3 === 0) return;
      harness.agent.receive(frame, harness.clock.now());
    };
    await harness.clock.pass(50);
    harness.socket.end();
    await harness.clock.pass(20_000);
    expect(harness.received().equals(sent)).toBe(true);
  });

  it('replays everything unacknowledged in order', async () => {
    const harness = await new Harness().open();
    harness.socket.isBlackHole = true;
    harness.send(pattern(5000));
    await settled();
    const before = harness.socket.streamMessages().map(({ seq }) => seq);
    harness.socket.end({ kind: 'closed', code: 1006, reason: '' });
    await settled();
    const after = harness.socket.streamMessages().map(({ seq }) => seq);
    // The handshake's response was acknowledged; everything else was not.
    expect(after.slice(0, before.length - 1)).toEqual(before.slice(1));
  });

  it('delivers what the agent replays once', async () => {
    const harness = await new Harness().open();
    const sent = pattern(3000, 5);
    harness.socket.onFrame = () => undefined;
    harness.agent.sendOutput(sent, harness.clock.now());
    await settled();
    harness.socket.end();
    await harness.clock.pass(2000);
    expect([harness.deliveredBytes().equals(sent), harness.agent.unackedMessages]).toEqual([
      true,
      0,
    ]);
  });

  it('cannot tell anything any more', async () => {
    const harness = await new Harness().open();
    const old = harness.socket;
    old.end();
    await settled();
    const { agentVersion } = harness.info!;
    old.isDestroyed = false;
    old.events.onMessage(
      naiveEncode({ messageType: 'output_stream_data', seq: 2, payloadType: 1, payload: 'ghost' }),
    );
    old.events.onText('{}');
    old.events.onDrain();
    old.end();
    old.end({ kind: 'error', error: networkDown() });
    await settled();
    expect([agentVersion, harness.delivered, harness.sockets.length, harness.end]).toEqual([
      '3.3.987.0',
      [],
      2,
      undefined,
    ]);
  });

  it('is destroyed, and nothing is written to it any more', async () => {
    const harness = await new Harness().open();
    const { frames } = harness.socket;
    const before = frames.length;
    harness.send('queued');
    harness.socket.end();
    await settled();
    expect([harness.sockets[0]!.isDestroyed, frames.length]).toEqual([true, before]);
    expect(harness.received().toString()).toBe('queued');
  });

  it('ends the session when messages are too big for the service three times', async () => {
    const harness = await new Harness().open();
    harness.onFrame = () => undefined;
    harness.send(pattern(100_000));
    for (let count = 0; count < 3; count += 1) {
      await harness.clock.pass(20_000);
      harness.socket.end({ kind: 'closed', code: 1009, reason: '' });
    }
    await settled();
    expect(harness.failure.message).toBe('the service refuses a message of this size');
  });

  it('is announced once and its return once, however long it takes', async () => {
    const harness = await new Harness().open();
    for (let count = 0; count < 6; count += 1) harness.dialAnswers.push(networkDown());
    harness.socket.end({ kind: 'closed', code: 1006, reason: '' });
    await harness.clock.pass(60_000);
    expect(harness.notices).toEqual([
      'connection lost (close code 1006), trying to resume for up to 300 s: cannot connect to gateway.test:443',
      'connection resumed after 15 s',
    ]);
  });

  it('does not interrupt a long outage with more attempts than its delays allow', async () => {
    const harness = await new Harness({ resumeTimeoutMs: 300_000 }).open();
    harness.socket.end();
    for (let count = 0; count < 200; count += 1) harness.dialAnswers.push(networkDown());
    await harness.clock.pass(300_000);
    expect(harness.end).toBeDefined();
    expect(harness.resumeCalls.length).toBeLessThan(60);
  });

  it('ends the session when it cannot be replaced in time', async () => {
    const harness = await new Harness({ resumeTimeoutMs: 5000 }).open();
    for (let count = 0; count < 50; count += 1) harness.dialAnswers.push(networkDown());
    harness.socket.end();
    await harness.clock.pass(5000);
    expect([harness.failure.code, harness.failure.message, harness.terminateCalls]).toEqual([
      'session.lost',
      'the connection was lost and could not be resumed: cannot connect to gateway.test:443',
      ['session-1'],
    ]);
  });

  it('ends the session in time even if ResumeSession never answers', async () => {
    const harness = await new Harness({ resumeTimeoutMs: 5000 }).open();
    harness.resumeAnswers.push('hang');
    harness.socket.end();
    await harness.clock.pass(5000);
    expect(harness.failure.message).toBe(
      'the connection was lost and could not be resumed in time',
    );
  });

  it('is not replaced with a resume timeout of 0', async () => {
    const harness = await new Harness({ resumeTimeoutMs: 0 }).open();
    harness.socket.end();
    await settled();
    expect([harness.failure.message, harness.resumeCalls]).toEqual([
      'the connection was lost (close code 1000, Bye)',
      [],
    ]);
  });

  it('ends everything at once when the service does not know the session, without a call to end it', async () => {
    const harness = await new Harness().open();
    harness.resumeAnswers.push(undefined);
    harness.socket.end();
    await settled();
    expect([harness.failure.code, harness.terminateCalls, harness.isReleased]).toEqual([
      'session.gone',
      [],
      true,
    ]);
  });

  it('ends everything at once when resuming is denied', async () => {
    const harness = await new Harness().open();
    harness.resumeAnswers.push(new BridgeError('access.denied', 'ResumeSession is denied'));
    harness.socket.end();
    await settled();
    expect(harness.failure.code).toBe('access.denied');
  });

  it('believes the third refusal of the upgrade', async () => {
    const harness = await new Harness().open();
    for (let count = 0; count < 3; count += 1) {
      harness.dialAnswers.push(new BridgeError('access.websocket', 'refused with HTTP 403'));
    }
    harness.socket.end();
    await harness.clock.pass(10_000);
    expect([harness.failure.code, harness.resumeCalls.length]).toEqual(['access.websocket', 3]);
  });

  it('is one outage with growing delays while the service drops each successor at once', async () => {
    const harness = await new Harness({ resumeTimeoutMs: 60_000 }).open();
    await harness.clock.pass(60_000);
    harness.onFrame = () => undefined;
    const drop = (): void => {
      harness.current?.end({ kind: 'closed', code: 1011, reason: '' });
    };
    drop();
    for (let seconds = 0; seconds < 60; seconds += 0.1) {
      await harness.clock.pass(100);
      drop();
    }
    expect(harness.resumeCalls.length).toBeLessThan(20);
    expect(harness.failure.code).toBe('session.lost');
  });

  it('is a new outage once a successor has carried data', async () => {
    const harness = await new Harness({ resumeTimeoutMs: 3000 }).open();
    for (let count = 0; count < 30; count += 1) {
      harness.socket.end();
      await settled();
      harness.send(pattern(10, count));
      await harness.clock.pass(500);
    }
    expect([harness.end, harness.received().length]).toEqual([undefined, 300]);
  });

  it('is left with a close frame when stream data arrives damaged', async () => {
    const harness = await new Harness().open();
    harness.socket.deliver(
      naiveEncode({
        messageType: 'output_stream_data',
        seq: 2,
        payloadType: output,
        payload: 'damaged',
        digest: new Uint8Array(32),
      }),
    );
    await settled();
    expect([harness.sockets.length, harness.sockets[0]!.closeCode, harness.delivered]).toEqual([
      2,
      1000,
      [],
    ]);
  });

  it('is a new outage once a successor has delivered data', async () => {
    const harness = await new Harness({ resumeTimeoutMs: 3000 }).open();
    for (let count = 0; count < 30; count += 1) {
      harness.socket.end();
      await settled();
      harness.agent.sendOutput(pattern(10, count), harness.clock.now());
      await harness.clock.pass(500);
    }
    expect([harness.end, harness.deliveredBytes().length]).toEqual([undefined, 300]);
  });
});

describe('signs of life', () => {
  it('are asked for with a ping after 30 s of silence', async () => {
    const harness = await new Harness().open();
    await harness.clock.pass(29_000);
    expect(harness.socket.pings).toBe(0);
    await harness.clock.pass(2000);
    expect([harness.socket.pings, harness.sockets.length]).toEqual([1, 1]);
  });

  it('missing for 75 s mean a lost socket', async () => {
    const harness = await new Harness().open();
    harness.socket.isBlackHole = true;
    await harness.clock.pass(81_000);
    expect([harness.sockets.length, harness.sockets[0]!.isDestroyed]).toEqual([2, true]);
  });

  it('are asked for early when data is unacknowledged, and their lack ends the socket 20 s after the data', async () => {
    const harness = await new Harness().open();
    harness.socket.isBlackHole = true;
    harness.send('anyone?');
    await harness.clock.pass(21_000);
    expect(harness.sockets.length).toBe(2);
    expect(harness.received().toString()).toBe('anyone?');
  });

  it('are asked for at once when the wall clock has run ahead', async () => {
    const harness = await new Harness().open();
    harness.socket.isBlackHole = true;
    harness.clock.sleep(3_600_000);
    await harness.clock.pass(10_000);
    expect([harness.socket.pings, harness.sockets.length]).toEqual([1, 1]);
    await harness.clock.pass(10_000);
    expect(harness.sockets.length).toBe(2);
  });

  it('are asked for by the first byte sent after a sleep', async () => {
    const harness = await new Harness().open();
    harness.clock.sleep(3_600_000);
    harness.send('x');
    expect(harness.socket.pings).toBe(1);
  });

  it('are asked for on demand', async () => {
    const harness = await new Harness().open();
    harness.channel.probe();
    expect(harness.socket.pings).toBe(1);
  });

  it('are all that arrives, answers to pings or not', async () => {
    const harness = await new Harness().open();
    harness.socket.answersPings = false;
    for (let count = 0; count < 20; count += 1) {
      await harness.clock.pass(10_000);
      harness.agent.sendOutput(new Uint8Array(1), harness.clock.now());
    }
    expect(harness.sockets.length).toBe(1);
  });

  it('are not asked for while we do not read', async () => {
    const harness = await new Harness().open();
    harness.channel.pauseReceiving();
    harness.channel.probe();
    expect(harness.socket.pings).toBe(0);
  });

  it('asked for before we stopped reading have their time anew afterwards', async () => {
    const harness = await new Harness().open();
    harness.socket.answersPings = false;
    harness.channel.probe();
    harness.channel.pauseReceiving();
    await harness.clock.pass(9000);
    harness.channel.resumeReceiving();
    await harness.clock.pass(5000);
    expect(harness.sockets.length).toBe(1);
  });

  it('are not missed while we do not read', async () => {
    const harness = await new Harness().open();
    harness.channel.pauseReceiving();
    await harness.clock.pass(600_000);
    expect(harness.sockets.length).toBe(1);
    harness.channel.resumeReceiving();
    await harness.clock.pass(20_000);
    expect(harness.sockets.length).toBe(1);
  });
});

describe('holding back', () => {
  it('sends no faster than the message rate, and goes on by itself', async () => {
    const harness = await new Harness({ messagesPerSecond: 10 }).open();
    await harness.clock.pass(1000);
    const before = harness.socket.streamMessages().length;
    harness.send(pattern(200_000));
    await harness.clock.pass(300);
    expect(harness.socket.streamMessages().length - before).toBeLessThan(6);
    await harness.clock.pass(20_000);
    expect(harness.received().length).toBe(200_000);
  });

  it('keeps a paused channel paused over a new socket', async () => {
    const harness = await new Harness().open();
    harness.channel.pauseReceiving();
    harness.socket.end();
    await settled();
    expect([harness.sockets.length, harness.socket.isPaused]).toEqual([2, true]);
    harness.channel.resumeReceiving();
    expect(harness.socket.isPaused).toBe(false);
  });

  it('leaves the source alone while a megabyte waits in the socket', async () => {
    const harness = await new Harness().open();
    harness.socket.isStuck = true;
    harness.send(pattern(8 * 1024 * 1024));
    await harness.clock.pass(3000);
    expect(harness.socket.bufferedBytes).toBeGreaterThan(900_000);
    expect(harness.socket.bufferedBytes).toBeLessThan(1_400_000);
  });

  it('takes from the source again when the socket has drained', async () => {
    const harness = await new Harness().open();
    harness.socket.isStuck = true;
    harness.send(pattern(3 * 1024 * 1024));
    await harness.clock.pass(1000);
    const before = harness.unsentBytes;
    harness.socket.drain();
    expect(harness.unsentBytes).toBeLessThan(before);
  });

  it('leaves the source alone while four megabytes are unacknowledged', async () => {
    const harness = await new Harness().open();
    harness.onFrame = () => undefined;
    harness.send(pattern(8 * 1024 * 1024));
    await harness.clock.pass(9000);
    expect(harness.unsentBytes).toBeGreaterThanOrEqual(4 * 1024 * 1024);
  });

  it('does not read from a peer that does not take its acknowledgements', async () => {
    const harness = await new Harness().open();
    const { socket } = harness;
    socket.isStuck = true;
    const duplicate = naiveEncode({
      messageType: 'output_stream_data',
      seq: 0,
      payloadType: 5,
      payload: '{}',
    });
    let given = 0;
    for (; given < 100_000 && !socket.isPaused; given += 1) socket.deliver(duplicate);
    expect(socket.isPaused).toBe(true);
    expect(socket.bufferedBytes).toBeLessThan(9 * 1024 * 1024);
    socket.drain();
    expect(socket.isPaused).toBe(false);
  });

  it('gives up on a socket that takes nothing for a minute', async () => {
    const harness = await new Harness().open();
    const { socket } = harness;
    socket.isStuck = true;
    const duplicate = naiveEncode({ messageType: 'output_stream_data', seq: 0, payload: '{}' });
    while (!socket.isPaused) socket.deliver(duplicate);
    await harness.clock.pass(50_000);
    expect(harness.sockets.length).toBe(1);
    await harness.clock.pass(25_000);
    expect(harness.sockets.length).toBe(2);
  });
});

describe('sending', () => {
  it('lasts until everything is acknowledged', async () => {
    const harness = await new Harness().open();
    const held: Uint8Array[] = [];
    harness.onFrame = (frame) => held.push(frame);
    harness.send('on its way');
    await settled();
    expect(harness.channel.isSending).toBe(true);
    harness.onFrame = undefined;
    for (const frame of held) harness.agent.receive(frame, harness.clock.now());
    await settled();
    expect(harness.channel.isSending).toBe(false);
  });

  it('is given up when nothing is acknowledged for as long as an outage may last', async () => {
    const harness = await new Harness({ resumeTimeoutMs: 120_000 }).open();
    harness.onFrame = () => undefined;
    harness.send('lost');
    await harness.clock.pass(119_000);
    expect(harness.channel.isSending).toBe(true);
    await harness.clock.pass(2000);
    expect(harness.channel.isSending).toBe(false);
  });
});

describe('ending', () => {
  it('sends all bytes, has them acknowledged, sends the flag, has it acknowledged, and closes', async () => {
    const harness = await new Harness().open();
    const held: Uint8Array[] = [];
    harness.onFrame = (frame) => held.push(frame);
    harness.send(pattern(20_000));
    harness.channel.terminate();
    await settled();
    expect(harness.socket.streamMessages().some(({ type }) => type === flag)).toBe(false);
    harness.onFrame = undefined;
    for (const frame of held.splice(0)) harness.agent.receive(frame, harness.clock.now());
    await settled();
    expect(harness.received().length).toBe(20_000);
    expect([harness.agent.isTerminated, harness.end, harness.isReleased]).toEqual([
      true,
      { kind: 'terminated' },
      true,
    ]);
    expect(harness.sockets[0]!.streamMessages().at(-1)?.type).toBe(flag);
    expect([harness.sockets[0]!.closeCode, harness.terminateCalls]).toEqual([1000, []]);
  });

  it('takes what the source still has with it', async () => {
    const harness = await new Harness().open();
    harness.send(pattern(100_000));
    harness.channel.terminate();
    await harness.clock.pass(400);
    expect(harness.received().length).toBe(100_000);
  });

  it('sends the flag half a second later although bytes are unacknowledged', async () => {
    const harness = await new Harness().open();
    harness.onFrame = () => undefined;
    harness.send('lost');
    harness.channel.terminate();
    await harness.clock.pass(500);
    expect(harness.socket.streamMessages().at(-1)?.type).toBe(flag);
  });

  it('calls the API when the flag is not acknowledged within half a second', async () => {
    const harness = await new Harness().open();
    harness.onFrame = () => undefined;
    harness.channel.terminate();
    await harness.clock.pass(499);
    expect(harness.terminateCalls).toEqual([]);
    await harness.clock.pass(1);
    expect([harness.terminateCalls, harness.end?.kind]).toEqual([['session-1'], 'terminated']);
  });

  it('calls the API for an agent that acknowledges the flag without knowing it', async () => {
    const harness = await new Harness({ traits: { agentVersion: '2.3.701.0' } }).open();
    harness.channel.terminate();
    await harness.clock.pass(600);
    expect([harness.agent.isTerminated, harness.terminateCalls]).toEqual([true, ['session-1']]);
  });

  it('calls the API when there is no socket, and dials no more', async () => {
    const harness = await new Harness().open();
    harness.resumeAnswers.push('hang');
    harness.socket.end();
    await settled();
    harness.channel.terminate();
    await harness.clock.pass(60_000);
    expect([harness.terminateCalls, harness.sockets.length]).toEqual([['session-1'], 1]);
  });

  it('calls the API when the socket is lost while the flag is on its way', async () => {
    const harness = await new Harness().open();
    harness.onFrame = () => undefined;
    harness.channel.terminate();
    harness.socket.end();
    await settled();
    expect([harness.terminateCalls, harness.resumeCalls]).toEqual([['session-1'], []]);
  });

  it('ends before it is open without a word to the agent', async () => {
    const harness = new Harness({ isSilent: true });
    harness.channel.start();
    await settled();
    harness.channel.terminate();
    await settled();
    expect([harness.end, harness.terminateCalls, harness.sockets[0]!.closeCode]).toEqual([
      { kind: 'terminated' },
      ['session-1'],
      1000,
    ]);
  });

  it.each(Array.from({ length: 16 }, (_, steps) => steps))(
    'leaves no socket behind that is connected just as everything ends, %i steps before or after',
    async (steps) => {
      const harness = new Harness();
      harness.channel.start();
      // Between the moment the socket exists and the moment the channel has it.
      while (harness.sockets.length === 0) await Promise.resolve();
      for (let count = 0; count < steps; count += 1) await Promise.resolve();
      harness.channel.terminate();
      await settled();
      expect([harness.end?.kind, harness.sockets[0]!.isOver]).toEqual(['terminated', true]);
    },
  );

  it('does not dial after it was ended', async () => {
    const harness = new Harness();
    harness.channel.terminate();
    harness.channel.start();
    await settled();
    expect([harness.dials, harness.end?.kind]).toEqual([0, 'terminated']);
  });

  it('happens once', async () => {
    const harness = await new Harness().open();
    harness.onFrame = () => undefined;
    harness.channel.terminate();
    await harness.clock.pass(400);
    harness.channel.terminate();
    await harness.clock.pass(100);
    expect(harness.terminateCalls).toEqual(['session-1']);
    harness.channel.terminate();
    await harness.clock.pass(5000);
    const seqs = harness.sockets[0]!.streamMessages().filter(({ type }) => type === flag);
    expect([new Set(seqs.map(({ seq }) => seq)).size, harness.terminateCalls.length]).toEqual([
      1, 1,
    ]);
  });

  it('reads on even if the channel was paused, because acknowledgements come that way', async () => {
    const harness = await new Harness().open();
    const held: Uint8Array[] = [];
    harness.onFrame = (frame) => held.push(frame);
    harness.channel.pauseReceiving();
    harness.channel.terminate();
    harness.channel.pauseReceiving();
    for (const frame of held) harness.agent.receive(frame, harness.clock.now());
    await settled();
    expect(harness.end).toEqual({ kind: 'terminated' });
  });

  it('waits for bytes that the message rate holds up', async () => {
    const harness = await new Harness({ messagesPerSecond: 10 }).open();
    await harness.clock.pass(1000);
    harness.send(pattern(3000));
    harness.channel.terminate();
    await harness.clock.pass(450);
    expect([harness.received().length, harness.agent.isTerminated]).toEqual([3000, true]);
  });

  it('waits two seconds for the API and then lets go', async () => {
    const harness = await new Harness().open();
    harness.terminateAnswer = 'hang';
    harness.resumeAnswers.push('hang');
    harness.socket.end();
    await settled();
    harness.channel.terminate();
    await harness.clock.pass(1999);
    expect([harness.end?.kind, harness.isReleased]).toEqual(['terminated', false]);
    await harness.clock.pass(1);
    expect(harness.isReleased).toBe(true);
  });

  it('is not disturbed by a refusal of the API', async () => {
    const harness = new Harness();
    harness.terminateAnswer = new BridgeError('access.denied', 'TerminateSession is denied');
    harness.channel.terminate();
    await settled();
    expect([harness.end?.kind, harness.isReleased]).toEqual(['terminated', true]);
  });

  it('is told by the service, with everything delivered before', async () => {
    const harness = await new Harness().open();
    harness.agent.sendOutput(new TextEncoder().encode('last words'), harness.clock.now());
    harness.closeByService('the reason');
    await settled();
    expect([harness.deliveredBytes().toString(), harness.end]).toEqual([
      'last words',
      { kind: 'remote-closed', output: 'the reason', isIncomplete: false },
    ]);
  });

  it('sends the acknowledgements that are queued when the service ends it', async () => {
    const harness = await new Harness().open();
    const { socket } = harness;
    harness.agent.sendOutput(new TextEncoder().encode('x'), harness.clock.now());
    harness.closeByService();
    await settled();
    expect([socket.acknowledged().at(-1), socket.closeCode]).toEqual([2, 1000]);
  });

  it('is incomplete when messages before it are missing', async () => {
    const harness = await new Harness().open();
    harness.socket.deliver(
      naiveEncode({ messageType: 'output_stream_data', seq: 9, payloadType: 1, payload: 'late' }),
    );
    harness.closeByService();
    await settled();
    expect(harness.end).toMatchObject({ kind: 'remote-closed', isIncomplete: true });
  });

  it('is followed by nothing', async () => {
    const harness = await new Harness().open();
    const { socket } = harness;
    harness.closeByService();
    await settled();
    const calls = [harness.delivered.length, socket.frames.length, harness.pulls];
    socket.events.onMessage(
      naiveEncode({ messageType: 'output_stream_data', seq: 2, payloadType: 1, payload: 'late' }),
    );
    socket.events.onEnd({ kind: 'closed', code: 1000, reason: '' });
    socket.events.onDrain();
    harness.send('late');
    harness.channel.probe();
    harness.channel.pauseReceiving();
    harness.channel.resumeReceiving();
    harness.channel.terminate();
    await harness.clock.pass(600_000);
    expect([harness.delivered.length, socket.frames.length, harness.pulls]).toEqual(calls);
    expect([harness.sockets.length, harness.terminateCalls, socket.pings]).toEqual([1, [], 0]);
  });

  it('leaves no timer behind', async () => {
    const harness = await new Harness().open();
    harness.closeByService();
    await settled();
    // The agent's own tick is left.
    expect(harness.clock.pendingTimers).toBe(1);
  });
});

it('passes on flags and publications', async () => {
  const harness = await new Harness().open();
  harness.agent.sendFlag(3, harness.clock.now());
  harness.fromService('pause_publication');
  harness.fromService('start_publication');
  await settled();
  expect([harness.flags, harness.publications]).toEqual([[3], [true, false]]);
});

it('writes neither tokens nor signatures nor URLs nor payloads into the log', async () => {
  const harness = await new Harness().open();
  harness.send('client-payload');
  harness.agent.sendOutput(new TextEncoder().encode('agent-payload'), harness.clock.now());
  harness.dialAnswers.push(networkDown());
  harness.socket.end();
  await harness.clock.pass(5000);
  harness.closeByService();
  await settled();
  const log = harness.log.join('\n');
  expect(log).toContain('session resumed');
  expect(log).not.toMatch(/token-|secret-signature|wss:|q=0|payload/);
});
