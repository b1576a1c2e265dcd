import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { connect, createServer, type AddressInfo, type Socket } from 'node:net';
import { afterEach, expect, it } from 'vitest';
import { gatheringWriter } from '../../src/forward/gathering-writer.ts';

const cleanups: (() => unknown)[] = [];
afterEach(() => {
  for (const cleanup of cleanups.splice(0)) cleanup();
});

/** Both ends of a TCP connection; nobody reads at the second one yet. */
async function pair(): Promise<readonly [Socket, Socket]> {
  const server = createServer({ pauseOnConnect: true });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  // It listens on TCP.
  const near = connect((server.address() as AddressInfo).port, '127.0.0.1');
  const [far] = (await once(server, 'connection')) as [Socket];
  cleanups.push(() => {
    near.destroy();
    far.destroy();
    server.close();
  });
  return [near, far];
}

it('keeps order and bytes, whatever the sizes, and reports each byte as taken', async () => {
  const [near, far] = await pair();
  let taken = 0;
  const writer = gatheringWriter(near, (length) => (taken += length));
  const sent: Buffer[] = [];
  for (let round = 0; round < 3000; round += 1) {
    const piece = randomBytes([1, 7, 900, 5000, 20_000, 16_384][round % 6] ?? 1);
    sent.push(piece);
    writer.write(piece);
    if (round % 100 === 0) await new Promise((resolve) => setImmediate(resolve));
  }
  writer.flush();
  near.end();
  const received: Buffer[] = [];
  far.on('data', (chunk: Buffer) => received.push(chunk));
  far.resume();
  await once(far, 'end');
  expect(Buffer.concat(received).equals(Buffer.concat(sent))).toBe(true);
  expect(taken).toBe(Buffer.concat(sent).length);
});

it('makes few writes of single bytes that nobody reads', async () => {
  const [near] = await pair();
  near.cork();
  let writes = 0;
  const write = near.write.bind(near);
  near.write = ((...args: Parameters<typeof write>) => {
    writes += 1;
    return write(...args);
  }) as typeof near.write;
  const writer = gatheringWriter(near, () => undefined);
  writer.write(Buffer.alloc(20_000));
  for (let count = 0; count < 100_000; count += 1) writer.write(Buffer.of(count & 255));
  expect(writes).toBeLessThan(10);
});

it('hands over what it has gathered as soon as the reader has caught up', async () => {
  const [near, far] = await pair();
  const writer = gatheringWriter(near, () => undefined);
  const size = 16 * 1024 * 1024;
  writer.write(Buffer.alloc(size));
  writer.write(Buffer.from('last'));
  let received = 0;
  far.on('data', (chunk: Buffer) => (received += chunk.length));
  far.resume();
  await expect.poll(() => received, { timeout: 10_000 }).toBe(size + 4);
});
