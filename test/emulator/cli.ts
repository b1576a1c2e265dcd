import { existsSync, writeFileSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { parseArgs } from 'node:util';
import { startSshd, type Sshd } from '../support/openssh.ts';
import { pacedTuning, startEmulator } from './emulator.ts';
import type { Address, Emulator, NodeOptions } from './types.ts';

const DEFAULT_NODE = 'i-0123456789abcdef0';

const HELP = `Plays AWS Session Manager on this machine, to try an ssh_config without AWS.

  npm run emulator -- --sshd
  npm run emulator -- --port-map i-0123456789abcdef0:22=127.0.0.1:2222

  --sshd                       starts a throwaway sshd behind ${DEFAULT_NODE}, with its own keys
  --port-map NODE:PORT=HOST:PORT
                               where the agent of NODE connects to for PORT (may be repeated)
  --node NODE                  a node without mapped ports: PORT is dialled on localhost
  --paced                      downloads at the pace of the real agent (1 KiB a millisecond)
  --rtt MS                     round trip time added to everything
  --region REGION              default eu-central-1
  --run-commands               lets SendCommand run scripts, as you, on this machine
  --exports FILE               writes the exports to FILE as well
  --quiet                      no log of sessions and calls on stderr
`;

/** Runs until SIGINT or SIGTERM; returns the exit status. */
export async function main(argv: readonly string[], root: string): Promise<number> {
  let options;
  try {
    options = parseArgs({
      args: [...argv],
      options: {
        help: { type: 'boolean', short: 'h' },
        sshd: { type: 'boolean' },
        'port-map': { type: 'string', multiple: true },
        node: { type: 'string', multiple: true },
        paced: { type: 'boolean' },
        rtt: { type: 'string' },
        region: { type: 'string' },
        'run-commands': { type: 'boolean' },
        exports: { type: 'string' },
        quiet: { type: 'boolean' },
      },
    }).values;
  } catch (error) {
    process.stderr.write(`emulator: ${error instanceof Error ? error.message : String(error)}\n`);
    return 2;
  }
  if (options.help === true) {
    process.stdout.write(HELP);
    return 0;
  }
  const nodes = new Map<string, NodeOptions>();
  const runCommand = { denied: options['run-commands'] !== true, env: homeOnly() };
  const add = (id: string, ports: Record<number, Address>): void => {
    nodes.set(id, { id, runCommand, ports: { ...nodes.get(id)?.ports, ...ports } });
  };
  for (const id of options.node ?? []) add(id, {});
  for (const text of options['port-map'] ?? []) {
    const mapping = parseMapping(text);
    if (mapping === undefined) {
      process.stderr.write(`emulator: --port-map ${text}: not NODE:PORT=HOST:PORT\n`);
      return 2;
    }
    add(mapping.id, { [mapping.port]: mapping.to });
  }
  if (nodes.size === 0) add(DEFAULT_NODE, {});

  // Caught from here on: what is started below has to be stopped again.
  const stopped = stopSignal();
  const emulator = await startEmulator({
    nodes: [...nodes.values()],
    rttMs: Number(options.rtt ?? 0),
    ...(options.region === undefined ? {} : { region: options.region }),
    ...(options.paced === true ? { agent: pacedTuning } : {}),
    ...(options.quiet === true
      ? {}
      : { log: (line: string) => process.stderr.write(`emulator: ${line}\n`) }),
  });
  let sshd: Sshd | undefined;
  try {
    if (options.sshd === true) {
      sshd = await startSshd({ extraConfig: pushedKeys(emulator) });
      const ports = { 22: { host: sshd.address, port: sshd.port } };
      emulator.setNode({ id: DEFAULT_NODE, runCommand, ports });
    }
    const exports = exportLines(emulator);
    if (options.exports !== undefined) writeFileSync(options.exports, exports);
    process.stdout.write(`${exports}\n${hint(emulator, sshd, root)}`);
    await stopped;
  } finally {
    await emulator.close();
    await sshd?.stop();
  }
  return 0;
}

/** Keys pushed through Instance Connect are taken too, besides the generated one. */
function pushedKeys(emulator: Emulator): string[] {
  const user = process.env['USER'] ?? process.env['LOGNAME'] ?? 'root';
  return [
    `AuthorizedKeysCommand ${emulator.authorizedKeysCommand(DEFAULT_NODE)}`,
    `AuthorizedKeysCommandUser ${process.getuid?.() === 0 ? 'root' : user}`,
  ];
}

function exportLines(emulator: Emulator): string {
  return Object.entries(emulator.env)
    .map(([name, value]) => `export ${name}='${value}'\n`)
    .join('');
}

function hint(emulator: Emulator, sshd: Sshd | undefined, root: string): string {
  const built = join(root, 'dist', 'ssm-bridge.cjs');
  const isInPath = (process.env['PATH'] ?? '')
    .split(delimiter)
    .some((directory) => existsSync(join(directory, 'ssm-bridge')));
  const program = isInPath || !existsSync(built) ? 'ssm-bridge' : `${process.execPath} ${built}`;
  const knownHosts = join(emulator.directory, 'known_hosts');
  const lines = ['Host i-*', `  ProxyCommand ${program} connect %h %p`];
  if (sshd !== undefined) {
    writeFileSync(knownHosts, `* ${sshd.hostPublicKey}\n`);
    lines.push(
      `  User ${sshd.user}`,
      `  IdentityFile ${sshd.clientKeyFile}`,
      '  IdentitiesOnly yes',
      `  UserKnownHostsFile ${knownHosts}`,
    );
  }
  const file = join(emulator.directory, 'ssh_config');
  writeFileSync(file, `${lines.join('\n')}\n`);
  return [
    '# In another terminal: set the variables above, then',
    `#   ssh -F ${file} ${DEFAULT_NODE}`,
    `# ${file}:`,
    ...lines.map((line) => `#   ${line}`),
    '# Ctrl-C ends it.',
    '',
  ].join('\n');
}

function parseMapping(text: string): { id: string; port: number; to: Address } | undefined {
  const match = /^(m?i-[0-9a-f]+):(\d+)=(.+):(\d+)$/.exec(text);
  if (match === null) return undefined;
  const [, id = '', port, host = '', toPort] = match;
  return { id, port: Number(port), to: { host, port: Number(toPort) } };
}

function homeOnly(): Record<string, string> {
  const home = process.env['HOME'];
  return home === undefined ? {} : { HOME: home };
}

function stopSignal(): Promise<void> {
  return new Promise((resolve) => {
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
      process.once(signal, () => {
        resolve();
      });
    }
  });
}
