import type { Settings } from './settings.ts';

/** A host to connect to before it is known for certain that it will be asked for. */
export interface Address {
  readonly host: string;
  readonly port: number;
  readonly isSecure: boolean;
}

/**
 * Where StartSession will most likely send us: the region's message gateway, or, with an emulator of
 * the service on this machine, the emulator itself. Undefined when a guess would be a gamble; a wrong
 * one costs an unused connection.
 */
export function likelyGateway(settings: Settings): Address | undefined {
  const endpoint = settings.endpoints.SSM;
  if (endpoint === undefined) return inRegion('ssmmessages', settings);
  const address = addressOf(endpoint);
  return isThisMachine(address.host) ? address : undefined;
}

/** Where a key will be pushed to by EC2 Instance Connect. */
export function likelyInstanceConnect(settings: Settings): Address | undefined {
  const endpoint = settings.endpoints['EC2 Instance Connect'];
  return endpoint === undefined ? inRegion('ec2-instance-connect', settings) : addressOf(endpoint);
}

function inRegion(service: string, settings: Settings): Address | undefined {
  if (settings.useFipsEndpoint || settings.useDualstackEndpoint) return undefined;
  const suffix = suffixOf(settings.region);
  if (suffix === undefined) return undefined;
  return { host: `${service}.${settings.region}.${suffix}`, port: 443, isSecure: true };
}

function addressOf(endpoint: string): Address {
  const url = new URL(endpoint);
  const isSecure = url.protocol === 'https:';
  return {
    host: url.hostname.replace(/^\[|\]$/g, ''),
    port: url.port === '' ? (isSecure ? 443 : 80) : Number(url.port),
    isSecure,
  };
}

function isThisMachine(host: string): boolean {
  return host === 'localhost' || host === '::1' || host.startsWith('127.');
}

/** The partitions whose DNS suffix is known (AWS General Reference, Regions); no guess for others. */
function suffixOf(region: string): string | undefined {
  if (region.startsWith('cn-')) return 'amazonaws.com.cn';
  if (/^(us|eu|ap|sa|ca|me|af|il|mx)-[a-z]+-\d+$/.test(region)) return 'amazonaws.com';
  if (/^us-gov-[a-z]+-\d+$/.test(region)) return 'amazonaws.com';
  return undefined;
}
