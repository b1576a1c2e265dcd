import type { Sshd } from '../support/openssh.ts';
import { nodes } from './emulated.ts';
import { program } from './process.ts';

/** Options of ssh, for `sshCommand`. */
export const proxyCommand = (options = ''): string =>
  `ProxyCommand=${process.execPath} ${program} connect ${options} %h %p`;

export const ownKey = (sshd: Sshd): readonly string[] => [
  `IdentityFile=${sshd.clientKeyFile}`,
  'IdentityAgent=none',
];

/** An ssh command line that reads no configuration and says nothing but errors. */
export function sshCommand(
  sshd: Sshd,
  options: readonly string[],
  command: readonly string[],
  host: string = nodes.sshd,
): readonly string[] {
  const quiet = ['StrictHostKeyChecking=no', 'UserKnownHostsFile=/dev/null', 'LogLevel=ERROR'];
  const flags = [...options, ...quiet].flatMap((text) => ['-o', text]);
  return ['ssh', '-F', 'none', ...flags, `${sshd.user}@${host}`, ...command];
}
