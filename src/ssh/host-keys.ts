/**
 * A node's own host keys, as the node states them over Systems Manager, and what is to be thought of the
 * key that a server presented. Nothing here is trusted on first use: keys come from the node named by its
 * id, over a channel that IAM vouches for, and once known they do not change unless the user says so.
 */
import { BridgeError } from '../errors.ts';
import { fingerprint, typeInside } from './public-key.ts';
import type { RunCommand } from './push.ts';

/** Type and key as in known_hosts, such as `ssh-ed25519 AAAA…`. */
export type HostKey = string;

const HOST_KEY_TYPE = /^(?:ssh-(?:rsa|ed25519)|ecdsa-sha2-nistp(?:256|384|521))$/;
/** A node has three or four. */
const MAX_KEYS = 32;
const MARK = 'ssm-bridge-host-key:';

/** The public key files that sshd is set to use, and those in the usual place. Public data only. */
export const HOST_KEY_SCRIPT: readonly string[] = String.raw`
PATH=$PATH:/usr/sbin:/usr/bin:/sbin:/bin
{
  sshd -T -C user=root,host=localhost,addr=127.0.0.1 2>/dev/null | awk '$1 == "hostkey" { print $2 }'
  ls /etc/ssh/ssh_host_*_key.pub 2>/dev/null
} | while read -r file; do
  cat "\${file%.pub}.pub" 2>/dev/null
done | sort -u | awk '$1 ~ /^(ssh|ecdsa)-/ { print "${MARK}", $1, $2 }'
`
  .replaceAll('\\$', '$')
  .split('\n')
  .slice(1, -1);

/** The keys in the script's output. Lines that are not whole keys of a known type are left out. */
export function parseHostKeys(stdout: string): readonly HostKey[] {
  const keys = new Set<HostKey>();
  for (const line of stdout.split('\n')) {
    const [mark, type = '', encoded = ''] = line.trim().split(' ');
    if (mark !== MARK || !HOST_KEY_TYPE.test(type)) continue;
    const blob = Buffer.from(encoded, 'base64');
    if (blob.toString('base64') === encoded && typeInside(blob) === type) {
      keys.add(`${type} ${encoded}`);
    }
  }
  return [...keys].slice(0, MAX_KEYS);
}

/** Asks the node. Rejects BridgeError when it cannot be asked, hostkey.unavailable when it has no answer. */
export async function fetchHostKeys(
  commands: RunCommand,
  node: string,
  signal: AbortSignal,
): Promise<readonly HostKey[]> {
  const { status, detail, stdout } = await commands.run(
    {
      target: node,
      script: HOST_KEY_SCRIPT,
      comment: 'ssm-bridge: read the public host keys',
      timeoutSeconds: 30,
    },
    signal,
  );
  if (status !== 'Success') {
    throw new BridgeError('hostkey.unavailable', `the node did not run the command (${detail})`);
  }
  const keys = parseHostKeys(stdout);
  if (keys.length === 0) {
    throw new BridgeError('hostkey.unavailable', 'no host keys were found on the node');
  }
  return keys;
}

/** Whether the node's keys are others than before. A key more or less is no change, as long as one stays. */
export function haveChanged(before: readonly HostKey[], now: readonly HostKey[]): boolean {
  const isReplaced = before.some((key) => !now.includes(key) && hasTypeOf(now, key));
  return isReplaced || !before.some((key) => now.includes(key));
}

function hasTypeOf(keys: readonly HostKey[], key: HostKey): boolean {
  return keys.some((each) => typeOf(each) === typeOf(key));
}

function typeOf(key: HostKey): string {
  return key.split(' ', 1).join();
}

/** The key that ssh says the server presented (%K); undefined when there is none to judge. */
export function presentedKey(encoded: string | undefined): HostKey | undefined {
  if (encoded === undefined || encoded === '' || encoded === 'NONE') return undefined;
  const type = typeInside(Buffer.from(encoded, 'base64'));
  // Certificates are ssh's to judge; it asks again with the plain key when no authority fits.
  return type === undefined || type.includes('-cert-') ? undefined : `${type} ${encoded}`;
}

/** `ssh-ed25519 SHA256:…`, as in ssh's own messages. */
export function describeKey(key: HostKey): string {
  const [type = '', encoded = ''] = key.split(' ');
  return `${type} ${fingerprint(Buffer.from(encoded, 'base64'))}`;
}
