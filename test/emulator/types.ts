import type { Duplex } from 'node:stream';
import type { DirectionFaults, FaultControl, Faults } from './faults.ts';

export interface Address {
  readonly host: string;
  readonly port: number;
}

/** How the agent of a node deals with a request for a Port session. */
export type AgentBehaviour =
  | 'port'
  /** An agent from before the handshake: shell output at once, no HandshakeRequest. */
  | 'shell'
  /** Handshakes, but for an interactive shell. */
  | 'shell-handshake'
  /** channel_closed saying that plugin Port is not supported. */
  | 'no-port-plugin'
  /** Never says anything. */
  | 'silent';

export interface AgentTuning {
  /** Bytes read from the port at a time; the real agent reads 1024. */
  readonly readSize: number;
  /** Pause after each read; the real agent sleeps 1 ms. 0 = unpaced. */
  readonly readPauseMs: number;
  /** 'oldest' is the real agent; 'all' resends everything overdue, for unpaced runs. */
  readonly resend: 'oldest' | 'all';
  readonly resendScanMs: number;
  readonly outgoingLimit: number;
  readonly incomingLimit: number;
  /** The agent's writes block once this many bytes wait for the client's socket. */
  readonly writeLimitBytes: number;
  readonly handshakeTimeoutMs: number;
  readonly handshakeRequestDelayMs: number;
  readonly handshakeCompleteDelayMs: number;
  /** HandshakeRequest goes out this many times, with the same sequence number. */
  readonly handshakeRequestCopies: number;
  readonly customerMessage: string;
  readonly dialDelayMs: number;
  readonly drainMs: number;
  /** From the worker's crash to the service's channel_closed. */
  readonly crashReportMs: number;
  readonly smuxKeepAliveMs: number;
  readonly smuxTimeoutMs: number;
}

export interface RunCommandOptions {
  readonly env?: Readonly<Record<string, string>>;
  readonly cwd?: string;
  /** Argument vector put before `sh`, e.g. `['unshare', '-r', …]`. */
  readonly wrap?: readonly string[];
  readonly offline?: boolean;
  readonly denied?: boolean;
  /** How long the command stays Pending before it starts. */
  readonly startDelayMs?: number;
  /** Offline: when the command ends as Delivery Timed Out; default the TimeoutSeconds asked for. */
  readonly deliveryTimeoutMs?: number;
}

export interface NodeOptions {
  readonly id: string;
  readonly online?: boolean;
  readonly agentVersion?: string;
  /** Requested port number -> where the agent really dials. */
  readonly ports?: Readonly<Record<number, Address>>;
  /** Names, or `name:port`, that this node resolves, for the remote-host document. */
  readonly hosts?: Readonly<Record<string, string | Address>>;
  /** Replaces dialling altogether. `host` is `localhost` unless the session names one. */
  readonly dial?: (host: string, port: number) => Promise<Duplex>;
  readonly behaviour?: AgentBehaviour;
  /** Asks for KMS encryption in the handshake, which a Port session never should. */
  readonly kms?: boolean;
  readonly agent?: Partial<AgentTuning>;
  readonly runCommand?: RunCommandOptions;
  /** Default: the first one of the region. */
  readonly availabilityZone?: string;
  /** For Instance Connect; default `running`. */
  readonly instanceState?: string;
}

export interface Credentials {
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  readonly sessionToken?: string;
  /** 'expired' is answered with ExpiredTokenException. */
  readonly state?: 'valid' | 'expired';
  /** Operations refused with AccessDeniedException, e.g. `ssm:ResumeSession`, `ssmmessages:OpenDataChannel`. */
  readonly denied?: readonly string[];
}

export interface EmulatorOptions {
  readonly nodes: readonly NodeOptions[];
  readonly region?: string;
  readonly seed?: number;
  readonly agent?: Partial<AgentTuning>;
  /** The first one goes into `env`. */
  readonly credentials?: readonly Credentials[];
  /** 'open': the agent starts when the client opens the channel; 'start-session': at once. */
  readonly agentStart?: 'open' | 'start-session';
  readonly requireSignature?: boolean;
  /** Hands out stream URLs that are presigned. */
  readonly presignedUrls?: boolean;
  readonly tokenLifetimeMs?: number;
  readonly idleTimeoutMs?: number;
  readonly maxDurationMs?: number;
  readonly maxSkewMs?: number;
  /** Stream URL that ResumeSession gives: the same, one on another port, or none. */
  readonly resumeUrl?: 'same' | 'other' | 'absent';
  /** What ResumeSession says about a session that is over. */
  readonly resumeGone?: 'does-not-exist' | 'empty-token';
  /** start_publication is the first thing a client hears. */
  readonly startPublication?: boolean;
  /** Stream messages a second that the service bears; 0 = any number. */
  readonly messageRateLimit?: number;
  /** Larger payloads make the service close with 1009; 0 = any size. */
  readonly maxPayloadBytes?: number;
  /** An intact message unacknowledged for this long is a violation; 0 = never. */
  readonly ackDeadlineMs?: number;
  /** A hole in the client's sequence for this long on one socket is a violation. */
  readonly gapDeadlineMs?: number;
  /** Round trip added to everything, connects included, by a proxy in front. */
  readonly rttMs?: number;
  /** Oldest ClientVersion (text frame) the service takes; '' = any. */
  readonly minimumClientVersion?: string;
  /** SendSSHPublicKey calls a second before ThrottlingException; 0 = any number. */
  readonly keyPushLimit?: number;
  /** For how long after SendCommand its invocation is not known yet. */
  readonly invocationDelayMs?: number;
  readonly log?: (line: string) => void;
}

export type EndCause =
  | 'terminate-flag'
  | 'terminate-api'
  | 'remote-closed'
  | 'remote-failed'
  | 'handshake-failed'
  | 'agent-refused'
  | 'agent-crash'
  | 'idle-timeout'
  | 'max-duration'
  | 'emulator';

export interface SessionCounters {
  /** WebSocket connections that got as far as a good token. */
  connections: number;
  resumes: number;
  /** Stream messages and their payload bytes from the client; resends counted apart. */
  messages: number;
  bytes: number;
  duplicates: number;
  acks: number;
  largestPayload: number;
  pings: number;
  /** To the client. */
  sentMessages: number;
  sentBytes: number;
  resent: number;
  sentAcks: number;
  /** TCP connections the agent made, and attempts that failed. */
  dials: number;
  failedDials: number;
}

export interface SessionRecord {
  readonly id: string;
  readonly target: string;
  readonly documentName: string;
  readonly parameters: Readonly<Record<string, readonly string[]>>;
  readonly reason: string | undefined;
  readonly state: 'open' | 'ended';
  readonly endedBy: EndCause | undefined;
  /** Output of channel_closed. */
  readonly output: string | undefined;
  readonly isConnected: boolean;
  readonly startedAt: number;
  readonly endedAt: number | undefined;
  readonly clientId: string | undefined;
  /** From the text frame, and from the HandshakeResponse. */
  readonly clientVersion: string | undefined;
  readonly handshakeVersion: string | undefined;
  readonly mode: 'basic' | 'mux' | undefined;
  readonly handshakeDone: boolean;
  /** Flag values received, in order. */
  readonly flags: readonly number[];
  readonly closeCodes: readonly number[];
  readonly counters: Readonly<SessionCounters>;
  /** What the client did against the protocol. Tests assert that it stays empty. */
  readonly violations: readonly string[];
  /** Messages sent to the client and not acknowledged. */
  readonly unacked: number;

  closeSocket(code?: number, reason?: string): void;
  resetSocket(): void;
  /** TCP stays up; nothing is read or written any more. */
  blackholeSocket(): void;
  /** Sends bytes (binary frame) or text as they are. */
  inject(frame: Uint8Array | string): void;
  /** The agent sends a Flag message, which takes a sequence number like any other. */
  sendFlag(value: number): void;
  publication(kind: 'pause' | 'start'): void;
  /** The agent loses its own socket to the service; false brings it back. */
  setAgentConnected(connected: boolean): void;
  /** Kills the worker process, as a refused port does. */
  crashAgent(): void;
  /** The service ends the session. */
  end(cause: EndCause, output?: string): void;
}

export interface ApiCallRecord {
  readonly operation: string;
  readonly input: Readonly<Record<string, unknown>>;
  readonly at: number;
  readonly accessKeyId: string | undefined;
  readonly status: number;
  readonly error: string | undefined;
}

export type CommandStatus =
  'Pending' | 'InProgress' | 'Success' | 'Failed' | 'TimedOut' | 'Cancelled';

export interface CommandRecord {
  readonly commandId: string;
  readonly instanceId: string;
  readonly comment: string;
  readonly script: readonly string[];
  readonly status: CommandStatus;
  readonly detail: string;
  readonly exitCode: number;
  readonly stdout: string;
  readonly stderr: string;
}

export interface PushedKey {
  readonly instanceId: string;
  readonly osUser: string;
  readonly publicKey: string;
  readonly availabilityZone: string | undefined;
  readonly expiresAt: number;
}

/** Wall time of the emulator, which tests may push forward (tokens, keys and signatures expire by it). */
export interface EmulatorClock {
  now(): number;
  advance(ms: number): void;
}

export interface Emulator {
  readonly endpoint: string;
  readonly port: number;
  readonly caFile: string;
  readonly env: Readonly<Record<string, string>>;
  readonly directory: string;
  readonly clock: EmulatorClock;
  readonly sessions: readonly SessionRecord[];
  readonly apiCalls: readonly ApiCallRecord[];
  readonly upgrades: readonly { readonly status: number; readonly why: string }[];
  readonly faults: FaultControl;
  readonly keys: readonly PushedKey[];
  readonly commands: readonly CommandRecord[];
  /** Value of AuthorizedKeysCommand, `%u` included, for an sshd that stands for this node. */
  authorizedKeysCommand(instanceId: string): string;
  /** Takes back all keys pushed for a node. */
  removeKeys(instanceId: string): void;
  openSessionCount(): number;
  /** All violations of all sessions, each with its session id. */
  violations(): readonly string[];
  node(id: string): NodeOptions;
  /** Adds a node, or replaces the one of that id. */
  setNode(node: NodeOptions): void;
  setCredentials(credentials: readonly Credentials[]): void;
  waitFor(condition: () => boolean, what: string, deadlineMs?: number): Promise<void>;
  close(): Promise<void>;
}

export type { DirectionFaults, FaultControl, Faults };
