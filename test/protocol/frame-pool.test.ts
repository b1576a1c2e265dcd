import { expect, it } from 'vitest';
import { FramePool } from '../../src/protocol/frame-pool.ts';
import { SessionPeer } from '../support/session-peer.ts';

it('uses the memory of a large frame again, whatever size is wanted next', () => {
  const pool = new FramePool(16_504);
  const first = pool.take(16_504);
  pool.give(first);
  const second = pool.take(5000);
  pool.give(second);
  const third = pool.take(16_504);
  expect([second.length, third.length]).toEqual([5000, 16_504]);
  expect([second.buffer === first.buffer, third.buffer === first.buffer]).toEqual([true, true]);
});

it('never lends the same memory twice', () => {
  const pool = new FramePool(16_504);
  const taken = Array.from({ length: 10 }, () => pool.take(16_504).buffer);
  expect(new Set(taken).size).toBe(10);
});

it('keeps its hands off small frames, which share memory with others', () => {
  const pool = new FramePool(16_504);
  pool.give(pool.take(100));
  expect(pool.take(16_504).byteOffset).toBe(0);
});

it('keeps no more than 64 frames', () => {
  const pool = new FramePool(16_504);
  const frames = Array.from({ length: 100 }, () => pool.take(16_504));
  for (const frame of frames) pool.give(frame);
  const old = new Set(frames.map((frame) => frame.buffer));
  const again = Array.from({ length: 100 }, () => pool.take(16_504));
  expect(again.filter((frame) => old.has(frame.buffer)).length).toBe(64);
});

it('leaves an unacknowledged message as it was when later ones are acknowledged and sent', () => {
  const peer = SessionPeer.open({ maxPayloadBytes: 16_384 });
  const bytes = (value: number): Uint8Array => new Uint8Array(peer.capacity()).fill(value);
  for (let value = 1; value <= 8; value += 1) peer.send(bytes(value));
  const [sent] = peer.take().messages.slice(-1);
  for (let seq = 1; seq <= 7; seq += 1) peer.acknowledge(seq);
  for (let value = 11; value <= 17; value += 1) peer.send(bytes(value));
  peer.take();
  peer.wakeNext();
  const resent = peer.take().messages.find((message) => message.seq === sent!.seq);
  expect(Buffer.from(resent!.payload).equals(Buffer.from(sent!.payload))).toBe(true);
});
