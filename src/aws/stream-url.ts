import { BridgeError } from '../errors.ts';

/** Domains that AWS serves its APIs under, in all partitions, dual-stack ones included. */
const awsDomains = [
  'amazonaws.com',
  'amazonaws.com.cn',
  'amazonaws.eu',
  'api.aws',
  'api.amazonwebservices.com.cn',
  'api.amazonwebservices.eu',
  'c2s.ic.gov',
  'sc2s.sgov.gov',
  'cloud.adc-e.uk',
  'csp.hci.ic.gov',
  'api.aws.ic.gov',
  'api.aws.scloud',
  'api.aws.hci.ic.gov',
  'api.cloud-aws.adc-e.uk',
];

/**
 * Refuses a stream URL that a session's token must not be sent to, with protocol.malformed. Like
 * session-manager-plugin since 1.2.889.0, only AWS's own hosts pass, unless the user configured an
 * endpoint of the API: then its answers are trusted to name the gateway too.
 */
export function checkStreamUrl(streamUrl: string, hasCustomEndpoint: boolean): void {
  if (!URL.canParse(streamUrl)) throw refuse('is not a URL');
  const url = new URL(streamUrl);
  const host = url.hostname.toLowerCase();
  if (url.protocol !== 'wss:' && !(url.protocol === 'ws:' && isLoopback(host))) {
    throw refuse(`of ${host} is not a wss URL`);
  }
  if (url.username !== '' || url.password !== '' || url.hash !== '') {
    throw refuse(`of ${host} has parts that no stream URL has`);
  }
  if (!hasCustomEndpoint && !awsDomains.some((domain) => host.endsWith(`.${domain}`))) {
    throw new BridgeError(
      'protocol.malformed',
      `the stream URL leads to ${host}, which is not AWS`,
      {
        hint: 'if that is meant, configure the endpoint of the SSM API that gives it (AWS_ENDPOINT_URL_SSM)',
      },
    );
  }
}

/** A stream URL without its query, which may hold secrets. */
export function loggableStreamUrl(streamUrl: string): string {
  if (!URL.canParse(streamUrl)) return '(not a URL)';
  const { protocol, host, pathname } = new URL(streamUrl);
  return `${protocol}//${host}${pathname}`;
}

function isLoopback(host: string): boolean {
  return (
    host === 'localhost' ||
    host.endsWith('.localhost') ||
    host === '[::1]' ||
    /^127(?:\.\d{1,3}){3}$/.test(host)
  );
}

function refuse(why: string): BridgeError {
  return new BridgeError('protocol.malformed', `the stream URL ${why}`);
}
