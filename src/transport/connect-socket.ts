import type { ControlPlane } from '../aws/control-plane.ts';
import { BridgeError } from '../errors.ts';
import type { Clock } from './clock.ts';
import { within } from './deadline.ts';
import type { ChannelSocket, ChannelSocketEvents, OpenSocket } from './socket.ts';

/** Time for DNS, TCP, TLS and the upgrade together. */
const openLimitMs = 15_000;

export interface SocketSupplies {
  readonly controlPlane: Pick<ControlPlane, 'signUpgrade'>;
  readonly openSocket: OpenSocket;
  readonly clock: Clock;
}

/** Signs the upgrade with credentials as they are now, dials and upgrades, within 15 s. */
export function connectSocket(
  supplies: SocketSupplies,
  streamUrl: string,
  events: ChannelSocketEvents,
  signal: AbortSignal,
): Promise<ChannelSocket> {
  const tooSlow = (): BridgeError =>
    new BridgeError(
      'network.timeout',
      `the data channel at ${hostOf(streamUrl)} did not open within ${openLimitMs / 1000} s`,
      { hint: 'a proxy or firewall may be swallowing the WebSocket connection' },
    );
  const open = async (limited: AbortSignal): Promise<ChannelSocket> => {
    const headers = await supplies.controlPlane.signUpgrade(streamUrl, limited);
    return await supplies.openSocket({ url: streamUrl, headers }, events, limited);
  };
  const discard = (late: ChannelSocket): void => {
    late.destroy();
  };
  return within(signal, openLimitMs, supplies.clock, tooSlow, open, discard);
}

/** The part of a stream URL that may be shown: its query can carry secrets. */
export function hostOf(url: string): string {
  return new URL(url).host;
}
