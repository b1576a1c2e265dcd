import { expect, it } from 'vitest';
import { BridgeError, systemCode } from '../src/errors.ts';
import { networkError } from '../src/network-error.ts';

function coded(code: string): Error {
  return Object.assign(new Error('text that nothing may depend on'), { code });
}

it.each([
  ['ENOTFOUND', 'network.unreachable', 'the name does not resolve'],
  ['EAI_AGAIN', 'network.unreachable', 'DNS does not answer'],
  ['ECONNREFUSED', 'network.unreachable', 'connection refused'],
  ['ECONNRESET', 'network.unreachable', 'connection reset'],
  ['ENETUNREACH', 'network.unreachable', 'network unreachable'],
  ['EHOSTUNREACH', 'network.unreachable', 'host unreachable'],
  ['ETIMEDOUT', 'network.timeout', 'timed out'],
])('%s is %s: %s', (code, wanted, why) => {
  const error = networkError('host:443', coded(code));
  expect([error.code, error.message]).toEqual([
    wanted,
    `cannot connect to host:443: ${why} (${code})`,
  ]);
});

it.each([
  ['CERT_HAS_EXPIRED', 'the certificate is not valid now'],
  ['CERT_NOT_YET_VALID', 'the certificate is not valid now'],
  ['ERR_TLS_CERT_ALTNAME_INVALID', 'the certificate is for another host'],
  ['SELF_SIGNED_CERT_IN_CHAIN', 'the certificate is not trusted'],
  ['DEPTH_ZERO_SELF_SIGNED_CERT', 'the certificate is not trusted'],
  ['UNABLE_TO_VERIFY_LEAF_SIGNATURE', 'the certificate is not trusted'],
  ['UNABLE_TO_GET_ISSUER_CERT_LOCALLY', 'the certificate is not trusted'],
  ['ERR_SSL_WRONG_VERSION_NUMBER', 'the peer does not speak TLS as expected'],
  ['EPROTO', 'the peer does not speak TLS as expected'],
])('%s is a TLS failure: %s', (code, why) => {
  const error = networkError('host:443', coded(code));
  expect([error.code, error.message]).toEqual([
    'network.tls',
    `TLS with host:443 failed: ${why} (${code})`,
  ]);
});

it('keeps the code of a failure it does not know', () => {
  const error = networkError('host:443', coded('EWHATEVER'));
  expect([error.code, error.message]).toEqual([
    'network.unreachable',
    'cannot connect to host:443 (EWHATEVER)',
  ]);
});

it.each([undefined, null, 'text', {}, { code: 42 }, new Error('x')])(
  'makes something of %s',
  (thrown) => {
    expect(networkError('host:443', thrown).message).toBe(
      'cannot connect to host:443 (unknown error)',
    );
  },
);

it('passes on what is named already', () => {
  const error = new BridgeError('access.denied', 'no');
  expect(networkError('host:443', error)).toBe(error);
});

it('takes no text for a code', () => {
  expect([systemCode({ code: 'EPIPE' }), systemCode({ code: 7 }), systemCode('EPIPE')]).toEqual([
    'EPIPE',
    undefined,
    undefined,
  ]);
});
