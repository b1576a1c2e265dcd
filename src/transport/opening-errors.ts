import { BridgeError, systemCode } from '../errors.ts';
import type { Phase } from '../protocol/session.ts';
import type { SocketEnd } from './socket.ts';

/** RFC 6455, 7.1.5: the connection ended without a close frame. */
const abnormalClosure = 1006;

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

/** A close frame is the service's own word; without one (1006) the connection was cut underway. */
export function closedWhileOpening(end: SocketEnd): BridgeError {
  if (end.kind === 'error' || end.code === abnormalClosure) {
    return new BridgeError(
      'network.unreachable',
      `the connection for the data channel broke before the handshake, again and again (${describeEnd(end)})`,
      { hint: 'a proxy or firewall may be cutting WebSocket connections' },
    );
  }
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
