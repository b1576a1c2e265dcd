import { pacedTuning } from '../emulator/emulator.ts';
import { startSession, TestClient, type Place } from '../emulator/test-client.ts';
import { nodes, startEmulated, type Emulated } from './emulated.ts';
import { costOf, firstOutput, pause, startBridge, stop, type Cost } from './process.ts';
import { median } from './stats.ts';

export interface Paced {
  /** What the bridge takes, as a part of what the bare client takes. */
  readonly part: number;
  /** Of the bridge, while it relays. */
  readonly cost: Cost;
}

/**
 * What the bridge takes from an agent paced like the real one, as a part of what a bare ws client takes
 * that acknowledges every message at once. Both are connected to the same emulator at the same time,
 * so that whatever holds up the one agent's 1 ms sleeps holds up the other's.
 */
export async function paced(rounds: number, forMs: number): Promise<Paced> {
  const emulated = await startEmulated({ agent: pacedTuning });
  try {
    const measured: Paced[] = [];
    for (let round = 0; round < rounds; round += 1) {
      measured.push(await sideBySide(emulated, forMs));
    }
    const middle = (of: (one: Paced) => number): number => median(measured.map(of));
    return {
      part: middle((one) => one.part),
      cost: {
        cpuMs: middle((one) => one.cost.cpuMs),
        rssBytes: middle((one) => one.cost.rssBytes),
        pssBytes: middle((one) => one.cost.pssBytes),
      },
    };
  } finally {
    emulated.close();
  }
}

async function sideBySide(emulated: Emulated, forMs: number): Promise<Paced> {
  const bridge = startBridge({ env: emulated.env, node: nodes.source });
  const bare = await startBare(emulated);
  try {
    await firstOutput(bridge);
    let bytes = 0;
    bridge.stdout.on('data', (chunk: Buffer) => {
      bytes += chunk.length;
    });
    const before = { bare: bare.receivedBytes, ours: bytes };
    await pause(forMs);
    const part = (bytes - before.ours) / (bare.receivedBytes - before.bare);
    return { part, cost: costOf(bridge.pid) };
  } finally {
    bare.webSocket.terminate();
    await stop(bridge.child);
  }
}

async function startBare(emulated: Emulated): Promise<TestClient> {
  const place: Place = {
    env: emulated.env,
    endpoint: emulated.env['AWS_ENDPOINT_URL_SSM'] ?? '',
    caFile: emulated.env['AWS_CA_BUNDLE'] ?? '',
  };
  const client = new TestClient(place);
  await client.open(await startSession(place, { Target: nodes.source }));
  return client;
}
