import { pacedTuning } from '../emulator/emulator.ts';
import { startSession, TestClient, type Place } from '../emulator/test-client.ts';
import { nodes, startEmulated, type Emulated } from './emulated.ts';
import { firstOutput, nowMs, pause, startBridge, stop } from './process.ts';
import { median } from './stats.ts';

/**
 * What the bridge takes from an agent paced like the real one, as a part of what a bare ws client takes
 * that acknowledges every message at once. Both are connected to the same emulator at the same time,
 * so that whatever holds up the one agent's 1 ms sleeps holds up the other's.
 */
export async function pacedPart(rounds: number, forMs: number): Promise<number> {
  const emulated = await startEmulated({ agent: pacedTuning });
  try {
    const parts: number[] = [];
    for (let round = 0; round < rounds; round += 1) parts.push(await sideBySide(emulated, forMs));
    return median(parts);
  } finally {
    emulated.close();
  }
}

async function sideBySide(emulated: Emulated, forMs: number): Promise<number> {
  const bridge = startBridge({ env: emulated.env, node: nodes.source });
  const bare = await startBare(emulated);
  try {
    await firstOutput(bridge);
    let bytes = 0;
    bridge.stdout.on('data', (chunk: Buffer) => {
      bytes += chunk.length;
    });
    const [bareBefore, ours] = [bare.receivedBytes, bytes];
    const startedAt = nowMs();
    await pause(forMs);
    const ms = nowMs() - startedAt;
    return (bytes - ours) / ms / ((bare.receivedBytes - bareBefore) / ms);
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
