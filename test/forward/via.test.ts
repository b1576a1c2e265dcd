import { once } from 'node:events';
import { PassThrough, type Duplex, duplexPair } from 'node:stream';
import { describe, expect, it } from 'vitest';
import { createViaEndpoint, viaSession, type Channel } from '../../src/forward/via.ts';
import type { Clock } from '../../src/transport/clock.ts';
import type { ChannelConsumer, PayloadSource } from '../../src/transport/channel.ts';
import { memoryChannel, type MemoryChannel, type MemoryChannelOptions } from './memory-channel.ts';
import { matching } from '../support/matching.ts';

/** Standard input as the relay gives it: bytes handed out in pieces. */
class Input implements PayloadSource {
  #bytes: Buffer = Buffer.alloc(0);
  add(bytes: Uint8Array | string): void {
    this.#bytes = Buffer.concat([this.#bytes, Buffer.from(bytes)]);
  }
  pull(maxBytes: number): Uint8Array | undefined {
    if (this.#bytes.length === 0) return undefined;
    const piece = this.#bytes.subarray(0, maxBytes);
    this.#bytes = this.#bytes.subarray(maxBytes);
    return piece;
  }
}

class TestClock implements Clock {
  time = 0;
  readonly timers = new Set<{ at: number; callback: () => void }>();
  now(): number {
    return this.time;
  }
  wallNow(): number {
    return this.time;
  }
  setTimer(callback: () => void, delayMs: number): () => void {
    const timer = { at: this.time + delayMs, callback };
    this.timers.add(timer);
    return () => this.timers.delete(timer);
  }
  advance(ms: number): void {
    this.time += ms;
    for (const timer of [...this.timers]) {
      if (timer.at > this.time) continue;
      this.timers.delete(timer);
      timer.callback();
    }
  }
}

interface Bench {
  readonly endpoint: Channel;
  readonly channel: () => MemoryChannel;
  readonly input: Input;
  readonly clock: TestClock;
  readonly received: () => string;
  readonly opened: Promise<unknown>;
}

function bench(options: Partial<MemoryChannelOptions> & { destination?: Duplex }): Bench {
  const input = new Input();
  const clock = new TestClock();
  const chunks: Uint8Array[] = [];
  let made: MemoryChannel | undefined;
  let resolveOpened: (value: unknown) => void = () => undefined;
  const opened = new Promise((resolve) => {
    resolveOpened = resolve;
  });
  const consumer: ChannelConsumer = {
    opened: resolveOpened,
    deliver: (payload) => chunks.push(payload),
    flag: () => undefined,
    publication: () => undefined,
    notice: () => undefined,
  };
  const endpoint = createViaEndpoint({
    source: input,
    consumer,
    destination: 'db.internal:22',
    node: 'i-0123456789abcdef0',
    clock,
    openChannel: (source, muxed) => {
      made = memoryChannel(source, muxed, {
        dial: () => Promise.resolve(options.destination ?? new PassThrough()),
        ...options,
      });
      return made;
    },
  });
  endpoint.start();
  return {
    endpoint,
    input,
    clock,
    opened,
    channel: () => made!,
    received: () => Buffer.concat(chunks).toString(),
  };
}

describe('the session asked for', () => {
  it('is the remote-host document, every parameter a list of one string', () => {
    expect(viaSession('db.internal', 22)).toEqual({
      documentName: 'AWS-StartPortForwardingSessionToRemoteHost',
      parameters: { host: ['db.internal'], portNumber: ['22'], localPortNumber: ['0'] },
    });
  });
});

describe.each([16_384, 1024, 5])(
  'one stream in payloads of at most %i bytes',
  (maxPayloadBytes) => {
    it('carries bytes both ways', async () => {
      const [near, far] = duplexPair();
      const { endpoint, input, received, channel } = bench({ destination: near, maxPayloadBytes });
      const text = 'x'.repeat(40_000);
      input.add(text);
      endpoint.sourceReady();
      let heard = 0;
      await new Promise<void>((resolve) => {
        far.on('data', (chunk: Buffer) => {
          heard += chunk.length;
          if (heard === text.length) resolve();
        });
      });
      far.write('answer');
      await expect.poll(received).toBe('answer');
      expect(channel().violations).toEqual([]);
    });
  },
);

it('is sending while its channel is', () => {
  expect(bench({}).endpoint.isSending).toBe(true);
});

describe('the end', () => {
  it('of the destination ends the connection, after its last bytes', async () => {
    const [near, far] = duplexPair();
    const { endpoint, received } = bench({ destination: near });
    far.end('last words');
    expect(await endpoint.ended).toEqual({
      kind: 'remote-closed',
      output: '',
      isIncomplete: false,
    });
    expect(received()).toBe('last words');
  });

  it('is remote.unreachable when the node could not connect', async () => {
    const { endpoint } = bench({ dial: () => Promise.reject(new Error('refused')) });
    expect(await endpoint.ended).toMatchObject({
      kind: 'failed',
      error: {
        code: 'remote.unreachable',
        message: matching(/could not connect to db\.internal:22/),
      },
    });
  });

  it('is remote.unreachable when an ssh client hears nothing for ten seconds', async () => {
    const { endpoint, input, clock, opened } = bench({ dial: () => new Promise(() => undefined) });
    await opened;
    input.add('SSH-2.0-OpenSSH_9.2\r\n');
    endpoint.sourceReady();
    await expect.poll(() => clock.timers.size).toBe(1);
    clock.advance(10_000);
    expect(await endpoint.ended).toMatchObject({
      kind: 'failed',
      error: {
        code: 'remote.unreachable',
        message: matching(/did not answer .* within 10 s/),
      },
    });
  });

  it('does not come from silence when something else than ssh is spoken', async () => {
    const { endpoint, input, clock, opened } = bench({ dial: () => new Promise(() => undefined) });
    await opened;
    input.add('GET / HTTP/1.0\r\n');
    endpoint.sourceReady();
    await new Promise(setImmediate);
    expect(clock.timers.size).toBe(0);
  });

  it('does not come from silence once the destination has answered', async () => {
    const [near, far] = duplexPair();
    const { endpoint, input, clock, received } = bench({ destination: near });
    input.add('SSH-2.0-OpenSSH_9.2\r\n');
    endpoint.sourceReady();
    far.write('SSH-2.0-x\r\n');
    await expect.poll(received).toBe('SSH-2.0-x\r\n');
    await expect.poll(() => clock.timers.size).toBe(0);
  });

  it('names the resolver when the host is unknown there', async () => {
    const { endpoint, channel } = bench({});
    channel().end({
      kind: 'remote-closed',
      output: '----------ERROR-------\nlookup db.internal: no such host',
      isIncomplete: false,
    });
    expect(await endpoint.ended).toMatchObject({
      kind: 'failed',
      error: {
        code: 'remote.unreachable',
        message: matching(/lookup db\.internal: no such host$/),
      },
    });
  });

  it('keeps another reason of the service as it is', async () => {
    const { endpoint, channel } = bench({});
    const end = { kind: 'remote-closed', output: 'timed out', isIncomplete: false } as const;
    channel().end(end);
    expect(await endpoint.ended).toEqual(end);
  });

  it('leaves no timer behind', async () => {
    const { endpoint, input, clock, opened } = bench({ dial: () => new Promise(() => undefined) });
    await opened;
    input.add('SSH-2.0-OpenSSH_9.2\r\n');
    endpoint.sourceReady();
    await expect.poll(() => clock.timers.size).toBe(1);
    endpoint.terminate();
    await endpoint.released;
    expect(clock.timers.size).toBe(0);
  });
});

describe('older agents', () => {
  it('that do not multiplex get the bare bytes', async () => {
    const { endpoint, input, opened, channel } = bench({ info: { mode: 'basic' } });
    await opened;
    input.add('SSH-2.0-x\r\n');
    endpoint.sourceReady();
    expect(channel().payloadSizes).toEqual([11]);
  });

  it('that need keep-alive frames get one every ten seconds', async () => {
    const [near, far] = duplexPair();
    far.resume();
    const { clock, opened, channel } = bench({ destination: near, info: { smuxKeepAlive: true } });
    await opened;
    await expect.poll(() => channel().payloadSizes).toEqual([8]);
    clock.advance(9_999);
    expect(channel().payloadSizes).toEqual([8]);
    clock.advance(1);
    clock.advance(10_000);
    expect(channel().payloadSizes).toEqual([8, 8, 8]);
    await once(far.end(), 'finish');
  });
});
