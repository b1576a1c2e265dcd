/**
 * A bench for end-to-end tests: the emulated service, a real sshd behind its managed node, and an
 * ssh_config whose ProxyCommand is the built bridge, as a process of its own.
 *
 *   const bench = await openBench();
 *   const done = await bench.ssh([bench.host, 'exit 3']);     // runs ssh -F config …
 *   await bench.assertClean();   // no session open, no protocol violation, no process left behind
 *   await bench.close();
 *
 * `bench.bridge([...])` starts the bridge itself, for tests that speak to it without ssh.
 * SSM_BRIDGE_BIN overrides the program under test (default dist/ssm-bridge.cjs).
 */
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { startEmulator } from '../emulator/emulator.ts';
import type { Emulator, EmulatorOptions, NodeOptions } from '../emulator/types.ts';
import { startSshd, writeSshConfig, type Sshd } from './openssh.ts';
import {
  baseEnv,
  eventually,
  marker,
  processesWith,
  run,
  start,
  type Env,
  type Finished,
  type Running,
  type StartOptions,
} from './process.ts';

export const nodeId = 'i-0123456789abcdef0';

export interface BenchOptions {
  readonly emulator?: Omit<EmulatorOptions, 'nodes'>;
  /** Settings of the one node; its port 22 leads to the sshd unless `ports` says otherwise. */
  readonly node?: Partial<NodeOptions>;
  /** Use this sshd instead of starting one; it is not stopped by close(). */
  readonly sshd?: Sshd;
  /** No sshd at all: the test gives `node.ports` or `node.dial`. */
  readonly withoutSshd?: boolean;
  /** Arguments of the bridge in the ssh_config, after `connect`. */
  readonly bridgeArgs?: readonly string[];
  /** Lines for the ssh_config block. */
  readonly sshConfig?: readonly string[];
  /** Further environment of everything the bench starts. */
  readonly env?: Env;
}

export interface Bench {
  /** The host name tests give to ssh: the node's id. */
  readonly host: string;
  readonly emulator: Emulator;
  readonly dir: string;
  /** Path of the ssh_config. */
  readonly config: string;
  /** Environment of every program the bench starts: clean, with the emulator's settings and the marker. */
  readonly env: Env;
  readonly sshd: Sshd;
  ssh(args: readonly string[], options?: Partial<StartOptions>): Promise<Finished>;
  startSsh(args: readonly string[], options?: Partial<StartOptions>): Running;
  /** The bridge itself: `bridge(['connect', host])`. */
  bridge(args: readonly string[], options?: Partial<StartOptions>): Running;
  /** Pids of living bridge processes of this bench. */
  bridgePids(): readonly number[];
  /**
   * Everything that must hold after any case; waits up to a few seconds for it to become true. What is
   * left when it does not is ended, so that the next case starts clean.
   */
  assertClean(deadlineMs?: number): Promise<void>;
  close(): Promise<void>;
}

export function bridgeProgram(): string {
  const program =
    process.env['SSM_BRIDGE_BIN'] ??
    fileURLToPath(new URL('../../dist/ssm-bridge.cjs', import.meta.url));
  if (!existsSync(program)) throw new Error(`${program} is missing: run npm run build first`);
  return program;
}

export async function openBench(options: BenchOptions = {}): Promise<Bench> {
  const ownSshd =
    options.sshd === undefined && options.withoutSshd !== true ? await startSshd() : undefined;
  const sshd = options.sshd ?? ownSshd;
  const emulator = await startEmulator({
    ...options.emulator,
    nodes: [
      {
        id: nodeId,
        ...(sshd === undefined ? {} : { ports: { 22: { host: sshd.address, port: sshd.port } } }),
        ...options.node,
      },
    ],
  });
  const mark = marker();
  const env = { ...baseEnv(), ...emulator.env, ...mark, ...options.env };
  const program = bridgeProgram();
  const bridge = [process.execPath, program];
  const config =
    sshd === undefined
      ? ''
      : writeSshConfig(sshd, {
          proxyCommand: [...bridge, 'connect', ...(options.bridgeArgs ?? []), '%h', '%p'],
          ...(options.sshConfig === undefined ? {} : { extra: options.sshConfig }),
          name: `ssh_config-${emulator.port}`,
        }).file;
  const ownDir = sshd === undefined ? mkdtempSync(join(tmpdir(), 'sb-')) : undefined;

  const endLeftovers = (): void => {
    emulator.faults.clear();
    for (const { pid } of processesWith(mark)) {
      try {
        process.kill(pid, 'SIGKILL');
      } catch {
        // It ended meanwhile.
      }
    }
    for (const session of emulator.sessions) {
      if (session.state === 'open') session.end('emulator');
    }
  };
  const isClean = (): boolean =>
    processesWith(mark).length === 0 && emulator.openSessionCount() === 0;
  let reportedViolations = 0;

  const startSsh: Bench['startSsh'] = (args, extra) =>
    start(['ssh', '-F', config, ...args], { env, ...extra });

  return {
    host: nodeId,
    emulator,
    dir: ownDir ?? sshd?.dir ?? tmpdir(),
    config,
    env,
    get sshd() {
      if (sshd === undefined) throw new Error('this bench has no sshd');
      return sshd;
    },
    startSsh,
    ssh: (args, extra) => run(['ssh', '-F', config, ...args], { env, ...extra }),
    bridge: (args, extra) => start([...bridge, ...args], { env, ...extra }),
    bridgePids: () =>
      processesWith(mark)
        .filter(({ command }) => command.startsWith(bridge.join(' ')))
        .map(({ pid }) => pid),
    async assertClean(deadlineMs = 4000) {
      await eventually(
        'every process has ended and every session is over',
        isClean,
        deadlineMs,
        () =>
          JSON.stringify({
            processes: processesWith(mark),
            openSessions: emulator.sessions
              .filter(({ state }) => state === 'open')
              .map(({ id, counters, flags }) => ({ id, counters, flags })),
          }),
      ).catch((error: unknown) => {
        endLeftovers();
        throw error;
      });
      const violations = emulator.violations().slice(reportedViolations);
      reportedViolations += violations.length;
      if (violations.length > 0) throw new Error(`protocol violations: ${violations.join('; ')}`);
    },
    async close() {
      endLeftovers();
      await emulator.close();
      await ownSshd?.stop();
      if (ownDir !== undefined) rmSync(ownDir, { recursive: true, force: true });
    },
  };
}
