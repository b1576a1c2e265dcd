import { spawn, type ChildProcess } from 'node:child_process';
import { startService, type Peer } from './peer.ts';
import { benchNode, cleanEnvironment, exited, nowMs, pause, startBridge } from './process.ts';
import { stop, unlessItEnds } from './process.ts';
import { profileArguments } from './profile.ts';
import { findAws, pathWithPlugin } from './programs.ts';
import { atMost, format, row, times, type SectionSettings } from './rows.ts';
import { median, medianRatio, type Row } from './stats.ts';

/** From exec to the StartSession request at the service; the empty node from exec to exit. All ms. */
interface ConnectTimes {
  readonly emptyNode: number[];
  /** The same, with what TLS takes before a connection can be begun. */
  readonly nodeWithTls: number[];
  readonly bridge: number[];
  readonly bridgeWithoutCache: number[];
  /** Empty when there is no `aws`. */
  readonly aws: number[];
}

export async function connect({ rounds, profile }: SectionSettings): Promise<Row[]> {
  const measured = await connectTimes(Math.max(rounds, 11), profileArguments(profile));
  const { emptyNode, nodeWithTls, bridge, bridgeWithoutCache, aws } = measured;
  const name = 'connect';
  const timeRow = (what: string, values: readonly number[]): Row => {
    const [middle, least] = [median(values), Math.min(...values)];
    return row(name, what, middle, `${format(middle, 0)} ms (min ${format(least, 0)})`);
  };
  const toNode = medianRatio(bridge, emptyNode);
  const tls = medianRatio(nodeWithTls, emptyNode);
  const uncached = medianRatio(bridgeWithoutCache, emptyNode);
  const rows = [
    timeRow('`node -e 0`, exec to exit', emptyNode),
    timeRow('… that loads https and makes a TLS context', nodeWithTls),
    row(name, '… as a multiple of `node -e 0`', tls, `${format(tls, 2)}x`),
    timeRow('ssm-bridge, exec to StartSession, TLS', bridge),
    times(name, '… as a multiple of `node -e 0`', toNode, atMost(3.5, toNode, 'x')),
    row(name, '… without the code cache', uncached, `${format(uncached, 2)}x`),
  ];
  if (aws.length === 0) {
    return [...rows, row(name, 'aws ssm start-session', Number.NaN, 'not installed here')];
  }
  const toAws = medianRatio(bridge, aws);
  const tlsToAws = medianRatio(nodeWithTls, aws);
  return [
    ...rows,
    timeRow('`aws ssm start-session`, the same', aws),
    times(name, 'ssm-bridge as a part of `aws`', toAws, atMost(0.2, toAws, 'x')),
    row(name, 'Node with a TLS context as a part of `aws`', tlsToAws, `${format(tlsToAws, 2)}x`),
  ];
}

/** All candidates in every round, one after the other, so that a busy moment hits them alike. */
async function connectTimes(rounds: number, profile: readonly string[]): Promise<ConnectTimes> {
  const peer = await startService({ downloadBytes: 0, isBare: false });
  const aws = findAws();
  const plugin = pathWithPlugin();
  const measured: ConnectTimes = {
    emptyNode: [],
    nodeWithTls: [],
    bridge: [],
    bridgeWithoutCache: [],
    aws: [],
  };
  const bridge = () => startBridge({ env: peer.env }).child;
  const profiled = () => startBridge({ env: peer.env, nodeArgs: profile }).child;
  const uncached = () => startBridge({ env: { ...peer.env, SSM_BRIDGE_NO_CODE_CACHE: '1' } }).child;
  try {
    // Until the code cache is written: a second after the session is up.
    await toRequest(peer, bridge, 1_500);
    if (profile.length > 0) {
      // The first run writes the cache that belongs to these options.
      await toRequest(peer, profiled, 1_500);
      await toRequest(peer, profiled);
    }
    for (let round = 0; round < rounds; round += 1) {
      measured.emptyNode.push(await nodeMs('0'));
      measured.nodeWithTls.push(await nodeMs(makeTlsContext));
      measured.bridge.push(await toRequest(peer, bridge));
      measured.bridgeWithoutCache.push(await toRequest(peer, uncached));
      if (aws === undefined) continue;
      measured.aws.push(await toRequest(peer, () => spawnAws(aws, peer.env, plugin.path)));
    }
  } finally {
    peer.close();
    plugin.remove();
  }
  return measured;
}

const makeTlsContext = "require('node:https'); require('node:tls').createSecureContext()";

async function nodeMs(script: string): Promise<number> {
  const startedAt = nowMs();
  await exited(spawn(process.execPath, ['-e', script], { env: cleanEnvironment({}) }));
  return nowMs() - startedAt;
}

/** Milliseconds until StartSession arrives; the program is left alone for a little longer. */
async function toRequest(peer: Peer, start: () => ChildProcess, runMs = 200): Promise<number> {
  peer.reset();
  const startedAt = nowMs();
  const child = start();
  child.stdin?.on('error', () => undefined);
  child.stdout?.resume();
  const { at } = await unlessItEnds(child, peer.next('start-session'));
  await pause(runMs);
  await stop(child);
  return at - startedAt;
}

function spawnAws(aws: string, env: Readonly<Record<string, string>>, path: string): ChildProcess {
  const args = ['ssm', 'start-session', '--target', benchNode];
  const document = ['--document-name', 'AWS-StartSSHSession', '--parameters', 'portNumber=22'];
  return spawn(aws, [...args, ...document], {
    // Its first version knows the region by another name.
    env: { ...cleanEnvironment({ ...env, AWS_DEFAULT_REGION: 'eu-central-1' }), PATH: path },
    stdio: ['pipe', 'pipe', 'ignore'],
  });
}
