/**
 * The client's half of the handshake: what to answer to a HandshakeRequest, and what the answer
 * means for the session. A request for anything but one Port session is answered (the agent then
 * ends the session at once instead of after its timeout) and reported as an error.
 */
import { BridgeError } from '../errors.ts';
import {
  dropsEarlyData,
  ignoresDuplicates,
  isVersion,
  needsSmuxKeepAlive,
  usesMux,
} from './agent-version.ts';
import { ACTION_STATUS, BASIC_MODE_CLIENT_VERSION } from './constants.ts';
import {
  handshakeResponse,
  propertiesOf,
  shownName,
  type HandshakeRequest,
  type ProcessedAction,
} from './payloads.ts';

export interface OpenedSession {
  readonly mode: 'basic' | 'mux';
  readonly agentVersion: string;
  readonly properties: Record<string, string>;
  /** The version the HandshakeResponse named. */
  readonly announcedVersion: string;
  /** Whether the agent ends the session unless smux NOPs keep coming. */
  readonly smuxKeepAlive: boolean;
  /** Whether data sent before the agent has connected to the port is lost. */
  readonly dropsEarlyData: boolean;
  /** Whether the agent never acknowledges what it has processed before. */
  readonly ignoresDuplicates: boolean;
}

export interface HandshakeAnswer {
  readonly response: Uint8Array;
  readonly outcome: OpenedSession | BridgeError;
}

export interface HandshakeOptions {
  readonly clientVersion: string;
  readonly forceBasicMode: boolean;
}

const OLD_AGENT_HINT =
  'agents older than 2.3.672.0 cannot forward ports: update the SSM Agent on the node';
export const SHELL_HINT = `use a session document of type Port, such as AWS-StartSSHSession; ${OLD_AGENT_HINT}`;

export function answerHandshake(
  request: HandshakeRequest,
  options: HandshakeOptions,
): HandshakeAnswer {
  const announcedVersion = options.forceBasicMode
    ? BASIC_MODE_CLIENT_VERSION
    : options.clientVersion;
  const processed: ProcessedAction[] = [];
  let refusal: BridgeError | undefined;
  let properties: Record<string, string> | undefined;
  for (const { actionType, parameters } of request.actions) {
    const error = refusalOf(actionType, parameters['SessionType']);
    if (error === undefined) properties = propertiesOf(parameters['Properties']);
    refusal ??= error;
    processed.push({
      actionType,
      status: statusOf(actionType, error),
      error: error?.message ?? '',
    });
  }
  const response = handshakeResponse(announcedVersion, processed);
  return { response, outcome: refusal ?? open(request.agentVersion, properties, announcedVersion) };
}

function open(
  agentVersion: string,
  properties: Record<string, string> | undefined,
  announcedVersion: string,
): OpenedSession | BridgeError {
  if (properties === undefined) {
    return new BridgeError('protocol.handshake', 'the agent named no session type', {
      hint: OLD_AGENT_HINT,
    });
  }
  const isForwarding = properties['type'] === 'LocalPortForwarding';
  const isComparable = isVersion(agentVersion);
  if (isForwarding && !isComparable) {
    // Guessing would risk a session in which each side speaks another format.
    return new BridgeError(
      'protocol.handshake',
      `the agent's version ${shownName(agentVersion)} does not say which forwarding mode it uses`,
      { hint: 'use an SSH session document, such as AWS-StartSSHSession' },
    );
  }
  const isMux = isForwarding && usesMux(agentVersion, announcedVersion);
  return {
    mode: isMux ? 'mux' : 'basic',
    agentVersion,
    properties,
    announcedVersion,
    smuxKeepAlive: isMux && needsSmuxKeepAlive(agentVersion, announcedVersion),
    dropsEarlyData: !isMux && isComparable && dropsEarlyData(agentVersion),
    ignoresDuplicates: isComparable && ignoresDuplicates(agentVersion),
  };
}

function refusalOf(actionType: string, sessionType: unknown): BridgeError | undefined {
  switch (actionType) {
    case 'SessionType': {
      if (sessionType === 'Port') return undefined;
      const name = shownName(typeof sessionType === 'string' ? sessionType : '');
      return new BridgeError(
        'protocol.wrong-session',
        `the session is of type ${name}, not of type Port`,
        { hint: SHELL_HINT },
      );
    }
    case 'KMSEncryption':
      return new BridgeError(
        'protocol.handshake',
        'the agent asks for KMS encryption, which sessions of type Port do not use',
        { hint: 'use a session document of type Port without a KMS key' },
      );
    default:
      return new BridgeError(
        'protocol.handshake',
        `the agent asks for ${shownName(actionType)}, which this version does not know`,
        { hint: 'look for a newer version of ssm-bridge' },
      );
  }
}

function statusOf(actionType: string, error: BridgeError | undefined): number {
  if (error === undefined) return ACTION_STATUS.success;
  return actionType === 'KMSEncryption' ? ACTION_STATUS.failed : ACTION_STATUS.unsupported;
}
