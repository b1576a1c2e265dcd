import * as crypto from 'node:crypto';
import type { Credentials } from './types.ts';

/** Signature Version 4, checked from its public description without any AWS code. */

export interface SignedRequest {
  readonly method: string;
  /** Request target as it came: path and query, unchanged. */
  readonly target: string;
  readonly headers: Readonly<Record<string, string | readonly string[] | undefined>>;
  readonly body: Uint8Array;
}

export interface SignatureRules {
  readonly service: string;
  readonly region: string;
  readonly nowMs: number;
  readonly maxSkewMs: number;
  readonly credentials: readonly Credentials[];
  /** Header names allowed in SignedHeaders; any when undefined. */
  readonly onlyHeaders?: readonly string[];
}

export type SignatureCheck =
  | { readonly ok: true; readonly credentials: Credentials }
  | {
      readonly ok: false;
      readonly error:
        | 'MissingAuthenticationTokenException'
        | 'IncompleteSignatureException'
        | 'InvalidSignatureException'
        | 'UnrecognizedClientException'
        | 'ExpiredTokenException';
      readonly message: string;
      readonly credentials?: Credentials;
    };

export const EMPTY_HASH = 'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855';

const AUTHORIZATION =
  /^AWS4-HMAC-SHA256 Credential=([^,\s]+),\s*SignedHeaders=([^,\s]+),\s*Signature=([0-9a-f]{64})$/;

export function verifySignature(request: SignedRequest, rules: SignatureRules): SignatureCheck {
  const authorization = header(request, 'authorization');
  if (authorization === undefined) {
    return fail('MissingAuthenticationTokenException', 'Missing Authentication Token');
  }
  const match = AUTHORIZATION.exec(authorization);
  if (match === null) {
    return fail('IncompleteSignatureException', 'The Authorization header is malformed');
  }
  const [, credential = '', signedList = '', signature = ''] = match;
  const [accessKeyId = '', date = '', region, service, terminator, ...rest] = credential.split('/');
  if (terminator !== 'aws4_request' || rest.length > 0) {
    return fail('IncompleteSignatureException', 'Credential must have five parts');
  }
  if (region !== rules.region || service !== rules.service) {
    return fail(
      'InvalidSignatureException',
      `Credential should be scoped to ${rules.region}/${rules.service}, not ${String(region)}/${String(service)}`,
    );
  }
  const amzDate = header(request, 'x-amz-date') ?? '';
  const at = parseAmzDate(amzDate);
  if (at === undefined || !amzDate.startsWith(date)) {
    return fail('IncompleteSignatureException', 'X-Amz-Date is missing or not of the scope date');
  }
  if (Math.abs(at - rules.nowMs) > rules.maxSkewMs) {
    return fail(
      'InvalidSignatureException',
      `Signature ${at < rules.nowMs ? 'expired' : 'not yet current'}: ${amzDate}`,
    );
  }
  const credentials = rules.credentials.find((known) => known.accessKeyId === accessKeyId);
  if (credentials === undefined) {
    return fail(
      'UnrecognizedClientException',
      'The security token included in the request is invalid.',
    );
  }
  const signed = signedList.split(';');
  const problem = headerProblem(request, signed, credentials, rules);
  if (problem !== undefined) return fail('InvalidSignatureException', problem);
  if (header(request, 'x-amz-security-token') !== credentials.sessionToken) {
    return fail(
      'UnrecognizedClientException',
      'The security token included in the request is invalid.',
    );
  }
  const scope = `${date}/${rules.region}/${rules.service}/aws4_request`;
  const expected = sign(
    credentials.secretAccessKey,
    scope,
    amzDate,
    canonicalRequest(request, signed),
  );
  if (!crypto.timingSafeEqual(Buffer.from(expected, 'hex'), Buffer.from(signature, 'hex'))) {
    return fail(
      'InvalidSignatureException',
      'The request signature we calculated does not match the signature you provided.',
    );
  }
  if (credentials.state === 'expired') {
    return {
      ...fail('ExpiredTokenException', 'The security token included in the request is expired'),
      credentials,
    };
  }
  return { ok: true, credentials };
}

/** Hex signature over a canonical request; scope is `date/region/service/aws4_request`. */
export function sign(secret: string, scope: string, amzDate: string, canonical: string): string {
  const toSign = `AWS4-HMAC-SHA256\n${amzDate}\n${scope}\n${hashHex(canonical)}`;
  let key: Buffer = Buffer.from(`AWS4${secret}`);
  for (const part of scope.split('/')) key = hmac(key, part);
  return hmac(key, toSign).toString('hex');
}

export function canonicalRequest(request: SignedRequest, signed: readonly string[]): string {
  const [path, query] = splitTarget(request.target);
  const lines = signed.map((name) => `${name}:${canonicalValue(request, name)}\n`);
  const bodyHash = request.body.length === 0 ? EMPTY_HASH : hashHex(request.body);
  return [
    request.method,
    encodePath(path),
    canonicalQuery(query),
    lines.join(''),
    signed.join(';'),
    bodyHash,
  ].join('\n');
}

function headerProblem(
  request: SignedRequest,
  signed: readonly string[],
  credentials: Credentials,
  rules: SignatureRules,
): string | undefined {
  const sorted = [...signed].sort();
  if (sorted.join(';') !== signed.join(';')) return 'SignedHeaders are not sorted';
  for (const name of ['host', 'x-amz-date']) {
    if (!signed.includes(name)) return `${name} is not signed`;
  }
  if (credentials.sessionToken !== undefined && !signed.includes('x-amz-security-token')) {
    return 'x-amz-security-token is not signed';
  }
  const unexpected = signed.find((name) => rules.onlyHeaders?.includes(name) === false);
  if (unexpected !== undefined) return `${unexpected} must not be signed`;
  const absent = signed.find((name) => header(request, name) === undefined);
  return absent === undefined ? undefined : `signed header ${absent} is absent`;
}

/**
 * The query the way Go reads it: split at `&` and the first `=`, `+` is a space; then keys sorted
 * and everything percent-encoded anew, `/` and `=` included.
 */
function canonicalQuery(query: string): string {
  if (query === '') return '';
  return query
    .split('&')
    .map((pair) => {
      const at = pair.indexOf('=');
      const [name, value] = at < 0 ? [pair, ''] : [pair.slice(0, at), pair.slice(at + 1)];
      return [percentEncode(queryUnescape(name)), percentEncode(queryUnescape(value))] as const;
    })
    .sort((left, right) => (left[0] < right[0] ? -1 : left[0] > right[0] ? 1 : 0))
    .map(([name, value]) => `${name}=${value}`)
    .join('&');
}

function queryUnescape(text: string): string {
  try {
    return decodeURIComponent(text.replaceAll('+', ' '));
  } catch {
    return text; // a stray percent sign stands for itself
  }
}

/** Services other than S3 escape the already escaped path once more. */
function encodePath(path: string): string {
  return path.split('/').map(percentEncode).join('/');
}

export function percentEncode(text: string): string {
  return encodeURIComponent(text).replace(
    /[!'()*]/g,
    (character) => `%${character.charCodeAt(0).toString(16).toUpperCase()}`,
  );
}

function canonicalValue(request: SignedRequest, name: string): string {
  return (header(request, name) ?? '').trim().replace(/ +/g, ' ');
}

function splitTarget(target: string): [string, string] {
  const at = target.indexOf('?');
  return at < 0 ? [target, ''] : [target.slice(0, at), target.slice(at + 1)];
}

function header(request: SignedRequest, name: string): string | undefined {
  const value = request.headers[name];
  return typeof value === 'string' || value === undefined ? value : value.join(',');
}

function parseAmzDate(text: string): number | undefined {
  const match = /^(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z$/.exec(text);
  if (match === null) return undefined;
  const [year, month, day, hour, minute, second] = match.slice(1).map(Number);
  return Date.UTC(year!, month! - 1, day, hour, minute, second);
}

function fail(
  error: (SignatureCheck & { ok: false })['error'],
  message: string,
): SignatureCheck & { ok: false } {
  return { ok: false, error, message };
}

function hmac(key: Buffer, text: string): Buffer {
  return crypto.createHmac('sha256', key).update(text).digest();
}

function hashHex(data: string | Uint8Array): string {
  return crypto.createHash('sha256').update(data).digest('hex');
}
