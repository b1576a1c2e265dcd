import type { Logger } from '../logger.ts';
import { likelyGateway, likelyInstanceConnect, type Address } from './addresses.ts';
import type { ApiDial } from './agent.ts';
import type { ApiPlace } from './classify.ts';
import { type ClientBase, handlerOptions } from './clients.ts';
import type { ControlPlane } from './control-plane.ts';
import { openCredentials } from './credentials.ts';
import type { InstanceConnect } from './instance-connect.ts';
import { SdkControlPlane } from './sdk-control-plane.ts';
import type { RunCommand } from './send-command.ts';
import { resolveSettings } from './settings.ts';
import { loadTrust } from './trust.ts';

export interface AwsOptions {
  readonly profile?: string | undefined;
  readonly region?: string | undefined;
  /** The environment of the process; the SDK's credential chain reads `process.env` itself. */
  readonly env: NodeJS.ProcessEnv;
  readonly logger: Logger;
  /** Opens connections to API hosts; by default the agent does, directly. */
  readonly dial?: ApiDial | undefined;
}

/** AWS as one command sees it: one region, one identity. */
export interface Aws {
  readonly region: string;
  /** PEM certificates that replace the default roots, for the WebSocket too. */
  readonly ca: readonly string[] | undefined;
  /** Where `ca` comes from. */
  readonly caFile: string | undefined;
  /** The message gateway that StartSession will most likely name; undefined if there is no telling. */
  readonly likelyGateway: Address | undefined;
  /** EC2 Instance Connect, if it can be told without asking the SDK's endpoint rules. */
  readonly likelyInstanceConnect: Address | undefined;
  readonly controlPlane: ControlPlane;
  instanceConnect(): Promise<InstanceConnect>;
  commands(): Promise<RunCommand>;
}

/**
 * Resolves region, endpoints, trust and retry settings; credentials only with the first call. Rejects with
 * usage.config when they contradict each other or the region is missing.
 */
export async function openAws(options: AwsOptions): Promise<Aws> {
  const { env, logger, dial } = options;
  const settings = await resolveSettings(options);
  const ca = settings.caFile === undefined ? undefined : loadTrust(settings.caFile);
  logger.debug(
    {
      region: settings.region,
      profile: settings.profile ?? null,
      hasCustomEndpoint: settings.endpoints.SSM !== undefined,
      caFile: settings.caFile ?? null,
    },
    'AWS settings resolved',
  );
  const handler = (): ReturnType<typeof handlerOptions> => handlerOptions({ ca, dial }, false);
  const credentials = openCredentials(settings, env, handler, logger);
  const base: ClientBase = { settings, credentials, ca, dial, logger };
  const place = (host: string): ApiPlace => ({
    region: settings.region,
    profile: settings.profile,
    host,
    caFile: settings.caFile,
  });
  const ssm = place(apiHost(settings.endpoints.SSM, 'ssm', settings.region));
  return {
    region: settings.region,
    ca,
    caFile: settings.caFile,
    likelyGateway: likelyGateway(settings),
    likelyInstanceConnect: likelyInstanceConnect(settings),
    controlPlane: new SdkControlPlane(base, ssm),
    instanceConnect: async () => {
      const { SdkInstanceConnect } = await import('./instance-connect.ts');
      const endpoint = settings.endpoints['EC2 Instance Connect'];
      const host = apiHost(endpoint, 'ec2-instance-connect', settings.region);
      return new SdkInstanceConnect(base, place(host));
    },
    commands: async () => {
      const { SdkRunCommand } = await import('./send-command.ts');
      return new SdkRunCommand(base, ssm);
    },
  };
}

/** For messages only: near enough to the SDK's endpoint rules to say which service is meant. */
function apiHost(endpoint: string | undefined, service: string, region: string): string {
  if (endpoint !== undefined) return new URL(endpoint).host;
  return `${service}.${region}.amazonaws.com${region.startsWith('cn-') ? '.cn' : ''}`;
}
