import { expect, test } from 'vitest';
import { canonicalRequest, sign, verifySignature, type SignedRequest } from './sigv4.ts';

/** From the Signature Version 4 test suite that AWS publishes. */
const SECRET = 'wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY';
const SCOPE = '20150830/us-east-1/service/aws4_request';
const AMZ_DATE = '20150830T123600Z';

function get(target: string): SignedRequest {
  const headers = { host: 'example.amazonaws.com', 'x-amz-date': AMZ_DATE };
  return { method: 'GET', target, headers, body: Buffer.alloc(0) };
}

const SIGNED = ['host', 'x-amz-date'];

test.each([
  ['get-vanilla', '/', '5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31'],
  [
    'get-vanilla-query-order-key-case',
    '/?Param2=value2&Param1=value1',
    'b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500',
  ],
])('test suite case %s', (_name, target, expected) => {
  expect(sign(SECRET, SCOPE, AMZ_DATE, canonicalRequest(get(target), SIGNED))).toBe(expected);
});

test('the query is read as Go reads it and escaped anew', () => {
  const [, path, query] = canonicalRequest(
    get('/v1/data-channel/a%20b?role=publish_subscribe&cell-number=AA+/a='),
    SIGNED,
  ).split('\n');
  expect(path).toBe('/v1/data-channel/a%2520b');
  expect(query).toBe('cell-number=AA%20%2Fa%3D&role=publish_subscribe');
});

const credentials = [{ accessKeyId: 'AKIDEXAMPLE', secretAccessKey: SECRET }];
const rules = {
  service: 'service',
  region: 'us-east-1',
  nowMs: Date.UTC(2015, 7, 30, 12, 36),
  maxSkewMs: 300_000,
  credentials,
};

function signedGet(change: Partial<Record<string, string>> = {}): SignedRequest {
  const request = get('/');
  const signature = '5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31';
  const authorization = `AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/${SCOPE}, SignedHeaders=host;x-amz-date, Signature=${signature}`;
  return { ...request, headers: { ...request.headers, authorization, ...change } };
}

test('a good signature is accepted', () => {
  expect(verifySignature(signedGet(), rules).ok).toBe(true);
});

test.each([
  ['no header', { authorization: undefined }, {}, 'MissingAuthenticationTokenException'],
  ['a malformed header', { authorization: 'Basic eA==' }, {}, 'IncompleteSignatureException'],
  ['another host', { host: 'example.com' }, {}, 'InvalidSignatureException'],
  ['an old date', {}, { nowMs: rules.nowMs + 301_000 }, 'InvalidSignatureException'],
  ['a date ahead', {}, { nowMs: rules.nowMs - 301_000 }, 'InvalidSignatureException'],
  ['another region', {}, { region: 'us-west-2' }, 'InvalidSignatureException'],
  ['another service', {}, { service: 'ssm' }, 'InvalidSignatureException'],
  ['an unknown key', {}, { credentials: [] }, 'UnrecognizedClientException'],
  ['an unsigned token', { 'x-amz-security-token': 't' }, {}, 'UnrecognizedClientException'],
  ['a header not allowed', {}, { onlyHeaders: ['host'] }, 'InvalidSignatureException'],
  [
    'a secret that is another one',
    {},
    { credentials: [{ accessKeyId: 'AKIDEXAMPLE', secretAccessKey: 'x' }] },
    'InvalidSignatureException',
  ],
  [
    'expired credentials',
    {},
    { credentials: [{ ...credentials[0]!, state: 'expired' as const }] },
    'ExpiredTokenException',
  ],
])('%s is refused', (_what, change, otherRules, error) => {
  const check = verifySignature(signedGet(change), { ...rules, ...otherRules });
  expect(check.ok ? 'accepted' : check.error).toBe(error);
});
