import { expect, it } from 'vitest';
import { oneLine, systemReason } from '../src/errors.ts';

it('makes one line of text from outside, with nothing in it that steers a terminal', () => {
  const hostile = '  a\r\nb\u001b[31mc\u202Ed\u2028e\u0000\t f \n';
  expect(oneLine(hostile)).toBe('a b [31mc d e f');
});

it('cuts what is too long, and says so', () => {
  expect(oneLine('x'.repeat(400))).toBe('x'.repeat(400));
  expect(oneLine('x'.repeat(401))).toBe(`${'x'.repeat(400)}…`);
  expect(oneLine('one line', 3)).toBe('one…');
});

it('says why a system call failed, with its code', () => {
  const error = Object.assign(new Error("ENOENT: no such file or directory, open '/no'"), {
    code: 'ENOENT',
  });
  expect(systemReason(error)).toBe('no such file or directory (ENOENT)');
  expect(systemReason(Object.assign(new Error('text'), { code: 'EIO' }))).toBe('EIO');
  expect([systemReason(new Error('text')), systemReason('EIO')]).toEqual([
    'it failed',
    'it failed',
  ]);
});
