import { createConnection, type Socket } from 'node:net';
import { systemCode } from '../errors.ts';
import {
  decodeReply,
  encodeLeaseRequest,
  encodeListRequest,
  FrameReader,
  type AgentReply,
  type Identity,
  type PushFailure,
} from './agent-protocol.ts';

/** A healthy agent answers in well under a millisecond, a hardware-backed one in a second or two. */
const ANSWER_LIMIT_MS = 5000;
/** An owner that does not answer in this time is stopped, however busy the machine. */
const LEASE_LIMIT_MS = 5000;

/** Why an agent could not be asked: nobody is there, too many ask, it is another kind, or it says nothing. */
export type AgentFault = 'absent' | 'busy' | 'foreign' | 'silent';

export class AgentFaultError extends Error {
  readonly fault: AgentFault;

  constructor(fault: AgentFault, cause?: unknown) {
    super(`agent is ${fault}`, { cause });
    this.fault = fault;
  }
}

/** The identities of any ssh agent. Rejects AgentFaultError. */
export async function listIdentities(path: string): Promise<readonly Identity[]> {
  const { socket, reply } = await ask(path, encodeListRequest(), ANSWER_LIMIT_MS, () => undefined);
  socket.destroy();
  if (reply.kind !== 'identities') throw new AgentFaultError('foreign');
  return reply.identities;
}

/** A claim on another bridge's agent, held while the connection lasts. */
export interface Lease {
  readonly isCovered: boolean;
  readonly blob: Uint8Array;
  end(): void;
}

export interface LeaseEvents {
  /** The owner is going: put an agent of your own in its place, then end the lease. */
  readonly onTakeOver: () => void;
  readonly onPushFailed: (failure: PushFailure) => void;
  /** The owner is gone. Not called after `end`. */
  readonly onLost: () => void;
}

/** Rejects AgentFaultError. */
export async function takeLease(
  path: string,
  destination: string,
  events: LeaseEvents,
): Promise<Lease> {
  let isEnded = false;
  const { socket, reply } = await ask(
    path,
    encodeLeaseRequest(destination),
    LEASE_LIMIT_MS,
    (later) => {
      if (isEnded) return;
      if (later.kind === 'take-over') events.onTakeOver();
      if (later.kind === 'push-failed') events.onPushFailed(later.failure);
    },
  );
  if (reply.kind !== 'lease') {
    socket.destroy();
    throw new AgentFaultError('foreign');
  }
  if (socket.destroyed) throw new AgentFaultError('absent');
  socket.on('close', () => {
    if (!isEnded) events.onLost();
    isEnded = true;
  });
  return {
    isCovered: reply.isCovered,
    blob: reply.blob,
    end() {
      isEnded = true;
      socket.destroy();
    },
  };
}

async function ask(
  path: string,
  request: Uint8Array,
  limitMs: number,
  onLater: (reply: AgentReply) => void,
): Promise<{ socket: Socket; reply: AgentReply }> {
  const socket = createConnection(path);
  return new Promise((resolve, reject) => {
    const reader = new FrameReader();
    let isAnswered = false;
    const fail = (fault: AgentFault, cause?: unknown): void => {
      clearTimeout(limit);
      socket.destroy();
      reject(new AgentFaultError(fault, cause));
    };
    const limit = setTimeout(() => {
      fail('silent');
    }, limitMs);
    socket.on('connect', () => socket.write(request));
    socket.on('data', (bytes: Buffer) => {
      try {
        for (const frame of reader.feed(bytes)) {
          const reply = decodeReply(frame);
          if (isAnswered) {
            // Not before the caller has its answer, though both came in one piece.
            setImmediate(onLater, reply);
          } else {
            isAnswered = true;
            clearTimeout(limit);
            resolve({ socket, reply });
          }
        }
      } catch (error) {
        fail('foreign', error);
      }
    });
    socket.on('error', (error) => {
      fail(systemCode(error) === 'EAGAIN' ? 'busy' : 'absent', error);
    });
    socket.on('close', () => {
      fail('absent');
    });
  });
}
