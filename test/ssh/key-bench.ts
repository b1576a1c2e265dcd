/**
 * A bench for logins with pushed keys: nodes whose one sshd knows nothing but the emulator's Instance
 * Connect store (AuthorizedKeysCommand), and ssh_configs written as `ssm-bridge config` writes them.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { EmulatorOptions, NodeOptions } from '../emulator/types.ts';
import { bridgeProgram, nodeId, openBench, type Bench } from '../support/bench.ts';
import { startSshd, type Sshd, type SshdOptions } from '../support/openssh.ts';
import {
  run,
  start,
  type Env,
  type Finished,
  type Running,
  type StartOptions,
} from '../support/process.ts';

export interface KeyBenchOptions {
  readonly nodes?: readonly string[];
  readonly emulator?: Omit<EmulatorOptions, 'nodes'>;
  readonly node?: Partial<NodeOptions>;
  /** Default: the Instance Connect store decides who may log in. */
  readonly sshd?: SshdOptions;
}

export interface KeyBench {
  readonly bench: Bench;
  readonly emulator: Bench['emulator'];
  readonly sshd: Sshd;
  readonly dir: string;
  readonly env: Env;
  readonly node: string;
  /** Directory of the private agent sockets of this bench. */
  readonly agentDirectory: string;
  /** Node and program: what starts a ProxyCommand or a KnownHostsCommand. */
  readonly program: string;
  /** Writes an ssh_config: the block for `i-* mi-*`, then what every host gets. Returns its path. */
  config(block: readonly string[], after?: readonly string[]): string;
  /** The block for an ephemeral key, with its socket in this bench's own directory. */
  ephemeral(bridgeArgs?: string): readonly string[];
  ssh(config: string, args: readonly string[], options?: Partial<StartOptions>): Promise<Finished>;
  startSsh(config: string, args: readonly string[], options?: Partial<StartOptions>): Running;
  pushes(): number;
  assertClean(): Promise<void>;
  close(): Promise<void>;
}

export async function openKeyBench(options: KeyBenchOptions = {}): Promise<KeyBench> {
  const bench = await openBench({
    withoutSshd: true,
    ...(options.emulator === undefined ? {} : { emulator: options.emulator }),
  });
  const { emulator, env } = bench;
  const ids = options.nodes ?? [nodeId];
  // One sshd stands for all nodes: any key that was pushed to one of them counts.
  const perNode = emulator.authorizedKeysCommand('i-PLACEHOLDER');
  const storeScript = perNode.split(' ')[1] ?? '';
  const anyNode = join(bench.dir, 'any-node.sh');
  writeFileSync(
    anyNode,
    `store=$(dirname '${storeScript}')\nfor d in "$store"/i-*; do sh '${storeScript}' "$(basename "$d")" "$1"; done\n`,
  );
  const sshd = await startSshd(
    options.sshd ?? { authorizedKeysCommand: `/bin/sh ${anyNode} %u`, authorizeClientKey: false },
  );
  for (const id of ids) {
    emulator.setNode({
      id,
      ports: { 22: { host: sshd.address, port: sshd.port } },
      ...options.node,
    });
  }
  const program = `${process.execPath} ${bridgeProgram()}`;
  const agentDirectory = join(bench.dir, 'agents');
  let configs = 0;
  const startSsh: KeyBench['startSsh'] = (config, args, extra) =>
    start(['ssh', '-F', config, ...args], { env, ...extra });
  return {
    bench,
    emulator,
    sshd,
    dir: bench.dir,
    env,
    node: ids[0] ?? nodeId,
    agentDirectory,
    program,
    config(block, after = []) {
      const file = join(bench.dir, `config-${configs++}`);
      const knownHosts = join(bench.dir, `known_hosts-${configs}`);
      writeFileSync(knownHosts, `* ${sshd.hostPublicKey}\n`);
      const lines = [
        'Match host "i-*,mi-*"',
        ...block.map((line) => `  ${line}`),
        'Host *',
        ...after.map((line) => `  ${line}`),
        `  User ${sshd.user}`,
        `  UserKnownHostsFile ${knownHosts}`,
        '  GlobalKnownHostsFile /dev/null',
        '  StrictHostKeyChecking yes',
        '  UpdateHostKeys no',
        '  BatchMode yes',
      ];
      writeFileSync(file, `${lines.join('\n')}\n`);
      return file;
    },
    ephemeral: (bridgeArgs = '') => [
      `ProxyCommand ${program} connect --push-key auto --user '%r' --agent-socket '${agentDirectory}/%r@%h:%p' ${bridgeArgs} '%h' %p`,
      `IdentityAgent ${agentDirectory}/%r@%h:%p`,
      'IdentitiesOnly no',
      'IdentityFile none',
    ],
    startSsh,
    ssh: (config, args, extra) => run(['ssh', '-F', config, ...args], { env, ...extra }),
    pushes: () =>
      emulator.apiCalls.filter(
        ({ operation, status }) => operation === 'SendSSHPublicKey' && status === 200,
      ).length,
    assertClean: () => bench.assertClean(),
    async close() {
      await sshd.stop();
      await bench.close();
    },
  };
}
