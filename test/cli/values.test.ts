import { describe, expect, test } from 'vitest';
import {
  isHostName,
  isNodeId,
  isUserName,
  parseDuration,
  parsePort,
  parseSize,
} from '../../src/cli/values.ts';

describe('parseDuration', () => {
  test.each([
    ['500ms', 500],
    ['30s', 30_000],
    ['30', 30_000],
    ['1.5s', 1500],
    ['5m', 300_000],
    ['2h', 7_200_000],
    ['1d', 86_400_000],
    ['0', 0],
  ])('%s is %i ms', (text, ms) => {
    expect(parseDuration(text)).toBe(ms);
  });

  test.each(['', 's', '-1s', '1 s', '5min', '1e3', '0x10', '1.2345s', 'Infinity', '12345678901'])(
    '%j is no duration',
    (text) => {
      expect(parseDuration(text)).toBeUndefined();
    },
  );
});

describe('parseSize', () => {
  test.each([
    ['1024', 1024],
    ['16k', 16_384],
    ['16K', 16_384],
    ['16KiB', 16_384],
    ['16kb', 16_384],
    ['1m', 1_048_576],
    ['7b', 7],
  ])('%s is %i bytes', (text, bytes) => {
    expect(parseSize(text)).toBe(bytes);
  });

  test.each(['', 'k', '-1', '1.5k', '16 k', '16kk', '1g'])('%j is no size', (text) => {
    expect(parseSize(text)).toBeUndefined();
  });
});

test.each([
  ['1', 1],
  ['22', 22],
  ['65535', 65_535],
])('port %s is accepted', (text, port) => {
  expect(parsePort(text)).toBe(port);
});

test.each(['0', '65536', '-1', '22x', ' 22', '', '0x16', '2.2'])('port %j is refused', (text) => {
  expect(parsePort(text)).toBeUndefined();
});

test.each(['i-0123456789abcdef0', 'i-12345678', 'mi-0123456789abcdef0'])(
  '%s is a node id',
  (text) => {
    expect(isNodeId(text)).toBe(true);
  },
);

test.each([
  'i-1234567',
  'i-0123456789abcdef01',
  'I-0123456789abcdef0',
  'i-0123456789abcdeg0',
  'mi-12345678',
  'web',
  'i-0123456789abcdef0\n',
  ' i-0123456789abcdef0',
  '',
])('%j is no node id', (text) => {
  expect(isNodeId(text)).toBe(false);
});

test.each(['db', 'db.internal', '10.0.1.20', '::1', 'fe80::1', '_x.y', 'a-b'])(
  '%s is a host name',
  (text) => {
    expect(isHostName(text)).toBe(true);
  },
);

test.each(['', '-oProxyCommand=x', 'a b', 'a;b', '$(x)', 'a\nb', 'a'.repeat(254)])(
  '%j is no host name',
  (text) => {
    expect(isHostName(text)).toBe(false);
  },
);

test.each(['ec2-user', 'pi', '_svc', 'bob@corp', 'a.b', 'machine$'])(
  '%s is a login name',
  (text) => {
    expect(isUserName(text)).toBe(true);
  },
);

test.each(['', '-rf', 'a b', 'a;b', '1abc', 'a'.repeat(65), '%r'])(
  '%j is no login name',
  (text) => {
    expect(isUserName(text)).toBe(false);
  },
);
