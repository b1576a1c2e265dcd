import { describe, expect, it } from 'vitest';
import { BridgeError } from '../../src/errors.ts';
import { silentLogger } from '../../src/logger.ts';
import {
  checkPush,
  choosePushMethod,
  KeyPusher,
  type PushMethod,
  type RunCommand,
} from '../../src/ssh/push.ts';

const key = 'ssh-ed25519 AAAA ssm-bridge';

function fixture(method: PushMethod, run?: RunCommand['run']) {
  const sent: string[] = [];
  const scripts: string[] = [];
  const clock = { now: 0 };
  const control: { hold: Promise<void> | undefined; error: BridgeError | undefined } = {
    hold: undefined,
    error: undefined,
  };
  const pusher = new KeyPusher({
    method,
    node: 'i-0abc',
    osUser: 'alice',
    logger: silentLogger,
    now: () => clock.now,
    apis: () =>
      Promise.resolve({
        instanceConnect: () =>
          Promise.resolve({
            sendSshPublicKey: async ({ publicKey }) => {
              sent.push(publicKey);
              await control.hold;
              if (control.error !== undefined) throw control.error;
            },
          }),
        commands: () =>
          Promise.resolve({
            run:
              run ??
              (({ script }) => {
                scripts.push(script.join('\n'));
                return Promise.resolve({
                  status: 'Success',
                  detail: '',
                  exitCode: 0,
                  stdout: '',
                  stderr: '',
                });
              }),
          }),
      }),
  });
  return { pusher, sent, scripts, clock, control };
}

describe('the way of a key to a node', () => {
  it.each([
    ['auto', 'i-0abc', 'instance-connect'],
    ['auto', 'mi-0abc', 'run-command'],
    ['run-command', 'i-0abc', 'run-command'],
    ['instance-connect', 'i-0abc', 'instance-connect'],
  ] as const)('asked %s for %s is %s', (asked, node, method) => {
    expect(choosePushMethod(asked, node)).toBe(method);
  });

  it.each([
    ['instance-connect', 'mi-0abc'],
    ['auto', 'web-1'],
  ] as const)('asked %s for %s does not exist', (asked, node) => {
    expect(() => choosePushMethod(asked, node)).toThrow(
      expect.objectContaining({ code: 'usage.arguments' }) as Error,
    );
  });

  it.each([
    ['instance-connect', 'alice', 'ecdsa-sha2-nistp256'],
    ['instance-connect', 'x'.repeat(40), 'ssh-ed25519'],
    ['run-command', "a'b", 'ssh-ed25519'],
    ['run-command', '', 'ssh-ed25519'],
  ] as const)('by %s refuses user %j with %s', (method, user, type) => {
    expect(() => {
      checkPush(method, user, type, key);
    }).toThrow(expect.objectContaining({ code: 'key.refused' }) as Error);
  });
});

describe('a key for Instance Connect', () => {
  it('is pushed once for all who wait', async () => {
    const { pusher, sent } = fixture('instance-connect');
    await Promise.all([pusher.ensure(key), pusher.ensure(key), pusher.ensure(key)]);
    expect(sent).toEqual([key]);
  });

  it('is pushed again when it is about to expire, not before', async () => {
    const { pusher, sent, clock } = fixture('instance-connect');
    await pusher.ensure(key);
    clock.now = 44_999;
    await pusher.ensure(key);
    expect(sent).toHaveLength(1);
    clock.now = 45_000;
    await pusher.ensure(key);
    expect(sent).toHaveLength(2);
  });

  it('counts from the call, not from its answer', async () => {
    const { pusher, sent, clock, control } = fixture('instance-connect');
    let release: () => void = () => undefined;
    control.hold = new Promise((resolve) => (release = resolve));
    const pushing = pusher.ensure(key);
    clock.now = 45_000;
    release();
    await pushing;
    await pusher.ensure(key);
    expect(sent).toHaveLength(2);
  });

  it('may be pushed again after a failure', async () => {
    const { pusher, sent, control } = fixture('instance-connect');
    control.error = new BridgeError('key.denied', 'no');
    await expect(pusher.ensure(key)).rejects.toBe(control.error);
    control.error = undefined;
    await pusher.ensure(key);
    expect(sent).toHaveLength(2);
  });

  it('needs no removal', async () => {
    const { pusher, scripts } = fixture('instance-connect');
    await pusher.ensure(key);
    await pusher.remove(AbortSignal.timeout(1000));
    expect(scripts).toEqual([]);
  });
});

describe('a key for authorized_keys', () => {
  it('is taken out by the mark it was put in with', async () => {
    const { pusher, scripts } = fixture('run-command');
    await pusher.ensure(key);
    await pusher.remove(AbortSignal.timeout(1000));
    const ids = scripts.map((script) => /SB_ID=(\w+)/.exec(script)?.[1]);
    expect(scripts.map((script) => /SB_ACTION=(\w+)/.exec(script)?.[1])).toEqual(['add', 'remove']);
    expect(ids[0]).toBe(ids[1]);
  });

  it('is taken out even if adding it seemed to fail', async () => {
    const ran: string[] = [];
    const { pusher } = fixture('run-command', ({ script }) => {
      ran.push(/SB_ACTION=(\w+)/.exec(script.join('\n'))?.[1] ?? '');
      return Promise.resolve({
        status: 'TimedOut',
        detail: 'Delivery Timed Out',
        exitCode: -1,
        stdout: '',
        stderr: '',
      });
    });
    await expect(pusher.ensure(key)).rejects.toMatchObject({ code: 'target.not-connected' });
    await pusher.remove(AbortSignal.timeout(1000));
    expect(ran).toEqual(['add', 'remove']);
  });

  it('that cannot be taken out stops nobody', async () => {
    const { pusher } = fixture('run-command', ({ script }) =>
      script.includes('SB_ACTION=remove')
        ? Promise.reject(new BridgeError('network.timeout', 'no'))
        : Promise.resolve({ status: 'Success', detail: '', exitCode: 0, stdout: '', stderr: '' }),
    );
    await pusher.ensure(key);
    await expect(pusher.remove(AbortSignal.timeout(1000))).resolves.toBeUndefined();
  });

  it.each([
    [3, 'key.refused', /no user alice/],
    [8, 'key.refused', /older than 7\.7/],
    [1, 'key.failed', /disk full/],
  ])('fails by name for the script’s status %i', async (exitCode, code, message) => {
    const { pusher } = fixture('run-command', () =>
      Promise.resolve({
        status: 'Failed',
        detail: 'Failed',
        exitCode,
        stdout: '',
        stderr: 'disk full\nmore',
      }),
    );
    await expect(pusher.ensure(key)).rejects.toMatchObject({
      code,
      message: expect.stringMatching(message) as string,
    });
  });
});
