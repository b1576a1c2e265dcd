import type { Duplex } from 'node:stream';
import { dial, resolveHost } from './dial.ts';
import { openMux } from './port-mux.ts';
import { Pump } from './pump.ts';
import type { AgentTuning, EndCause, NodeOptions, SessionCounters } from './types.ts';
import { atLeast, compareVersions, since } from './versions.ts';

export { isDenied } from './dial.ts';

/** The agent's port plugin, as the data channel sees it. */
export interface PortPlugin {
  /** 'held': `done` is called when the destination has taken the bytes, or broken. */
  write(payload: Buffer, done: (isAccepted: boolean) => void): 'accepted' | 'refused' | 'held';
  /** The DisconnectToPort flag. */
  disconnect(): 'accepted' | 'refused';
  refresh(): void;
  close(): void;
}

export interface PortContext {
  readonly node: NodeOptions;
  readonly version: string;
  readonly clientVersion: string;
  readonly tuning: AgentTuning;
  readonly properties: Readonly<Record<string, string>>;
  readonly counters: SessionCounters;
  sendOutput(chunk: Buffer): void;
  sendFlag(value: number): void;
  mayRead(): boolean;
  opened(mode: 'basic' | 'mux', port: PortPlugin): void;
  finished(cause: EndCause, output: string): void;
  crashed(): void;
  violation(text: string): void;
}

/** Chooses the mode as the agent does, dials, and reports one of opened, finished or crashed. */
export async function openPort(context: PortContext): Promise<void> {
  const { node, properties } = context;
  const port = Number(properties['portNumber']);
  const name = properties['host'];
  let host: string | undefined;
  let realPort = port;
  if (name !== undefined && name !== '') {
    try {
      const address = await resolveHost(node, name, port);
      host = address.host;
      realPort = address.port;
    } catch (error) {
      context.finished('agent-refused', error instanceof Error ? error.message : String(error));
      return;
    }
  }
  const reach = async (): Promise<Duplex> => {
    context.counters.dials += 1;
    try {
      if (context.tuning.dialDelayMs > 0) await sleep(context.tuning.dialDelayMs);
      return await dial(node, host, realPort);
    } catch (error) {
      context.counters.failedDials += 1;
      throw error;
    }
  };
  const isForwarding = properties['type'] === 'LocalPortForwarding';
  const isMux =
    isForwarding &&
    atLeast(context.version, since.mux) &&
    compareVersions(context.clientVersion, '1.1.70') >= 0;
  if (isMux) {
    openMux(context, reach);
    return;
  }
  try {
    const destination = await reach();
    context.opened('basic', new BasicPort(context, destination, isForwarding ? reach : undefined));
  } catch {
    // "Unable to connect to specified port" is prepared, but the worker dies before it can say so.
    context.crashed();
  }
}

/** Raw bytes to one TCP connection; with `redial`, to one after the other. */
class BasicPort implements PortPlugin {
  readonly #context: PortContext;
  readonly #redial: (() => Promise<Duplex>) | undefined;
  #destination: Duplex | undefined;
  #pump: Pump | undefined;
  #isClosed = false;
  #isBroken = false;

  constructor(
    context: PortContext,
    destination: Duplex,
    redial: (() => Promise<Duplex>) | undefined,
  ) {
    this.#context = context;
    this.#redial = redial;
    this.#attach(destination);
  }

  write(payload: Buffer, done: (isAccepted: boolean) => void): 'accepted' | 'refused' | 'held' {
    if (this.#isClosed || this.#isBroken) return 'refused';
    if (this.#destination === undefined) {
      this.#reconnectAndWrite(payload, done);
      return 'held';
    }
    return writeTo(this.#destination, payload, done);
  }

  disconnect(): 'accepted' | 'refused' {
    const destination = this.#destination;
    if (destination === undefined) return 'accepted';
    if (this.#redial === undefined) {
      // The read loop fails with an error that is no EOF: the session ends as Failed, unacknowledged.
      this.#isBroken = true;
      this.#pump?.close();
      destination.destroy();
      this.#context.finished('remote-failed', '');
      return 'refused';
    }
    this.#detach();
    destination.destroy();
    return 'accepted';
  }

  refresh(): void {
    this.#pump?.refresh();
  }

  close(): void {
    this.#isClosed = true;
    this.#pump?.close();
    this.#destination?.destroy();
  }

  #attach(destination: Duplex): void {
    this.#destination = destination;
    this.#pump = new Pump({
      source: destination,
      tuning: this.#context.tuning,
      mayRead: () => this.#context.mayRead(),
      output: (chunk) => {
        this.#context.sendOutput(chunk);
      },
      ended: (error) => {
        this.#ended(error);
      },
    });
  }

  #detach(): void {
    this.#pump?.close();
    this.#pump = undefined;
    this.#destination = undefined;
  }

  #ended(error: Error | undefined): void {
    if (this.#isClosed) return;
    if (this.#redial !== undefined) {
      // Nobody tells the client; the next payload makes a new connection.
      this.#destination?.destroy();
      this.#detach();
    } else if (error === undefined) {
      this.#context.finished('remote-closed', '');
    } else {
      this.#isBroken = true;
      // The worker ends as Failed; no text about it reaches the client.
      this.#context.finished('remote-failed', '');
    }
  }

  #reconnectAndWrite(payload: Buffer, done: (isAccepted: boolean) => void): void {
    if (this.#redial === undefined) return;
    this.#redial().then(
      (destination) => {
        if (this.#isClosed) {
          destination.destroy();
          return;
        }
        this.#attach(destination);
        this.refresh();
        if (writeTo(destination, payload, done) === 'accepted') done(true);
      },
      () => {
        if (!this.#isClosed) this.#context.crashed();
      },
    );
  }
}

/** Writes at once when the kernel takes it at once; else the caller waits, and its reader with it. */
export function writeTo(
  destination: Duplex,
  payload: Buffer,
  done: (isAccepted: boolean) => void,
): 'accepted' | 'refused' | 'held' {
  if (destination.destroyed || destination.writableEnded) return 'refused';
  let outcome: 'accepted' | 'held' = 'held';
  let isSynchronous = true;
  destination.write(payload, (error) => {
    if (isSynchronous) return;
    if (outcome === 'held') done(error === null || error === undefined);
  });
  isSynchronous = false;
  if (destination.writableLength === 0) outcome = 'accepted';
  return outcome;
}

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => {
    setTimeout(resolve, ms);
  });
}
