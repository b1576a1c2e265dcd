import { describe, expect, it } from 'vitest';
import { BridgeError } from '../../src/errors.ts';
import { checkStreamUrl, loggableStreamUrl } from '../../src/aws/stream-url.ts';

const refusal = (url: string, hasCustomEndpoint: boolean): string | undefined => {
  try {
    checkStreamUrl(url, hasCustomEndpoint);
    return undefined;
  } catch (error) {
    if (error instanceof BridgeError && error.code === 'protocol.malformed') return error.message;
    throw error;
  }
};

describe('checkStreamUrl', () => {
  it.each([
    'wss://ssmmessages.eu-central-1.amazonaws.com/v1/data-channel/x?role=publish_subscribe',
    'wss://ssmmessages.cn-north-1.amazonaws.com.cn/v1/data-channel/x',
    'wss://ssmmessages.eu-central-1.api.aws/v1/data-channel/x',
    'wss://ssmmessages-fips.us-east-1.amazonaws.com/v1/data-channel/x',
    'wss://vpce-1-2.ssmmessages.us-east-1.vpce.amazonaws.com/v1/data-channel/x',
    'wss://SSMMESSAGES.EU-CENTRAL-1.AMAZONAWS.COM/v1/data-channel/x',
  ])('takes AWS: %s', (url) => {
    expect(refusal(url, false)).toBeUndefined();
  });

  it.each([
    'wss://gateway.example/v1/data-channel/x',
    'wss://amazonaws.com.evil.example/x',
    'wss://evilamazonaws.com/x',
    'wss://localhost/x',
    'ws://localhost/x',
  ])('refuses what is not AWS unless an endpoint is configured: %s', (url) => {
    expect(refusal(url, false)).toMatch(/which is not AWS/);
    expect(refusal(url, true)).toBeUndefined();
  });

  it.each(['ws://127.0.0.1:8080/x', 'ws://127.9.9.9/x', 'ws://[::1]:1/x', 'ws://a.localhost/x'])(
    'takes a loopback host in the clear: %s',
    (url) => {
      expect(refusal(url, true)).toBeUndefined();
    },
  );

  it.each([
    'ws://gateway.example/x',
    'ws://127.0.0.1.evil.example/x',
    'ws://ssmmessages.eu-central-1.amazonaws.com/x',
    'https://localhost/x',
    'wss://user:secret@localhost/x',
    'wss://localhost/x#part',
    'not a url',
    '',
  ])('refuses whatever is configured: %s', (url) => {
    expect(refusal(url, true)).toBeDefined();
    expect(refusal(url, true)).not.toContain('secret');
  });
});

describe('loggableStreamUrl', () => {
  it('leaves out query and user', () => {
    expect(loggableStreamUrl('wss://u:p@localhost:8/v1/x?token=secret#y')).toBe(
      'wss://localhost:8/v1/x',
    );
  });

  it('does not repeat what is not a URL', () => {
    expect(loggableStreamUrl('secret')).toBe('(not a URL)');
  });
});
