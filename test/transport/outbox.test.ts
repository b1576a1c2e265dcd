import { expect, it } from 'vitest';
import { Outbox } from '../../src/transport/outbox.ts';
import { turn } from '../support/manual-clock.ts';

function make(): { outbox: Outbox; batches: string[][] } {
  const batches: string[][] = [];
  const outbox = new Outbox((messages) => {
    batches.push(messages.map((message) => Buffer.from(message).toString()));
  });
  return { outbox, batches };
}

const message = (text: string): Uint8Array => new TextEncoder().encode(text);

it('writes the messages of one turn together and in order', async () => {
  const { outbox, batches } = make();
  outbox.add(message('a'));
  outbox.add(message('b'));
  expect(batches).toEqual([]);
  await turn();
  expect(batches).toEqual([['a', 'b']]);
});

it('writes a later turn by itself', async () => {
  const { outbox, batches } = make();
  outbox.add(message('a'));
  await turn();
  outbox.add(message('b'));
  await turn();
  expect(batches).toEqual([['a'], ['b']]);
});

it('does not wait for the turn to end with 64 KiB', () => {
  const { outbox, batches } = make();
  for (let count = 0; count < 65; count += 1) outbox.add(new Uint8Array(1024));
  expect([batches.map((batch) => batch.length), outbox.bytes]).toEqual([[64], 1024]);
});

it('writes a message of more than that at once, after what was there before', () => {
  const { outbox, batches } = make();
  outbox.add(message('a'));
  outbox.add(new Uint8Array(65_537));
  expect(batches.map((batch) => batch.map((text) => text.length))).toEqual([[1], [65_537]]);
});

it('keeps a copy, because what it is given is lent', async () => {
  const { outbox, batches } = make();
  const lent = message('a');
  outbox.add(lent);
  lent.fill(0x62);
  outbox.add(lent);
  await turn();
  expect(batches).toEqual([['a', 'b']]);
});

it('counts what is gathered', () => {
  const { outbox } = make();
  outbox.add(message('abc'));
  outbox.add(message('de'));
  expect(outbox.bytes).toBe(5);
});

it('writes on demand, once', async () => {
  const { outbox, batches } = make();
  outbox.add(message('a'));
  outbox.flush();
  await turn();
  expect([batches, outbox.bytes]).toEqual([[['a']], 0]);
});

it('writes nothing when nothing is gathered', () => {
  const { outbox, batches } = make();
  outbox.flush();
  expect(batches).toEqual([]);
});

it('takes messages that are added while it writes', async () => {
  const seen: number[] = [];
  const outbox: Outbox = new Outbox((messages) => {
    seen.push(messages.length);
    if (seen.length === 1) outbox.add(message('again'));
  });
  outbox.add(message('a'));
  await turn();
  await turn();
  expect(seen).toEqual([1, 1]);
});

it('forgets what is discarded, and goes on', async () => {
  const { outbox, batches } = make();
  outbox.add(message('lost'));
  outbox.discard();
  outbox.add(message('kept'));
  await turn();
  expect(batches).toEqual([['kept']]);
});

it('writes nothing more once it is closed', async () => {
  const { outbox, batches } = make();
  outbox.add(message('a'));
  outbox.close();
  await turn();
  expect(batches).toEqual([]);
});
