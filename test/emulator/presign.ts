import type { Credentials } from './types.ts';
import {
  EMPTY_HASH,
  percentEncode,
  sign,
  type SignatureCheck,
  type SignatureRules,
  type SignedRequest,
} from './sigv4.ts';

const EXPIRES_S = 300;

export function isPresigned(target: string): boolean {
  return /[?&]X-Amz-Signature=/.test(target);
}

/** Puts a signature for service ssmmessages into the query of a stream URL. */
export function presign(
  url: string,
  region: string,
  credentials: Credentials,
  nowMs: number,
): string {
  const { host, pathname } = new URL(url);
  const amzDate = new Date(nowMs).toISOString().replace(/[-:]|\.\d+/g, '');
  const scope = `${amzDate.slice(0, 8)}/${region}/ssmmessages/aws4_request`;
  const query = new Map([
    ['X-Amz-Algorithm', 'AWS4-HMAC-SHA256'],
    ['X-Amz-Credential', `${credentials.accessKeyId}/${scope}`],
    ['X-Amz-Date', amzDate],
    ['X-Amz-Expires', String(EXPIRES_S)],
    ['X-Amz-SignedHeaders', 'host'],
    ['role', 'publish_subscribe'],
  ]);
  const text = [...query].map(([name, value]) => `${name}=${percentEncode(value)}`).join('&');
  const signature = sign(
    credentials.secretAccessKey,
    scope,
    amzDate,
    canonical(pathname, text, host),
  );
  return `${url.split('?')[0]!}?${text}&X-Amz-Signature=${signature}`;
}

/** Checks a URL made above; its query is taken as it came, so any change to it is noticed. */
export function verifyPresigned(request: SignedRequest, rules: SignatureRules): SignatureCheck {
  const [path = '', query = ''] = request.target.split('?');
  const [signedPart = '', signature = ''] = query.split('&X-Amz-Signature=');
  const parameters = new URLSearchParams(signedPart);
  const amzDate = parameters.get('X-Amz-Date') ?? '';
  const [accessKeyId, ...scope] = (parameters.get('X-Amz-Credential') ?? '').split('/');
  const credentials = rules.credentials.find((known) => known.accessKeyId === accessKeyId);
  if (request.headers['authorization'] !== undefined) {
    return no('InvalidSignatureException', 'signed twice: in the URL and in a header');
  }
  if (credentials === undefined) return no('UnrecognizedClientException', 'unknown access key');
  const host = String(request.headers['host']);
  const expected = sign(
    credentials.secretAccessKey,
    scope.join('/'),
    amzDate,
    canonical(path, signedPart, host),
  );
  if (signature !== expected) return no('InvalidSignatureException', 'signature does not match');
  const madeAt = Date.parse(
    amzDate.replace(/^(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z$/, '$1-$2-$3T$4:$5:$6Z'),
  );
  if (rules.nowMs > madeAt + EXPIRES_S * 1000) return no('ExpiredTokenException', 'URL expired');
  return { ok: true, credentials };
}

function canonical(path: string, query: string, host: string): string {
  return ['GET', path, query, `host:${host}\n`, 'host', EMPTY_HASH].join('\n');
}

function no(error: (SignatureCheck & { ok: false })['error'], message: string): SignatureCheck {
  return { ok: false, error, message };
}
