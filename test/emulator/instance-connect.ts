import { randomUUID } from 'node:crypto';
import { ApiError } from './api-error.ts';
import type { ApiTable } from './api.ts';
import type { KeyStore } from './key-store.ts';
import type { Service } from './service.ts';
import { optionalText, requiredText } from './ssm.ts';

/** How long a pushed key counts (EC2 Instance Connect, SendSSHPublicKey). */
const KEY_LIFE_MS = 60_000;

const INSTANCE = /^i-[a-f0-9]+$/;
const OS_USER = /^[A-Za-z_][A-Za-z0-9@._-]{0,30}[A-Za-z0-9$_-]?$/;
const ZONE = /^(\w+-){2,3}\d+\w+$/;

export function instanceConnectOperations(
  service: Service,
  store: KeyStore,
): ApiTable['operations'] {
  let second = 0;
  let calls = 0;
  const throttle = (): void => {
    const limit = service.settings.keyPushLimit;
    const now = Math.floor(performance.now() / 1000);
    if (now !== second) {
      second = now;
      calls = 0;
    }
    calls += 1;
    if (limit > 0 && calls > limit) {
      throw new ApiError('ThrottlingException', 'Rate exceeded', { status: 429 });
    }
  };
  return {
    SendSSHPublicKey: (call) => {
      throttle();
      const instanceId = requiredText(call, 'InstanceId');
      const osUser = requiredText(call, 'InstanceOSUser');
      const publicKey = requiredText(call, 'SSHPublicKey');
      const availabilityZone = optionalText(call, 'AvailabilityZone');
      if (!INSTANCE.test(instanceId)) throw invalid('instanceId has the wrong format');
      if (!OS_USER.test(osUser)) throw invalid('instanceOSUser has the wrong format');
      if (availabilityZone !== undefined && !ZONE.test(availabilityZone)) {
        throw invalid('availabilityZone has the wrong format');
      }
      const fault = keyFault(publicKey);
      if (fault !== undefined) throw invalid(fault);
      const node = service.nodes.get(instanceId);
      if (node === undefined) {
        throw new ApiError('EC2InstanceNotFoundException', `Instance ${instanceId} not found`, {
          status: 404,
        });
      }
      if ((node.instanceState ?? 'running') !== 'running') {
        throw new ApiError(
          'EC2InstanceStateInvalidException',
          `Instance is not in a running state: ${String(node.instanceState)}`,
        );
      }
      if (
        availabilityZone !== undefined &&
        availabilityZone !== (node.availabilityZone ?? `${service.settings.region}a`)
      ) {
        throw invalid(`instance ${instanceId} is not in ${availabilityZone}`);
      }
      const expiresAt = service.clock.now() + KEY_LIFE_MS;
      store.add({ instanceId, osUser, publicKey, availabilityZone, expiresAt });
      service.log(`key for ${osUser} on ${instanceId}`);
      service.changed();
      return { RequestId: randomUUID(), Success: true };
    },
  };
}

/** What is wrong with a public key; the service takes ed25519, and RSA of 2048 bits or more. */
function keyFault(line: string): string | undefined {
  if (line.length < 80 || line.length > 4096) return 'sshPublicKey must be 80 to 4096 characters';
  if (/[\r\n]/.test(line.trim())) return 'sshPublicKey has more than one line';
  const [type = '', base64 = ''] = line.trim().split(' ');
  if (type !== 'ssh-ed25519' && type !== 'ssh-rsa') return `key type ${type} is not supported`;
  const blob = Buffer.from(base64, 'base64');
  if (blob.toString('base64') !== base64) return 'sshPublicKey is no base64';
  const fields = fieldsOf(blob);
  if (fields?.[0]?.toString() !== type) return 'sshPublicKey is malformed';
  if (type === 'ssh-ed25519') {
    return fields.length === 2 && fields[1]?.length === 32 ? undefined : 'key is malformed';
  }
  const modulus = fields[2];
  if (fields.length !== 3 || modulus === undefined) return 'key is malformed';
  return modulus.length >= 256 ? undefined : 'RSA key shorter than 2048 bits';
}

/** The length-prefixed strings of an SSH key blob (RFC 4253, 6.6). */
function fieldsOf(blob: Buffer): Buffer[] | undefined {
  const fields: Buffer[] = [];
  let at = 0;
  while (at < blob.length) {
    if (at + 4 > blob.length) return undefined;
    const end = at + 4 + blob.readUInt32BE(at);
    if (end > blob.length) return undefined;
    fields.push(blob.subarray(at + 4, end));
    at = end;
  }
  return fields;
}

function invalid(message: string): ApiError {
  return new ApiError('InvalidArgsException', message);
}
