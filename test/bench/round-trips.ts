import { spawn } from 'node:child_process';
import { startDelayProxy } from '../emulator/delay-proxy.ts';
import { startSshd, type Sshd } from '../support/openssh.ts';
import { nodes, startEmulated } from './emulated.ts';
import { cleanEnvironment, exited, firstOutput, nowMs, program } from './process.ts';
import { startBridge, stop, within } from './process.ts';
import { onPath } from './programs.ts';
import { atMost, format, row, type SectionSettings } from './rows.ts';
import { median, type Row } from './stats.ts';

const rttMs = 50;

/**
 * API: TCP, TLS, StartSession. Gateway, connected meanwhile: upgrade; token to handshake request;
 * handshake response to the remote side's first byte. See the README for why no fewer are possible.
 */
const neededTrips = 6;

/** The same thing with and without delay: the difference, in round trips. */
export async function roundTrips({ rounds }: SectionSettings): Promise<Row[]> {
  const count = Math.max(5, Math.ceil(rounds / 2));
  const sshd = onPath('sshd') === undefined ? undefined : await startSshd();
  const near = await startEmulated({}, sshd?.port);
  const far = await startEmulated({ rttMs }, sshd?.port);
  const measured = { banner: [] as number[], ssh: [] as number[], direct: [] as number[] };
  const trips = async (measure: (rtt: number) => Promise<number>): Promise<number> => {
    const atOnce = await measure(0);
    return ((await measure(rttMs)) - atOnce) / rttMs;
  };
  const envOf = (rtt: number) => (rtt === 0 ? near : far).env;
  try {
    for (let round = 0; round < count; round += 1) {
      measured.banner.push(await trips((rtt) => firstByteMs(envOf(rtt))));
      if (sshd === undefined) continue;
      measured.ssh.push(await trips((rtt) => sshMs(sshd, bridgeOption(), envOf(rtt))));
      measured.direct.push(await trips((rtt) => directMs(sshd, rtt)));
    }
  } finally {
    near.close();
    far.close();
    await sshd?.stop();
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
  return [
    ...rows,
    row(name, '`ssh host true` through ssm-bridge', ssh, format(ssh)),
    row(name, '… of which OpenSSH needs without it, TCP included', direct, format(direct)),
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

const bridgeOption = (): string => `ProxyCommand=${process.execPath} ${program} connect %h %p`;

async function directMs(sshd: Sshd, rtt: number): Promise<number> {
  const proxy = await startDelayProxy({ port: sshd.port, rttMs: rtt });
  try {
    return await sshMs(sshd, `Port=${proxy.port}`, {}, '127.0.0.1');
  } finally {
    await proxy.close();
  }
}

/** From exec of `ssh host true` to its exit. */
async function sshMs(
  sshd: Sshd,
  option: string,
  env: Readonly<Record<string, string>>,
  host: string = nodes.sshd,
): Promise<number> {
  const options = [option, 'StrictHostKeyChecking=no', 'UserKnownHostsFile=/dev/null'];
  const identity = [`IdentityFile=${sshd.clientKeyFile}`, 'IdentityAgent=none', 'LogLevel=ERROR'];
  const flags = [...options, ...identity].flatMap((text) => ['-o', text]);
  const startedAt = nowMs();
  const child = spawn('ssh', ['-F', 'none', ...flags, `${sshd.user}@${host}`, 'true'], {
    env: cleanEnvironment(env),
    stdio: ['ignore', 'ignore', 'inherit'],
  });
  await within(exited(child), 30_000, 'ssh').finally(() => child.kill());
  if (child.exitCode !== 0) throw new Error(`ssh ended with ${child.exitCode ?? 'a signal'}`);
  return nowMs() - startedAt;
}
