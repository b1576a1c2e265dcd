import { createHash, createHmac } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { isPresigned, signUpgrade } from '../../src/aws/sign-upgrade.ts';

const keys = {
  accessKeyId: 'AKIDEXAMPLE',
  secretAccessKey: 'wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY',
};
const at = new Date('2026-01-02T03:04:05.678Z');
const emptyHash = 'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855';

const sha256 = (text: string): string => createHash('sha256').update(text).digest('hex');
const hmac = (key: string | Buffer, text: string): Buffer =>
  createHmac('sha256', key).update(text).digest();

/** SigV4 worked by hand from a canonical request written out in the test. */
function signatureOf(canonicalRequest: string, region: string): string {
  const scope = `20260102/${region}/ssmmessages/aws4_request`;
  const toSign = `AWS4-HMAC-SHA256\n20260102T030405Z\n${scope}\n${sha256(canonicalRequest)}`;
  const key = [region, 'ssmmessages', 'aws4_request'].reduce<Buffer>(
    (previous, part) => hmac(previous, part),
    hmac(`AWS4${keys.secretAccessKey}`, '20260102'),
  );
  return hmac(key, toSign).toString('hex');
}

const cell =
  'wss://ssmmessages.eu-central-1.amazonaws.com/v1/data-channel/user-0a1b?role=publish_subscribe&cell-number=AAEAAS+b/c3/d==';

describe('signUpgrade', () => {
  it('signs host and date of a GET with an empty body for ssmmessages', async () => {
    const headers = await signUpgrade(cell, 'eu-central-1', keys, at);
    const canonical = [
      'GET',
      '/v1/data-channel/user-0a1b',
      'cell-number=AAEAAS%20b%2Fc3%2Fd%3D%3D&role=publish_subscribe',
      'host:ssmmessages.eu-central-1.amazonaws.com',
      'x-amz-date:20260102T030405Z',
      '',
      'host;x-amz-date',
      emptyHash,
    ].join('\n');
    expect(headers).toEqual({
      'x-amz-date': '20260102T030405Z',
      authorization:
        'AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20260102/eu-central-1/ssmmessages/aws4_request, ' +
        `SignedHeaders=host;x-amz-date, Signature=${signatureOf(canonical, 'eu-central-1')}`,
    });
  });

  it('signs the session token and a port, and escapes the path once more', async () => {
    const url = 'wss://localhost:8443/v1/data-channel/a%20b?z&role=x&a=2&a=1';
    const headers = await signUpgrade(url, 'us-east-1', { ...keys, sessionToken: 'tok/en==' }, at);
    const canonical = [
      'GET',
      '/v1/data-channel/a%2520b',
      'a=1&a=2&role=x&z=',
      'host:localhost:8443',
      'x-amz-date:20260102T030405Z',
      'x-amz-security-token:tok/en==',
      '',
      'host;x-amz-date;x-amz-security-token',
      emptyHash,
    ].join('\n');
    expect(Object.keys(headers).sort()).toEqual([
      'authorization',
      'x-amz-date',
      'x-amz-security-token',
    ]);
    expect(headers['authorization']).toContain(
      `SignedHeaders=host;x-amz-date;x-amz-security-token, Signature=${signatureOf(canonical, 'us-east-1')}`,
    );
  });

  it('leaves out query pairs that Go does not parse', async () => {
    const url = 'wss://localhost/x?ok=1&bad=%zz&semi=a;b&&%zz=1';
    const headers = await signUpgrade(url, 'us-east-1', keys, at);
    const canonical = [
      'GET',
      '/x',
      'ok=1',
      'host:localhost',
      'x-amz-date:20260102T030405Z',
      '',
      'host;x-amz-date',
      emptyHash,
    ].join('\n');
    expect(headers['authorization']).toContain(`Signature=${signatureOf(canonical, 'us-east-1')}`);
  });
});

describe('isPresigned', () => {
  it.each([
    'X-Amz-Algorithm',
    'X-Amz-Credential',
    'X-Amz-Date',
    'X-Amz-Expires',
    'X-Amz-SignedHeaders',
    'X-Amz-Signature',
    'X-Amz-Security-Token',
  ])('knows a presigned URL by %s', (key) => {
    expect(isPresigned(`wss://localhost/x?role=y&${key}=1`)).toBe(true);
  });

  it('takes an ordinary stream URL for unsigned', () => {
    expect(isPresigned(cell)).toBe(false);
    expect(isPresigned('wss://localhost/x?x-amz-date=1')).toBe(false);
    expect(isPresigned('wss://localhost/x?a=X-Amz-Date')).toBe(false);
  });
});
