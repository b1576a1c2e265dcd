import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Api } from './api.ts';
import { certificates } from './certs.ts';
import { startDelayProxy, type DelayProxy } from './delay-proxy.ts';
import { FaultBoard } from './faults.ts';
import { Front } from './front.ts';
import { Gateway } from './gateway.ts';
import { instanceConnectOperations } from './instance-connect.ts';
import { KeyStore } from './key-store.ts';
import { seededRandom } from './random.ts';
import { RunCommands } from './run-command.ts';
import { defaultTuning, pacedTuning, type Service, type Settings } from './service.ts';
import type { Session } from './session.ts';
import { sessionOperations } from './ssm.ts';
import type {
  ApiCallRecord,
  Credentials,
  Emulator,
  EmulatorOptions,
  NodeOptions,
} from './types.ts';
import { compareVersions } from './versions.ts';
import { Waiters } from './waiters.ts';

export * from './types.ts';
export { defaultTuning, pacedTuning };

export const defaultCredentials: Credentials = {
  accessKeyId: 'ASIAEMULATOR00000001',
  secretAccessKey: 'emulator/secret+key/that/opens/nothing00',
  sessionToken: 'emulator-session-token/+==',
};

const defaults: Settings = {
  region: 'eu-central-1',
  agentStart: 'open',
  requireSignature: true,
  presignedUrls: false,
  tokenLifetimeMs: 60_000,
  idleTimeoutMs: 20 * 60_000,
  maxDurationMs: 0,
  maxSkewMs: 5 * 60_000,
  resumeUrl: 'other',
  resumeGone: 'does-not-exist',
  startPublication: true,
  messageRateLimit: 1000,
  maxPayloadBytes: 0,
  ackDeadlineMs: 0,
  gapDeadlineMs: 20_000,
  rttMs: 0,
  minimumClientVersion: '',
  keyPushLimit: 0,
  invocationDelayMs: 30,
};

const DEFAULT_AGENT_VERSION = '3.3.2299.0';

/** Starts the whole service on loopback: APIs, message gateway and agents. */
export async function startEmulator(options: EmulatorOptions): Promise<Emulator> {
  const made = await certificates();
  const directory = await mkdtemp(join(tmpdir(), 'ssm-emulator-'));
  const caFile = join(directory, 'ca.pem');
  await writeFile(caFile, made.ca);

  const sessions = new Map<string, Session>();
  const apiCalls: ApiCallRecord[] = [];
  const waiters = new Waiters();
  let ahead = 0;
  const keyStore = new KeyStore(join(directory, 'keys'));
  const board = new FaultBoard((sessionId) => {
    for (const session of sessions.values()) {
      if (sessionId === undefined || session.id === sessionId) session.faultsChanged();
    }
  });
  const settings: Settings = { ...defaults, ...definedOnly(options) };
  const service: Service = {
    settings,
    clock: {
      now: () => Date.now() + ahead,
      advance: (ms) => {
        ahead += ms;
        keyStore.setClock(ahead);
        waiters.changed();
      },
    },
    random: seededRandom(options.seed ?? 1),
    board,
    nodes: new Map(options.nodes.map((node) => [node.id, node])),
    sessions,
    apiCalls,
    upgrades: [],
    credentials: options.credentials ?? [defaultCredentials],
    gateways: { main: '', other: '' },
    agentOf: (node) => ({
      version: node.agentVersion ?? DEFAULT_AGENT_VERSION,
      tuning: { ...defaultTuning, ...options.agent, ...node.agent },
    }),
    acceptsVersion: (version) =>
      settings.minimumClientVersion === '' ||
      compareVersions(version ?? '', settings.minimumClientVersion) >= 0,
    changed: () => {
      waiters.changed();
    },
    log: options.log ?? (() => undefined),
  };

  const runCommands = new RunCommands(service, join(directory, 'commands'));
  const api = new Api(service, [
    {
      targetPrefix: 'AmazonSSM',
      signingName: 'ssm',
      actionPrefix: 'ssm',
      operations: { ...sessionOperations(service), ...runCommands.operations },
    },
    {
      targetPrefix: 'AWSEC2InstanceConnectService',
      signingName: 'ec2-instance-connect',
      actionPrefix: 'ec2-instance-connect',
      operations: instanceConnectOperations(service, keyStore),
    },
  ]);
  const gateway = new Gateway(service);
  const front = (): Front =>
    new Front({
      certificates: made,
      board,
      request: (request, response) => {
        api.handle(request, response);
      },
      upgrade: (request, stream, head, tcp) => {
        gateway.upgrade(request, stream, head, tcp);
      },
    });
  const fronts = [front(), front()] as const;
  const proxies: DelayProxy[] = [];
  const ports: number[] = [];
  for (const each of fronts) {
    await each.listen();
    if (settings.rttMs > 0) {
      const proxy = await startDelayProxy({ port: each.port, rttMs: settings.rttMs });
      proxies.push(proxy);
      ports.push(proxy.port);
    } else {
      ports.push(each.port);
    }
  }
  const [port = 0, otherPort = 0] = ports;
  service.gateways.main = `localhost:${port}`;
  service.gateways.other = `127.0.0.1:${otherPort}`;
  const endpoint = `https://localhost:${port}`;

  return {
    endpoint,
    port,
    caFile,
    directory,
    get env() {
      return environment(endpoint, caFile, settings.region, service.credentials[0]);
    },
    clock: service.clock,
    get sessions() {
      return [...sessions.values()];
    },
    apiCalls,
    upgrades: service.upgrades,
    faults: board,
    keys: keyStore.keys,
    commands: runCommands.commands,
    authorizedKeysCommand: (instanceId) => keyStore.command(instanceId),
    removeKeys: (instanceId) => {
      keyStore.remove(instanceId);
    },
    openSessionCount: () =>
      [...sessions.values()].filter((session) => session.state === 'open').length,
    violations: () =>
      [...sessions.values()].flatMap((session) =>
        session.violations.map((text) => `${session.id}: ${text}`),
      ),
    node: (id) => {
      const node = service.nodes.get(id);
      if (node === undefined) throw new Error(`no node ${id}`);
      return node;
    },
    setNode: (node: NodeOptions) => {
      service.nodes.set(node.id, node);
    },
    setCredentials: (credentials) => {
      service.credentials = credentials;
    },
    waitFor: (condition, what, deadlineMs = 10_000) => waiters.wait(condition, what, deadlineMs),
    close: async () => {
      for (const session of sessions.values()) session.dispose();
      gateway.close();
      api.close();
      runCommands.close();
      waiters.close();
      await Promise.all(proxies.map((proxy) => proxy.close()));
      await Promise.all(fronts.map((each) => each.close()));
      await rm(directory, { recursive: true, force: true });
    },
  };
}

/** Everything the AWS SDKs need to find the emulator, and nothing from the machine's own setup. */
function environment(
  endpoint: string,
  caFile: string,
  region: string,
  credentials: Credentials | undefined,
): Record<string, string> {
  return {
    AWS_ENDPOINT_URL_SSM: endpoint,
    // Another host, as it is at AWS: connections to one must not be taken for the other.
    AWS_ENDPOINT_URL_EC2_INSTANCE_CONNECT: endpoint.replace('localhost', '127.0.0.1'),
    AWS_CA_BUNDLE: caFile,
    AWS_REGION: region,
    AWS_EC2_METADATA_DISABLED: 'true',
    ...(credentials === undefined
      ? {}
      : {
          AWS_ACCESS_KEY_ID: credentials.accessKeyId,
          AWS_SECRET_ACCESS_KEY: credentials.secretAccessKey,
          ...(credentials.sessionToken === undefined
            ? {}
            : { AWS_SESSION_TOKEN: credentials.sessionToken }),
        }),
  };
}

/** Options given as undefined do not override a default. */
function definedOnly(options: EmulatorOptions): Partial<Settings> {
  return Object.fromEntries(
    Object.entries(options).filter(([name, value]) => name in defaults && value !== undefined),
  );
}
