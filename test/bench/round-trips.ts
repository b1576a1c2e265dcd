import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { startDelayProxy } from '../emulator/delay-proxy.ts';
import { startSshd, type Sshd } from '../support/openssh.ts';
import { nodes, startEmulated } from './emulated.ts';
import { cleanEnvironment, exited, firstOutput, nowMs } from './process.ts';
import { startBridge, stop, within } from './process.ts';
import { onPath } from './programs.ts';
import { atMost, format, row, type SectionSettings } from './rows.ts';
import { ownKey, proxyCommand, sshCommand } from './ssh.ts';
import { median, type Row } from './stats.ts';

/**
 * The difference between the two is what is measured. Not from no delay at all: an agent refuses what
 * reaches it before it has reached sshd, and on one machine that happens now and then.
 */
const nearMs = 10;
const farMs = 60;

/**
 * API: TCP, TLS, StartSession. Gateway, connected meanwhile: upgrade; token to handshake request;
 * handshake response to the remote side's first byte. See the README for why no fewer are possible.
 */
const neededTrips = 6;

/** The same thing near and far: the difference, in round trips. */
export async function roundTrips({ rounds }: SectionSettings): Promise<Row[]> {
  const count = Math.max(5, Math.ceil(rounds / 2));
  const directory = mkdtempSync(join(tmpdir(), 'ssm-bridge-bench-'));
  const pushedKeys = join(directory, 'pushed-keys.sh');
  const authorizedKeysCommand = `/bin/sh ${pushedKeys} %u`;
  const sshd =
    onPath('sshd') === undefined ? undefined : await startSshd({ authorizedKeysCommand });
  const near = await startEmulated({ rttMs: nearMs }, sshd?.port);
  const far = await startEmulated({ rttMs: farMs }, sshd?.port);
  const printers = [near, far].map((it) => it.authorizedKeysCommand.replace('%u', '"$1"'));
  const own = `echo '${sshd?.clientPublicKey ?? ''}'`;
  writeFileSync(pushedKeys, `${[own, ...printers].join('\n')}\n`);
  const measured = {
    banner: [] as number[],
    ssh: [] as number[],
    pushed: [] as number[],
    ephemeral: [] as number[],
    direct: [] as number[],
  };
  const trips = async (measure: (rtt: number) => Promise<number>): Promise<number> => {
    const near = await measure(nearMs);
    return ((await measure(farMs)) - near) / (farMs - nearMs);
  };
  const envOf = (rtt: number) => (rtt === nearMs ? near : far).env;
  try {
    for (let round = 0; round < count; round += 1) {
      measured.banner.push(await trips((rtt) => firstByteMs(envOf(rtt))));
      if (sshd === undefined) continue;
      const login = (options: readonly string[]) =>
        trips((rtt) => sshMs(sshd, options, envOf(rtt)));
      measured.ssh.push(await login([proxyCommand(), ...ownKey(sshd)]));
      const publicKey = `--user %r --push-key instance-connect --key ${sshd.clientKeyFile}.pub`;
      measured.pushed.push(await login([proxyCommand(publicKey), ...ownKey(sshd)]));
      // A socket for each: what is measured is a login alone, not one that takes over from another.
      const socket = (rtt: number): string => join(directory, `agent-${round}-${rtt}`);
      const alone = (rtt: number) => sshMs(sshd, ephemeralKey(socket(rtt)), envOf(rtt));
      measured.ephemeral.push(await trips(alone));
      measured.direct.push(await trips((rtt) => directMs(sshd, rtt)));
    }
  } finally {
    near.close();
    far.close();
    await sshd?.stop();
    rmSync(directory, { recursive: true, force: true });
  }
  const name = 'round trips';
  const banner = median(measured.banner);
  const rows = [
    row(
      name,
      `exec to the first byte of the node's sshd (${neededTrips} are needed)`,
      banner,
      format(banner),
      atMost(neededTrips + 0.5, banner),
    ),
  ];
  if (sshd === undefined) return rows;
  const [ssh, direct] = [median(measured.ssh), median(measured.direct)];
  const more = (pushed: readonly number[]): number =>
    median(pushed.map((trips, round) => trips - (measured.ssh[round] ?? Number.NaN)));
  const [pushed, ephemeral] = [more(measured.pushed), more(measured.ephemeral)];
  // The call itself is one; it is made at NEWKEYS, over a connection that stands by then.
  const oneCall = (trips: number) => atMost(1.5, trips);
  return [
    ...rows,
    row(name, '`ssh host true` through ssm-bridge', ssh, format(ssh)),
    row(name, '… of which OpenSSH needs without it, TCP included', direct, format(direct)),
    row(name, '… more with --push-key and --key PATH.pub', pushed, format(pushed), oneCall(pushed)),
    row(name, '… more with --push-key alone', ephemeral, format(ephemeral), oneCall(ephemeral)),
  ];
}

async function firstByteMs(env: Readonly<Record<string, string>>): Promise<number> {
  const startedAt = nowMs();
  const bridge = startBridge({ env, node: nodes.echo });
  try {
    await firstOutput(bridge);
    return nowMs() - startedAt;
  } finally {
    await stop(bridge.child);
  }
}

const ephemeralKey = (agentSocket: string): readonly string[] => [
  proxyCommand(`--user %r --push-key instance-connect --agent-socket ${agentSocket}`),
  `IdentityAgent=${agentSocket}`,
  'IdentityFile=none',
];

async function directMs(sshd: Sshd, rtt: number): Promise<number> {
  const proxy = await startDelayProxy({ port: sshd.port, rttMs: rtt });
  try {
    const options = [`Port=${proxy.port}`, ...ownKey(sshd)];
    return await sshMs(sshd, options, {}, '127.0.0.1');
  } finally {
    await proxy.close();
  }
}

/** From exec of `ssh host true` to its exit. */
async function sshMs(
  sshd: Sshd,
  extra: readonly string[],
  env: Readonly<Record<string, string>>,
  host: string = nodes.sshd,
): Promise<number> {
  const [file = '', ...args] = sshCommand(sshd, extra, ['true'], host);
  const startedAt = nowMs();
  const child = spawn(file, args, {
    env: cleanEnvironment(env),
    stdio: ['ignore', 'ignore', 'inherit'],
  });
  await within(exited(child), 30_000, 'ssh').finally(() => child.kill());
  if (child.exitCode !== 0) throw new Error(`ssh ended with ${child.exitCode ?? 'a signal'}`);
  return nowMs() - startedAt;
}
