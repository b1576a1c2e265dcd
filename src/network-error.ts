import { BridgeError, systemCode } from './errors.ts';

/**
 * Names a failed connection attempt: network.unreachable, network.timeout or network.tls.
 * Goes by Node's error codes, never by message text.
 */
export function networkError(peer: string, error: unknown): BridgeError {
  if (error instanceof BridgeError) return error;
  const code = systemCode(error) ?? 'unknown error';
  const known = causes.get(code);
  if (known !== undefined) {
    return new BridgeError(known.code, `cannot connect to ${peer}: ${known.why} (${code})`, {
      hint: known.hint,
      cause: error,
    });
  }
  if (isTlsCode(code)) {
    return new BridgeError('network.tls', `TLS with ${peer} failed: ${tlsReason(code)} (${code})`, {
      hint: 'behind a TLS-inspecting proxy set AWS_CA_BUNDLE to its CA certificates; otherwise check the clock',
      cause: error,
    });
  }
  return new BridgeError('network.unreachable', `cannot connect to ${peer} (${code})`, {
    hint: checkNetwork,
    cause: error,
  });
}

const checkNetwork = 'check the network, VPN and proxy settings';

interface Cause {
  readonly code: 'network.unreachable' | 'network.timeout';
  readonly why: string;
  readonly hint: string;
}

const unreachable = (why: string, hint = checkNetwork): Cause => ({
  code: 'network.unreachable',
  why,
  hint,
});

const causes: ReadonlyMap<string, Cause> = new Map([
  ['ENOTFOUND', unreachable('the name does not resolve', 'check the region, DNS and VPN')],
  ['EAI_AGAIN', unreachable('DNS does not answer', 'check DNS and the network')],
  ['ECONNREFUSED', unreachable('connection refused')],
  ['ECONNRESET', unreachable('connection reset', 'a proxy or firewall may be in the way')],
  ['EPIPE', unreachable('connection closed', 'a proxy or firewall may be in the way')],
  ['ENETUNREACH', unreachable('network unreachable')],
  ['EHOSTUNREACH', unreachable('host unreachable')],
  ['EADDRNOTAVAIL', unreachable('no local address for it')],
  ['ETIMEDOUT', { code: 'network.timeout', why: 'timed out', hint: checkNetwork }],
]);

function isTlsCode(code: string): boolean {
  return (
    code.startsWith('ERR_TLS') ||
    code.startsWith('ERR_SSL') ||
    code === 'EPROTO' ||
    code === 'HOSTNAME_MISMATCH' ||
    isTrustCode(code)
  );
}

/** OpenSSL's names for "no chain to a trusted root" (Node, TLS, X509 certificate error codes). */
function isTrustCode(code: string): boolean {
  return code.includes('CERT') || code.includes('ISSUER') || code.includes('LEAF_SIGNATURE');
}

function tlsReason(code: string): string {
  if (code === 'CERT_HAS_EXPIRED' || code === 'CERT_NOT_YET_VALID') {
    return 'the certificate is not valid now';
  }
  if (code === 'ERR_TLS_CERT_ALTNAME_INVALID') return 'the certificate is for another host';
  if (isTrustCode(code)) return 'the certificate is not trusted';
  return 'the peer does not speak TLS as expected';
}
