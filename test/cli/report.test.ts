import { mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { lastErrorFile, rememberFailure } from '../../src/cli/last-error.ts';
import { errorLine, exitStatuses, exitStatusOf, prefixed } from '../../src/cli/report.ts';
import { BridgeError } from '../../src/errors.ts';
import type { ErrorCode } from '../../src/errors.ts';

const node = 'i-0123456789abcdef0';

describe('the line on stderr', () => {
  test('says who, what and why, and what to do', () => {
    const error = new BridgeError('credentials.expired', 'credentials: they ended at 12:00', {
      hint: 'run aws sso login',
    });
    expect(errorLine(error, node)).toBe(
      `ssm-bridge: ${node}: credentials: they ended at 12:00; run aws sso login`,
    );
  });

  test('does not name the target twice', () => {
    const error = new BridgeError('target.not-connected', `${node} is not connected`);
    expect(errorLine(error, node)).toBe(`ssm-bridge: ${node}: not connected`);
    expect(errorLine(error, `db via ${node}`)).toBe(
      `ssm-bridge: db via ${node}: ${node} is not connected`,
    );
  });

  test('does without a target and a hint', () => {
    expect(errorLine(new BridgeError('local.io', 'disk: full'), undefined)).toBe(
      'ssm-bridge: disk: full',
    );
  });

  test('names an error that is not ours as internal', () => {
    expect(errorLine(new TypeError('x is not a function'), node)).toBe(
      `ssm-bridge: ${node}: internal error: TypeError: x is not a function`,
    );
    expect(errorLine('boom', undefined)).toBe('ssm-bridge: internal error: boom');
  });

  test('is one line that cannot steer a terminal, whatever the node said', () => {
    const line = prefixed(node, 'remote: a\r\nb\x1b[31mred\x1b[0m\u0007\u009b2J\u202Eabc\u2028d\n');
    expect(line).not.toMatch(/[\p{Cc}\p{Cf}\u2028\u2029]/u);
    expect(line).toBe(`ssm-bridge: ${node}: remote: a b [31mred [0m 2J abc d`);
  });

  test('is bounded', () => {
    expect(prefixed(undefined, 'x'.repeat(100_000)).length).toBeLessThan(1100);
  });
});

describe('exit statuses', () => {
  test.each<[ErrorCode, number]>([
    ['internal', 1],
    ['usage.arguments', 2],
    ['credentials.missing', 3],
    ['access.denied', 4],
    ['target.not-connected', 5],
    ['network.tls', 6],
    ['protocol.handshake', 7],
    ['session.lost', 8],
    ['remote.closed', 9],
    ['key.denied', 10],
    ['hostkey.changed', 11],
    ['api.throttled', 12],
    ['local.io', 13],
  ])('%s ends with %i', (code, status) => {
    expect(exitStatusOf(new BridgeError(code, 'x'))).toBe(status);
  });

  test('a foreign error ends with 1', () => {
    expect(exitStatusOf(new Error('x'))).toBe(1);
  });

  test('are different for every class and never 0', () => {
    const statuses = Object.values(exitStatuses);
    expect(new Set(statuses).size).toBe(statuses.length);
    expect(statuses).not.toContain(0);
  });
});

describe('the last failure', () => {
  let directory: string;
  beforeEach(() => {
    directory = mkdtempSync(path.join(tmpdir(), 'last-error-'));
  });
  afterEach(() => {
    rmSync(directory, { recursive: true });
  });

  test('is kept in a file of the owner alone, one line at a time', () => {
    const env = { XDG_STATE_HOME: directory };
    rememberFailure('ssm-bridge: first', env);
    rememberFailure('ssm-bridge: second', env);
    const file = lastErrorFile(env) ?? '';
    expect(readFileSync(file, 'utf8')).toMatch(/^\d{4}-\d\d-\d\dT\S+Z ssm-bridge: second\n$/);
    expect(statSync(file).mode & 0o777).toBe(0o600);
    expect(statSync(path.dirname(file)).mode & 0o777).toBe(0o700);
  });

  test('is in ~/.local/state by default', () => {
    expect(lastErrorFile({ HOME: '/home/x' })).toBe('/home/x/.local/state/ssm-bridge/last-error');
  });

  test('is dropped when there is nowhere to keep it', () => {
    expect(lastErrorFile({})).toBeUndefined();
    expect(() => {
      rememberFailure('x', { XDG_STATE_HOME: '/proc/nowhere' });
    }).not.toThrow();
  });
});
