import { randomBytes, randomUUID } from 'node:crypto';
import { hostname } from 'node:os';
import { classifyUpgradeFailure } from '../aws/classify-upgrade.ts';
import { openAws, type Aws } from '../aws/context.ts';
import type { SessionGrant, StartSessionRequest } from '../aws/control-plane.ts';
import { BridgeError } from '../errors.ts';
import type { Logger } from '../logger.ts';
import {
  DEFAULT_CLIENT_VERSION,
  DEFAULT_MAX_IN_FLIGHT_BYTES,
  DEFAULT_MAX_IN_FLIGHT_MESSAGES,
  DEFAULT_MESSAGES_PER_SECOND,
} from '../protocol/constants.ts';
import { systemClock } from '../transport/clock.ts';
import type { ChannelConsumer, PayloadSource } from '../transport/channel.ts';
import { DataChannel } from '../transport/data-channel.ts';
import { within } from '../transport/deadline.ts';
import { AheadDialer } from '../transport/ahead.ts';
import { makeDial } from '../transport/dial.ts';
import { terminateByCall } from '../transport/terminate-call.ts';
import { wsSocketOpener } from '../transport/ws-socket.ts';
import type { AwsArgs, SessionArgs } from './args.ts';
import type { CommandIo } from './io.ts';
import { proxiedDial } from './proxied-dial.ts';
import { version } from './version.ts';

/** AWS, and the way to it, as the commands that open sessions use them. */
export interface Connection {
  readonly aws: Aws;
  /** Connections begun before they are needed. To be closed when no more are. */
  readonly ahead: AheadDialer;
  readonly args: SessionArgs;
  readonly logger: Logger;
}

export async function openConnection(
  args: AwsArgs & SessionArgs,
  io: Pick<CommandIo, 'env' | 'logger'>,
  pushesKey = false,
): Promise<Connection> {
  const { profile, region } = args;
  const proxied = await proxiedDial(args.proxy, io.env);
  const ahead = new AheadDialer(proxied ?? makeDial());
  // The API to push a key by is dialled ahead too; StartSession's own dial is as early as can be.
  const dial = pushesKey ? ahead.dial : proxied;
  const aws = await openAws({ profile, region, env: io.env, logger: io.logger, dial });
  return { aws, ahead, args, logger: io.logger };
}

/**
 * Starts a session within the time that is left until `openBy` (monotonic ms). Once `left` has aborted, it
 * is waited for only if the request is on its way.
 */
export async function startSession(
  connection: Connection,
  target: string,
  document: Pick<StartSessionRequest, 'documentName' | 'parameters'>,
  openBy: number,
  left: AbortSignal,
): Promise<SessionGrant> {
  const tooSlow = (): BridgeError =>
    new BridgeError('network.timeout', 'StartSession did not answer in time', {
      hint: 'check the network and proxy to the SSM endpoint, or raise --connect-timeout',
    });
  const { aws, ahead, args, logger } = connection;
  const never = new AbortController().signal;
  const leftMs = Math.max(0, openBy - systemClock.now());
  const start = (signal: AbortSignal): Promise<SessionGrant> =>
    aws.controlPlane.startSession(
      { ...document, target, reason: reason(args.reason) },
      signal,
      left,
    );
  const discard = (late: SessionGrant): void => {
    const supplies = { controlPlane: aws.controlPlane, clock: systemClock, logger };
    void terminateByCall(supplies, late.sessionId);
  };
  const starting = within(never, leftMs, systemClock, tooSlow, start, discard);
  // After the call, so that its own connection is dialled first.
  setImmediate(() => {
    if (aws.likelyGateway !== undefined) ahead.begin({ ...aws.likelyGateway, ca: aws.ca });
  });
  const grant = await starting;
  logger.info({ sessionId: grant.sessionId, target }, 'session started');
  return grant;
}

export interface ChannelRequest {
  readonly grant: SessionGrant;
  readonly source: PayloadSource;
  readonly consumer: ChannelConsumer;
  /** When to give up opening the channel, monotonic ms. */
  readonly openBy: number;
}

/** A data channel with the settings of the command line; not started yet. */
export function openChannel(connection: Connection, request: ChannelRequest): DataChannel {
  const { aws, ahead, args, logger } = connection;
  return new DataChannel({
    ...request,
    session: {
      clientId: randomUUID(),
      clientVersion: DEFAULT_CLIENT_VERSION,
      maxPayloadBytes: args.payloadBytes,
      maxInFlightBytes: DEFAULT_MAX_IN_FLIGHT_BYTES,
      maxInFlightMessages: DEFAULT_MAX_IN_FLIGHT_MESSAGES,
      messagesPerSecond: DEFAULT_MESSAGES_PER_SECOND,
      randomBytes,
    },
    controlPlane: aws.controlPlane,
    openSocket: wsSocketOpener({
      dial: ahead.dial,
      ca: aws.ca,
      classifyRefusal: (statusCode, headers, host) =>
        classifyUpgradeFailure({ statusCode, headers, host }),
    }),
    clock: systemClock,
    logger,
    random: Math.random,
    newRequestId: randomUUID,
    resumeTimeoutMs: args.resumeTimeoutMs,
    keepaliveMs: args.keepaliveMs,
  });
}

/** Names us beside the session, so that an operator who sees it knows where it comes from. */
function reason(given: string | undefined): string {
  const ours = `ssm-bridge ${version} pid ${process.pid} on ${hostname()}`;
  // 256 characters is the service's limit (SSM API, StartSession, Reason).
  return (given === undefined ? ours : `${given} (${ours})`).slice(0, 256);
}
