/** What the command line means once it is parsed and checked: one shape for each command. */

/** How a public key reaches the node before the login. */
export type PushMethod = 'off' | 'auto' | 'instance-connect' | 'run-command';

/** Which key is pushed (the forms of --key). */
export type KeyChoice =
  | { readonly kind: 'ephemeral' }
  | { readonly kind: 'public'; readonly path: string }
  | { readonly kind: 'agent'; readonly comment: string | undefined }
  | { readonly kind: 'file'; readonly path: string };

export type LogLevel = 'off' | 'warn' | 'info' | 'debug' | 'trace';

/** What every command that talks to AWS takes. */
export interface AwsArgs {
  readonly profile: string | undefined;
  readonly region: string | undefined;
  /** A proxy for the SSM API and the data channel; undefined leaves it to the environment. */
  readonly proxy: string | undefined;
}

export interface LogArgs {
  /** `off` unless asked for. */
  readonly logLevel: LogLevel;
  /** Where log lines are appended; undefined means stderr. */
  readonly logFile: string | undefined;
}

/** What every command that opens a session takes. */
export interface SessionArgs {
  /** Shown by the service beside the session; undefined leaves the wording to us. */
  readonly reason: string | undefined;
  /** The most payload bytes in one message. */
  readonly payloadBytes: number;
  /** When to give up on a session that is not open yet. */
  readonly connectTimeoutMs: number;
  /** How long to keep trying to resume a session whose socket is lost. */
  readonly resumeTimeoutMs: number;
  /** How long the socket may be silent before it is probed. */
  readonly keepaliveMs: number;
}

export interface ConnectArgs extends AwsArgs, LogArgs, SessionArgs {
  readonly command: 'connect';
  /** A node id (i-… or mi-…); with `via`, the host name or address that the node reaches. */
  readonly target: string;
  readonly port: number;
  /** The node through which `target` is reached, when `target` is not a node itself. */
  readonly via: string | undefined;
  readonly pushKey: PushMethod;
  /** The login name the key is pushed for (%r). Always present when pushKey is not `off`. */
  readonly user: string | undefined;
  readonly key: KeyChoice;
  /** Path of the private agent socket for an ephemeral key, when it is not the default one. */
  readonly agentSocket: string | undefined;
  readonly availabilityZone: string | undefined;
}

export interface ForwardSpec {
  /** Local address to listen on; undefined is loopback. */
  readonly bindHost: string | undefined;
  /** 0 lets the system choose. */
  readonly bindPort: number;
  /** Undefined: the node itself. */
  readonly host: string | undefined;
  readonly port: number;
}

export interface ForwardArgs extends AwsArgs, LogArgs, SessionArgs {
  readonly command: 'forward';
  readonly node: string;
  /** At least one. */
  readonly forwards: readonly ForwardSpec[];
  /** Say nothing when the forwards are ready. */
  readonly quiet: boolean;
}

export interface KnownHostsArgs extends AwsArgs, LogArgs {
  readonly command: 'known-hosts';
  /** As ssh gives it (%H): a node id, an alias, or either as [name]:port. */
  readonly host: string;
  /** The node whose keys are wanted (%h); undefined when `host` says it. */
  readonly node: string | undefined;
  /** Why ssh asks (%I): ORDER, HOSTNAME or ADDRESS. */
  readonly lookup: string | undefined;
  /** The key the server presented (%K), base64; NONE while there is none yet. */
  readonly presented: string | undefined;
  /** When to stop waiting for the node's answer. */
  readonly timeoutMs: number;
  /** How long fetched keys are believed before they are fetched again. */
  readonly cacheMs: number;
  /** Replace what is remembered, though the node's keys are others now. */
  readonly acceptChanged: boolean;
}

export interface ConfigArgs {
  readonly command: 'config';
  /** The pattern list of the `Match host` line. */
  readonly host: string;
  /** Name this program by its absolute path. */
  readonly absolute: boolean;
  readonly verifyHostKeys: boolean;
  readonly user: string | undefined;
  readonly pushKey: PushMethod;
  readonly key: KeyChoice;
  /** The options given here that `connect` takes too, as given, in table order, to go into ProxyCommand. */
  readonly passed: readonly PassedOption[];
}

export interface PassedOption {
  readonly name: string;
  readonly value: string;
}

export type CommandArgs = ConnectArgs | ForwardArgs | KnownHostsArgs | ConfigArgs;
