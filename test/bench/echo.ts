import { nodes } from './emulated.ts';
import { firstOutput, startBridge, stop, within, type Bridge } from './process.ts';

/** A bridge to a server that gives back what it gets. */
export class Echo {
  readonly #bridge: Bridge;
  readonly pid: number;

  private constructor(bridge: Bridge) {
    this.#bridge = bridge;
    this.pid = bridge.pid;
  }

  static async start(env: Readonly<Record<string, string>>): Promise<Echo> {
    const bridge = startBridge({ env, node: nodes.echo });
    await firstOutput(bridge);
    return new Echo(bridge);
  }

  /** Milliseconds for one byte there and back; undefined when it did not come back. */
  async echo(): Promise<number | undefined> {
    const { stdin, stdout } = this.#bridge;
    const startedAt = performance.now();
    const back = new Promise((resolve) => stdout.once('data', resolve));
    stdin.write('k');
    try {
      await within(back, 5_000, 'an echo');
      return performance.now() - startedAt;
    } catch {
      return undefined;
    }
  }

  stop(): Promise<void> {
    return stop(this.#bridge.child);
  }
}
