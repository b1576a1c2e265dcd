import { BridgeError } from '../errors.ts';
import type { Phase } from '../protocol/session.ts';
import { systemCode } from './network-error.ts';
import type { SocketEnd } from './socket.ts';

/** Why a channel that is not open when its time is up is not open. */
export function openingTooSlow(phase: Phase, isConnected: boolean): BridgeError {
  if (!isConnected) {
    return new BridgeError('network.timeout', 'the data channel could not be opened in time', {
      hint: 'check the network and proxy, or raise --connect-timeout',
    });
  }
  return new BridgeError(
    'protocol.handshake',
    phase === 'awaiting-request'
      ? 'the agent did not begin the handshake in time'
      : 'the agent did not complete the handshake in time',
    { hint: 'the node may be overloaded or its SSM Agent stuck; try again or restart the agent' },
  );
}

export function closedWhileOpening(end: SocketEnd): BridgeError {
  return new BridgeError(
    'access.websocket',
    `the service closed the data channel before the handshake (${describeEnd(end)})`,
    { hint: 'check that ssmmessages:OpenDataChannel is allowed and that the clock is right' },
  );
}

/** For people: how a socket ended. */
export function describeEnd(end: SocketEnd): string {
  if (end.kind === 'error') return systemCode(end.error.cause) ?? end.error.message;
  return end.reason === '' ? `close code ${end.code}` : `close code ${end.code}, ${end.reason}`;
}
