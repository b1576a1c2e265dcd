import { isatty } from 'node:tty';
import { BridgeError } from '../../errors.ts';
import { relay, type Endpoint, type LocalSide, type Outcome } from '../../relay/relay.ts';
import { RemoteWatch } from '../../relay/remote-watch.ts';
import type { KeyPush } from '../../ssh/key-push.ts';
import { systemClock } from '../../transport/clock.ts';
import type { ChannelConsumer, ChannelEnd, PayloadSource } from '../../transport/channel.ts';
import type { ConnectArgs } from '../args.ts';
import type { CommandIo } from '../io.ts';
import { openChannel, openConnection, startSession, type Connection } from '../session.ts';
import { closeStderr } from '../stderr.ts';

/** The document for sshd on the node itself: raw bytes, one TCP connection, any port. */
const sshDocument = 'AWS-StartSSHSession';

/** Relays standard input and output to a port of a managed node; gives the exit status. */
export function run(args: ConnectArgs, io: CommandIo): Promise<number> {
  const clock = systemClock;
  // performance.now() counts from the start of the process, and so does this deadline.
  const openBy = args.connectTimeoutMs;
  let hasReceived = false;
  let keyPush: KeyPush | undefined;

  const open = async (local: LocalSide): Promise<Endpoint> => {
    const watch = new RemoteWatch({
      clock,
      firstByteBy: openBy,
      place:
        args.via === undefined
          ? `port ${args.port} of the node`
          : `${args.target}:${args.port} from the node`,
      notice: io.notice,
      onFailed: local.fail,
    });
    const consumer: ChannelConsumer = {
      opened: () => {
        watch.opened();
        io.started();
      },
      deliver: (payload) => {
        hasReceived = true;
        watch.delivered(payload);
        local.deliver(payload);
      },
      flag: () => {
        // ConnectToPortError is for multiplexed sessions; the endpoint for those handles it.
      },
      publication: (isPaused) => {
        watch.publication(isPaused);
      },
      notice: io.notice,
    };
    const connecting = openConnection(args, io, args.pushKey !== 'off');
    connecting.catch(() => {
      // Awaited below; a key that cannot be pushed is reported first.
    });
    keyPush = await pushKey(args, io, connecting);
    void keyPush?.failed.then(local.fail);
    const connection = await connecting;
    try {
      const source = keyPush?.wrapSource(local.source, local.ready) ?? local.source;
      const opening = openEndpoint(args, connection, source, consumer, openBy, local.left);
      keyPush?.warm();
      const endpoint = await opening;
      void endpoint.ended.then(() => {
        watch.dispose();
        connection.ahead.close();
      });
      return endpoint;
    } catch (error) {
      connection.ahead.close();
      throw error;
    }
  };

  return relay({
    clock,
    inputBufferBytes: args.payloadBytes,
    isTerminal: isatty(0),
    open,
    conclude: (outcome) => conclude(outcome, hasReceived, io),
    tidyUp: async () => {
      await keyPush?.close();
    },
    closeStderr,
    unfinished: io.unfinished,
    fatal: io.fatal,
  });
}

/** The mechanism of --push-key, loaded only when it is asked for. */
async function pushKey(
  args: ConnectArgs,
  io: CommandIo,
  connecting: Promise<Connection>,
): Promise<KeyPush | undefined> {
  if (args.pushKey === 'off' || args.user === undefined) return undefined;
  const { openKeyPush } = await import('../../ssh/key-push.ts');
  return openKeyPush({
    pushKey: args.pushKey,
    key: args.key,
    user: args.user,
    node: args.target,
    target: args.target,
    port: args.port,
    agentSocket: args.agentSocket,
    availabilityZone: args.availabilityZone,
    identity: `${args.profile ?? ''} ${args.region ?? ''}`,
    apis: async () => {
      const { aws, ahead } = await connecting;
      const address = aws.likelyInstanceConnect;
      const isPushedThere = args.pushKey !== 'run-command' && args.target.startsWith('i-');
      if (isPushedThere && address !== undefined) ahead.begin({ ...address, ca: aws.ca });
      return aws;
    },
    env: io.env,
    logger: io.logger,
    notice: io.notice,
  });
}

async function openEndpoint(
  args: ConnectArgs,
  connection: Connection,
  source: PayloadSource,
  consumer: ChannelConsumer,
  openBy: number,
  left: AbortSignal,
): Promise<Endpoint> {
  if (args.via === undefined) {
    const document = { documentName: sshDocument, parameters: { portNumber: [String(args.port)] } };
    const grant = await startSession(connection, args.target, document, openBy, left);
    return openChannel(connection, { grant, source, consumer, openBy });
  }
  const { createViaEndpoint, viaSession } = await import('../../forward/via.ts');
  const document = viaSession(args.target, args.port);
  const grant = await startSession(connection, args.via, document, openBy, left);
  return createViaEndpoint({
    source,
    consumer,
    destination: `${args.target}:${args.port}`,
    node: args.via,
    clock: systemClock,
    openChannel: (muxed, muxConsumer) =>
      openChannel(connection, { grant, source: muxed, consumer: muxConsumer, openBy }),
  });
}

function conclude(outcome: Outcome, hasReceived: boolean, io: CommandIo): number {
  switch (outcome.kind) {
    case 'departed':
      return outcome.departure.kind === 'left' ? 0 : signalStatus[outcome.departure.name];
    case 'failed':
      // What aborts io.fatal has reported it, and set the exit status.
      return io.fatal.aborted ? 1 : io.fail(outcome.error);
    case 'ended': {
      const error = endError(outcome.end, hasReceived);
      return error === undefined ? 0 : io.fail(error);
    }
  }
}

/** As a shell reports a death by signal. */
const signalStatus = { SIGHUP: 129, SIGINT: 130, SIGTERM: 143 } as const;

function endError(end: ChannelEnd, hasReceived: boolean): BridgeError | undefined {
  switch (end.kind) {
    case 'terminated':
      return undefined;
    case 'failed':
      return end.error;
    case 'remote-closed':
      if (end.isIncomplete) {
        return new BridgeError(
          'remote.truncated',
          `the session ended while messages were missing: the last bytes are lost${saying(end.output)}`,
          { hint: 'what was being copied is incomplete; run it again' },
        );
      }
      if (end.output !== '') {
        return new BridgeError(
          'remote.closed',
          `the session was ended remotely${saying(end.output)}`,
        );
      }
      if (!hasReceived) {
        return new BridgeError(
          'remote.closed',
          'the connection was closed before a single byte came',
          {
            hint: 'check sshd on the node: its log, MaxStartups and PerSourcePenalties',
          },
        );
      }
      return undefined;
  }
}

/** The service decorates failures with lines of dashes (`----------ERROR-------`). */
function saying(output: string): string {
  const text = output.replace(/-{3,}(ERROR)?-*/g, ' ').trim();
  return text === '' ? '' : `: ${text}`;
}
