import { describe, expect, it } from 'vitest';
import { classifyUpgradeFailure } from '../../src/aws/classify-upgrade.ts';

const host = 'ssmmessages.eu-central-1.amazonaws.com';
const html = { 'content-type': 'text/html; charset=utf-8' };

describe('classifyUpgradeFailure', () => {
  it.each([401, 403])('takes %d for a denial by IAM and names the action', (statusCode) => {
    const error = classifyUpgradeFailure({ statusCode, host });
    expect(error.code).toBe('access.websocket');
    expect(error.message).toContain(host);
    expect(error.hint).toContain('ssmmessages:OpenDataChannel');
  });

  it('takes a 403 that AWS answered through a proxy for a denial by IAM', () => {
    const headers = { via: '1.1 proxy', 'x-amzn-requestid': 'r' };
    expect(classifyUpgradeFailure({ statusCode: 403, headers, host }).code).toBe(
      'access.websocket',
    );
  });

  it.each([
    ['a web page', html],
    ['squid', { 'x-squid-error': 'ERR_ACCESS_DENIED 0' }],
    ['a proxy on the way', { via: '1.1 proxy' }],
  ])('takes a 403 from %s for a firewall', (_what, headers) => {
    const error = classifyUpgradeFailure({ statusCode: 403, headers, host });
    expect(error.code).toBe('network.refused');
    expect(error.hint).toContain('proxy or firewall');
  });

  it('names proxy authentication', () => {
    const error = classifyUpgradeFailure({ statusCode: 407, headers: html, host });
    expect(error.code).toBe('network.refused');
    expect(error.message).toContain('a proxy wants authentication');
  });

  it.each([200, 302, 404, 426, 500, 503])('takes %d for a refusal by the network', (statusCode) => {
    expect(classifyUpgradeFailure({ statusCode, host }).code).toBe('network.refused');
  });
});
