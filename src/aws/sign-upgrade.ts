import { Sha256 } from '@smithy/core/checksum';
import { SignatureV4 } from '@smithy/signature-v4';
import type { Credentials } from './credentials.ts';

/** The name under which the message gateway is signed for and named in policies. */
const service = 'ssmmessages';

/** Query keys of which any one marks a presigned URL (session-manager-plugin, IsPresignedURL). */
const presigningKeys: readonly string[] = [
  'X-Amz-Algorithm',
  'X-Amz-Credential',
  'X-Amz-Date',
  'X-Amz-Expires',
  'X-Amz-SignedHeaders',
  'X-Amz-Signature',
  'X-Amz-Security-Token',
];

export function isPresigned(streamUrl: string): boolean {
  const query = parseQuery(new URL(streamUrl).search);
  return presigningKeys.some((key) => Object.hasOwn(query, key));
}

/**
 * SigV4 headers for a WebSocket upgrade: a GET without body, signing `host`, `x-amz-date` and the
 * session token, and nothing else (session-manager-plugin 1.2.764.0, getV4SignatureHeader). The URL
 * itself is sent as it came.
 */
export async function signUpgrade(
  streamUrl: string,
  region: string,
  credentials: Credentials,
  signingDate: Date,
): Promise<Record<string, string>> {
  const url = new URL(streamUrl);
  const signer = new SignatureV4({
    service,
    region,
    credentials,
    sha256: Sha256,
    // No x-amz-content-sha256 header.
    applyChecksum: false,
  });
  const { headers } = await signer.sign(
    {
      method: 'GET',
      protocol: 'https:',
      hostname: url.hostname,
      path: url.pathname,
      query: parseQuery(url.search),
      headers: { host: url.host },
    },
    { signingDate },
  );
  // The WebSocket client sets Host itself, from the same URL.
  return Object.fromEntries(Object.entries(headers).filter(([name]) => name !== 'host'));
}

/**
 * The query as Go's net/url reads it, since the service checks what AWS's client computes: `+` is a
 * space, a key may repeat, and a pair that is malformed or holds a semicolon is left out.
 */
function parseQuery(search: string): Record<string, string[]> {
  const query: Record<string, string[]> = {};
  for (const pair of search.replace(/^\?/, '').split('&')) {
    if (pair === '' || pair.includes(';')) continue;
    const at = pair.indexOf('=');
    const key = unescape(at === -1 ? pair : pair.slice(0, at));
    const value = unescape(at === -1 ? '' : pair.slice(at + 1));
    if (key === undefined || value === undefined) continue;
    if (Object.hasOwn(query, key)) query[key]?.push(value);
    else query[key] = [value];
  }
  return query;
}

function unescape(text: string): string | undefined {
  try {
    return decodeURIComponent(text.replaceAll('+', ' '));
  } catch {
    // Malformed escapes; Go drops the pair.
    return undefined;
  }
}
