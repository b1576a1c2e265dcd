import type { FaultBoard } from './faults.ts';
import type { Random } from './random.ts';
import type { Session } from './session.ts';
import type {
  AgentTuning,
  ApiCallRecord,
  Credentials,
  EmulatorClock,
  EmulatorOptions,
  NodeOptions,
} from './types.ts';

/** Every option with its default. */
export type Settings = Required<
  Omit<EmulatorOptions, 'nodes' | 'agent' | 'credentials' | 'log' | 'seed'>
>;

/** What the parts of the emulator share. */
export interface Service {
  readonly settings: Settings;
  readonly clock: EmulatorClock;
  readonly random: Random;
  readonly board: FaultBoard;
  readonly nodes: Map<string, NodeOptions>;
  readonly sessions: Map<string, Session>;
  readonly apiCalls: ApiCallRecord[];
  readonly upgrades: { status: number; why: string }[];
  credentials: readonly Credentials[];
  /** Where clients open data channels; the second one is for `resumeUrl: 'other'`. */
  readonly gateways: { main: string; other: string };
  agentOf(node: NodeOptions): { version: string; tuning: AgentTuning };
  acceptsVersion(clientVersion: string | undefined): boolean;
  /** Something that a test may wait for has happened. */
  changed(): void;
  log(line: string): void;
}

export const defaultTuning: AgentTuning = {
  readSize: 1024,
  readPauseMs: 0,
  resend: 'all',
  resendScanMs: 100,
  outgoingLimit: 100_000,
  incomingLimit: 100_000,
  writeLimitBytes: 1024 * 1024,
  handshakeTimeoutMs: 15_000,
  handshakeRequestDelayMs: 0,
  handshakeCompleteDelayMs: 0,
  handshakeRequestCopies: 1,
  customerMessage: '',
  dialDelayMs: 0,
  drainMs: 2000,
  crashReportMs: 60_000,
  smuxKeepAliveMs: 10_000,
  smuxTimeoutMs: 30_000,
};

/** The pace of the real agent: 1024 bytes a millisecond, oldest message resent only. */
export const pacedTuning: Partial<AgentTuning> = { readPauseMs: 1, resend: 'oldest' };
