import type { Duplex } from 'node:stream';
import type { PortContext, PortPlugin } from './port.ts';
import { writeTo } from './port.ts';
import { Pump } from './pump.ts';
import { SmuxServer } from './smux.ts';
import { usesSmuxKeepAlive } from './versions.ts';

const CONNECT_TO_PORT_ERROR = 3;

/** Multiplexed forwarding: the payloads of each direction form one smux byte stream. */
export function openMux(context: PortContext, reach: () => Promise<Duplex>): void {
  const { tuning } = context;
  const smux = new SmuxServer({
    dial: reach,
    dialFailed: () => {
      context.sendFlag(CONNECT_TO_PORT_ERROR);
    },
    violation: (text) => {
      context.violation(`smux: ${text}`);
    },
    ...(usesSmuxKeepAlive(context.version, context.clientVersion)
      ? { keepAlive: { intervalMs: tuning.smuxKeepAliveMs, timeoutMs: tuning.smuxTimeoutMs } }
      : {}),
  });
  const pump = new Pump({
    source: smux,
    tuning,
    mayRead: () => context.mayRead(),
    output: (chunk) => {
      context.sendOutput(chunk);
    },
    ended: () => {
      context.finished('remote-closed', '');
    },
  });
  const port: PortPlugin = {
    // A broken smux session takes what comes and does nothing with it.
    write: (payload, done) => (smux.isBroken ? 'accepted' : writeTo(smux, payload, done)),
    disconnect: () => 'accepted',
    refresh: () => {
      pump.refresh();
    },
    close: () => {
      pump.close();
      smux.destroy();
    },
  };
  context.opened('mux', port);
}
