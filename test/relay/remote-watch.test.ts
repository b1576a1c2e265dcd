import { describe, expect, it } from 'vitest';
import { RemoteWatch } from '../../src/relay/remote-watch.ts';
import { ManualClock } from '../support/manual-clock.ts';

function make() {
  const clock = new ManualClock();
  const notices: string[] = [];
  const failures: string[] = [];
  const watch = new RemoteWatch({
    clock,
    firstByteBy: clock.now() + 20_000,
    place: 'port 22 of the node',
    notice: (text) => notices.push(text),
    onFailed: (error) => failures.push(`${error.code}: ${error.message}`),
  });
  return { watch, clock, notices, failures };
}

const bytes = (text: string): Uint8Array => Buffer.from(text, 'latin1');
const silent = 'remote.unreachable: port 22 of the node sent nothing after the session opened';
const vanished = 'remote.unreachable: the agent could not connect to port 22 of the node';

describe('a remote side that sends nothing', () => {
  it('has failed when the time for the first byte is up', () => {
    const { watch, clock, failures } = make();
    watch.opened();
    clock.advance(19_999);
    expect(failures).toEqual([]);
    clock.advance(1);
    expect(failures).toEqual([silent]);
  });

  it('has no time left when opening has taken all of it', () => {
    const { watch, clock, failures } = make();
    clock.advance(25_000);
    watch.opened();
    clock.advance(0);
    expect(failures).toEqual([silent]);
  });

  it('has not failed before it could send', () => {
    const { clock, failures } = make();
    clock.advance(60_000);
    expect(failures).toEqual([]);
  });
});

describe('a remote side whose agent goes away', () => {
  it('before the first byte has failed three seconds later', () => {
    const { watch, clock, failures } = make();
    watch.opened();
    watch.publication(true);
    clock.advance(2999);
    expect(failures).toEqual([]);
    clock.advance(1);
    expect(failures).toEqual([vanished]);
  });

  it('may come back', () => {
    const { watch, clock, failures } = make();
    watch.opened();
    watch.publication(true);
    clock.advance(2000);
    watch.publication(false);
    clock.advance(10_000);
    expect(failures).toEqual([]);
  });

  it('again and again has three seconds each time', () => {
    const { watch, clock, failures } = make();
    watch.opened();
    watch.publication(true);
    clock.advance(2000);
    watch.publication(false);
    watch.publication(true);
    watch.publication(true);
    clock.advance(2999);
    expect(failures).toEqual([]);
    clock.advance(1);
    expect(failures).toEqual([vanished]);
  });

  it('before the session is open is no concern', () => {
    const { watch, clock, failures } = make();
    watch.publication(true);
    clock.advance(10_000);
    expect(failures).toEqual([]);
  });

  it('in the middle of a session is no concern', () => {
    const { watch, clock, failures } = make();
    watch.opened();
    watch.delivered(bytes('SSH-2.0-x\r\n'));
    watch.publication(true);
    clock.advance(60_000);
    expect(failures).toEqual([]);
  });
});

describe('a remote side that speaks', () => {
  it('leaves no timer', () => {
    const { watch, clock } = make();
    watch.opened();
    watch.publication(true);
    watch.delivered(bytes('S'));
    expect(clock.pendingTimers).toBe(0);
  });

  it('SSH is worth no word', () => {
    const { watch, notices } = make();
    watch.opened();
    watch.delivered(bytes('SSH-2.0-OpenSSH_9.2\r\n'));
    watch.delivered(bytes('binary \0\0\0'));
    expect(notices).toEqual([]);
  });

  it('before its banner is quoted', () => {
    const { watch, notices } = make();
    watch.opened();
    watch.delivered(bytes('Not allowed at this time\r\n'));
    expect(notices).toEqual(['remote said before its SSH banner: "Not allowed at this time"']);
  });

  it('something else is named, once', () => {
    const { watch, notices } = make();
    watch.opened();
    watch.delivered(bytes('HTTP/1.1 400 Bad Request\r\n'));
    watch.delivered(bytes('HTTP/1.1 400 Bad Request\r\n'));
    expect(notices).toEqual([
      'this is not an SSH server: a web server listens on this port (it began with "HTTP/1.1 400 Bad Request")',
    ]);
  });
});

it('nothing fails after it was disposed of', () => {
  const { watch, clock, failures } = make();
  watch.opened();
  watch.publication(true);
  watch.dispose();
  watch.opened();
  watch.publication(true);
  clock.advance(60_000);
  expect([failures, clock.pendingTimers]).toEqual([[], 0]);
});
