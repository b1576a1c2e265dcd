import { describe, expect, it } from 'vitest';
import type { Phase } from '../../src/protocol/session.ts';
import { SessionPeer } from '../support/session-peer.ts';

/** A session in each phase, with a socket; and what brings it there. */
const reach: Record<Phase, () => SessionPeer> = {
  'awaiting-request': () => {
    const peer = new SessionPeer();
    peer.connect();
    return peer;
  },
  'awaiting-complete': () => {
    const peer = reach['awaiting-request']();
    peer.request();
    peer.acknowledge(0);
    return peer;
  },
  open: () => SessionPeer.open(),
  terminating: () => {
    const peer = SessionPeer.open();
    peer.terminate();
    return peer;
  },
  closed: () => {
    const peer = SessionPeer.open();
    peer.close();
    return peer;
  },
  failed: () => {
    const peer = new SessionPeer();
    peer.connect();
    peer.output('$ ');
    return peer;
  },
};

const phases: readonly Phase[] = [
  'awaiting-request',
  'awaiting-complete',
  'open',
  'terminating',
  'closed',
  'failed',
];

const wrong = { digest: new Uint8Array(32) };

/** Every input, each with what it brings: new phase (or the same), and the kinds of outputs. */
type Row = Readonly<Record<Phase, readonly [Phase, ...string[]]>>;
const over = { closed: ['closed'], failed: ['failed'] } as const;
/** No change of phase, the same outputs in every live one. */
const stays = (...outputs: string[]): Row => ({
  'awaiting-request': ['awaiting-request', ...outputs],
  'awaiting-complete': ['awaiting-complete', ...outputs],
  open: ['open', ...outputs],
  terminating: ['terminating', ...outputs],
  ...over,
});

const table: readonly [string, (peer: SessionPeer) => void, Row][] = [
  [
    'HandshakeRequest',
    (peer) => {
      peer.request();
    },
    {
      ...stays('transmit', 'ignored'),
      'awaiting-request': ['awaiting-complete', 'transmit', 'transmit'],
    },
  ],
  [
    'HandshakeRequest for a shell',
    (peer) => {
      peer.request({ sessionType: 'Standard_Stream' });
    },
    {
      ...stays('transmit', 'ignored'),
      'awaiting-request': ['failed', 'transmit', 'transmit', 'failed'],
    },
  ],
  [
    'unreadable HandshakeRequest',
    (peer) => {
      peer.stream(5, '{');
    },
    { ...stays('transmit', 'ignored'), 'awaiting-request': ['failed', 'transmit', 'failed'] },
  ],
  [
    'HandshakeComplete',
    (peer) => {
      peer.complete();
    },
    { ...stays('transmit', 'ignored'), 'awaiting-complete': ['open', 'transmit', 'opened'] },
  ],
  [
    'Output',
    (peer) => {
      peer.output('x');
    },
    {
      ...stays('transmit', 'deliver'),
      'awaiting-request': ['failed', 'transmit', 'failed'],
      'awaiting-complete': ['failed', 'transmit', 'failed'],
    },
  ],
  [
    'Flag',
    (peer) => {
      peer.stream(10, new Uint8Array([0, 0, 0, 3]));
    },
    {
      ...stays('transmit', 'flag'),
      'awaiting-request': ['awaiting-request', 'transmit', 'ignored'],
      'awaiting-complete': ['awaiting-complete', 'transmit', 'ignored'],
    },
  ],
  [
    'other payload type',
    (peer) => {
      peer.stream(11, 'x');
    },
    stays('transmit', 'ignored'),
  ],
  [
    'early message',
    (peer) => {
      peer.output('x', { seq: 1000 });
    },
    stays('transmit'),
  ],
  [
    'damaged message',
    (peer) => {
      peer.output('x', wrong);
    },
    stays('reconnect'),
  ],
  [
    'acknowledgement of nothing',
    (peer) => {
      peer.acknowledge(77);
    },
    stays(),
  ],
  [
    'damaged acknowledgement',
    (peer) => {
      peer.receive({ messageType: 'acknowledge', payload: '{}', ...wrong });
    },
    stays('ignored'),
  ],
  [
    'acknowledgement of message 1',
    (peer) => {
      peer.acknowledge(1);
    },
    { ...stays(), terminating: ['terminating', 'terminated'] },
  ],
  [
    'channel_closed',
    (peer) => {
      peer.close();
    },
    {
      'awaiting-request': ['closed', 'closed'],
      'awaiting-complete': ['closed', 'closed'],
      open: ['closed', 'closed'],
      terminating: ['closed', 'closed'],
      ...over,
    },
  ],
  [
    'pause_publication',
    (peer) => {
      peer.receive({ messageType: 'pause_publication' });
    },
    stays('publication'),
  ],
  [
    'start_publication',
    (peer) => {
      peer.receive({ messageType: 'start_publication' });
    },
    stays('publication'),
  ],
  [
    'unknown message',
    (peer) => {
      peer.receive({ messageType: 'agent_job' });
    },
    stays('ignored'),
  ],
  [
    'malformed message',
    (peer) => {
      peer.receive({ messageType: 'acknowledge', headerLength: 5000 });
    },
    stays('ignored'),
  ],
  [
    'terminate',
    (peer) => {
      peer.terminate();
    },
    { ...stays(), open: ['terminating', 'transmit'] },
  ],
  [
    'wake',
    (peer) => {
      peer.wake();
    },
    stays(),
  ],
  [
    'wake after a second',
    (peer) => {
      peer.wake(peer.now + 1000);
    },
    { ...stays(), terminating: ['terminating', 'transmit'] },
  ],
  [
    'socketLost',
    (peer) => {
      peer.disconnect(1000);
    },
    stays(),
  ],
  [
    'socketOpened',
    (peer) => {
      peer.connect();
    },
    {
      ...stays('transmit-text', 'transmit'),
      'awaiting-request': ['awaiting-request', 'transmit-text'],
      terminating: ['terminating', 'transmit-text', 'transmit', 'transmit'],
    },
  ],
];

describe('every input in every phase', () => {
  for (const [input, act, row] of table) {
    for (const phase of phases) {
      const [next, ...outputs] = row[phase];
      it(`${phase} + ${input} = ${next} [${outputs.join(', ')}]`, () => {
        const peer = reach[phase]();
        expect(peer.session.phase).toBe(phase);
        peer.take();
        act(peer);
        expect(peer.take().kinds).toEqual(outputs);
        expect(peer.session.phase).toBe(next);
      });
    }
  }

  for (const phase of phases) {
    it(`${phase} ${phase === 'open' ? 'takes' : 'refuses'} data`, () => {
      const peer = reach[phase]();
      const capacity = peer.capacity();
      expect(capacity).toBe(phase === 'open' ? 1024 : 0);
      const send = (): void => {
        peer.send(1);
      };
      if (phase === 'open') expect(send).not.toThrow();
      else expect(send).toThrow('more bytes');
    });

    it(`${phase} ${phase === 'terminating' ? 'has' : 'has no'} deadline`, () => {
      const peer = reach[phase]();
      peer.session.noteSendBlocked();
      expect(peer.session.nextWakeAt() !== undefined).toBe(phase === 'terminating');
    });

    it(`${phase} ignores messages once its socket is lost`, () => {
      const peer = reach[phase]();
      peer.disconnect();
      peer.take();
      for (const [input, act] of table) {
        if (input.startsWith('socket') || input === 'terminate') continue;
        act(peer);
      }
      const isOver = phase === 'closed' || phase === 'failed';
      expect(new Set(peer.take().kinds)).toEqual(new Set(isOver ? [] : ['ignored']));
      expect(peer.session.phase).toBe(phase);
    });
  }
});
