/** What the network does during a soak: one kind of trouble after another, all of it survivable. */
import type { SocketFault } from '../emulator/faults.ts';
import type { Emulator, Faults } from '../emulator/types.ts';

export interface Weather {
  readonly name: string;
  readonly faults: Faults;
  /** Done to every open session when this weather begins. */
  readonly strike?: (session: Emulator['sessions'][number]) => void;
  readonly relief?: (session: Emulator['sessions'][number]) => void;
}

const both = (faults: NonNullable<Faults['toAgent']>): Faults => ({
  toAgent: faults,
  toClient: faults,
});

/** Each new connection lives for this long; the handshake takes a fraction of it. */
const cuts = (how: SocketFault['how'], ms: number): Faults => ({
  socket: [{ how, after: { ms }, times: Infinity, ...(how === 'close' ? { code: 1000 } : {}) }],
});

export const weathers: readonly Weather[] = [
  { name: 'calm', faults: {} },
  { name: 'slow', faults: both({ delayMs: 30, jitterMs: 60 }) },
  { name: 'lossy', faults: both({ loss: 0.01 }) },
  { name: 'doubled', faults: both({ duplicate: 0.2 }) },
  { name: 'out of order', faults: both({ reorder: 0.1, reorderMs: 20 }) },
  { name: 'damaged', faults: both({ corruptDigest: 0.0005, truncate: 0.001 }) },
  { name: 'odd frames', faults: both({ unknownType: 0.05, oversizeHeader: 0.002 }) },
  { name: 'closed every 1.5 s', faults: cuts('close', 1500) },
  { name: 'reset every 2 s', faults: cuts('reset', 2000) },
  { name: 'ended every 1.2 s', faults: cuts('end', 1200) },
  {
    name: 'closed at once',
    faults: {},
    strike: (session) => {
      session.closeSocket(1000, 'Bye');
    },
  },
  {
    name: 'reset at once',
    faults: {},
    strike: (session) => {
      session.resetSocket();
    },
  },
  {
    name: 'a black hole',
    faults: {},
    strike: (session) => {
      session.blackholeSocket();
    },
  },
  {
    name: 'cut with ResumeSession failing',
    faults: {
      api: [
        {
          operation: 'ResumeSession',
          error: { name: 'InternalServerError', status: 500 },
          times: 4,
        },
      ],
    },
    strike: (session) => {
      session.resetSocket();
    },
  },
  {
    name: 'cut with ResumeSession slow',
    faults: { api: [{ operation: 'ResumeSession', delayMs: 800, times: 8 }] },
    strike: (session) => {
      session.closeSocket(1001);
    },
  },
  { name: 'standing still', faults: both({ stall: true }) },
  { name: 'acknowledgements lost', faults: both({ withholdAcks: true }) },
  {
    name: 'publication paused',
    faults: {},
    strike: (session) => {
      session.publication('pause');
    },
    relief: (session) => {
      session.publication('start');
    },
  },
  {
    name: 'the agent without a connection',
    faults: {},
    strike: (session) => {
      session.setAgentConnected(false);
    },
    relief: (session) => {
      session.setAgentConnected(true);
    },
  },
  {
    name: 'everything',
    faults: {
      ...both({
        delayMs: 5,
        jitterMs: 20,
        loss: 0.005,
        duplicate: 0.05,
        reorder: 0.05,
        truncate: 0.001,
        unknownType: 0.02,
      }),
      ...cuts('reset', 2500),
    },
  },
];

/** Changes the weather until told to stop. */
export function startWeather(
  emulator: Emulator,
  random: () => number,
): { stop(): void; readonly seen: Map<string, number> } {
  const seen = new Map<string, number>();
  let timer: NodeJS.Timeout | undefined;
  let relieve: (() => void) | undefined;
  const eachOpen = (act: ((session: Emulator['sessions'][number]) => void) | undefined): void => {
    if (act === undefined) return;
    for (const session of emulator.sessions) {
      if (session.state === 'open' && session.handshakeDone) act(session);
    }
  };
  const change = (): void => {
    relieve?.();
    const weather = weathers[Math.floor(random() * weathers.length)]!;
    seen.set(weather.name, (seen.get(weather.name) ?? 0) + 1);
    emulator.faults.clear();
    emulator.faults.set(weather.faults);
    eachOpen(weather.strike);
    relieve = () => {
      eachOpen(weather.relief);
    };
    // Nothing must stand still for longer than a handshake may take.
    timer = setTimeout(change, 500 + random() * 4000);
  };
  change();
  return {
    seen,
    stop() {
      clearTimeout(timer);
      relieve?.();
      emulator.faults.clear();
    },
  };
}
