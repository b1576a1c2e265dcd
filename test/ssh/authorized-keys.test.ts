import { spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeEach, afterEach, describe, expect, it } from 'vitest';
import { authorizedKeysScript, editFault, isOsUser } from '../../src/ssh/authorized-keys.ts';
import { makeEphemeralKey } from '../../src/ssh/ephemeral-key.ts';
import { startSshd, type Sshd } from '../support/openssh.ts';
import { baseEnv, run } from '../support/process.ts';
import { canHaveAccounts, makeAccounts, type Accounts } from './accounts.ts';

const publicKey = makeEphemeralKey().publicKey.split(' ', 2).join(' ');

function script(
  action: 'add' | 'remove',
  osUser: string,
  id = 'abcd01',
  lifeSeconds = 180,
  key = publicKey,
): readonly string[] {
  return authorizedKeysScript({ action, osUser, publicKey: key, id, lifeSeconds });
}

describe('login names', () => {
  it.each(['alice', 'ec2-user', 'b.ob', '_svc', 'machine$', 'user@corp.example', 'Administrator'])(
    'may be %s',
    (name) => {
      expect(isOsUser(name)).toBe(true);
    },
  );

  it.each([
    '',
    '-x',
    '0',
    "a'b",
    'a b',
    'a;b',
    '$(id)',
    'a\nb',
    '../x',
    'a'.repeat(65),
    'a`id`',
    'a$b',
  ])('may not be %j', (name) => {
    expect(isOsUser(name)).toBe(false);
  });

  it('that are not safe never get into a script', () => {
    expect(() => script('add', "x'; reboot; '")).toThrow();
    expect(() => script('add', 'x', 'a b')).toThrow();
    expect(() => script('add', 'x', 'ab', 1, "ssh-rsa AAAA' x")).toThrow();
  });
});

it('has no double braces, which Run Command would read as parameters', () => {
  expect(script('add', 'alice').join('\n')).not.toMatch(/\{\{|\}\}/);
});

describe.skipIf(!canHaveAccounts)('the script', () => {
  let accounts: Accounts;
  beforeEach(() => {
    accounts = makeAccounts();
  });
  afterEach(() => {
    accounts.remove();
  });

  it.each(['alice', 'b.ob', 'carol', 'admin'])('adds a line that expires for %s', (name) => {
    const done = accounts.run(script('add', name));
    expect(done).toEqual({ code: 0, stdout: '', stderr: '' });
    const text = accounts.authorizedKeys(name);
    expect(text).toMatch(
      new RegExp(
        `^expiry-time="\\d{14}Z?" ${publicKey.replaceAll('+', '\\+')} ssm-bridge:abcd01:\\d+\n$`,
      ),
    );
    const { home, uid } = accounts.account(name);
    for (const [path, mode] of [
      [join(home, '.ssh'), 0o700],
      [join(home, '.ssh/authorized_keys'), 0o600],
    ] as const) {
      const stats = statSync(path);
      expect([path, stats.mode & 0o777, stats.uid, stats.gid]).toEqual([path, mode, uid, uid]);
    }
    expect(readdirSync(join(home, '.ssh'))).toEqual(['authorized_keys']);
  });

  it.each([['dash'], ['bash']])('runs in %s', (shell) => {
    expect(accounts.run(script('add', 'alice'), { shell })).toEqual({
      code: 0,
      stdout: '',
      stderr: '',
    });
  });

  it.each([
    ['setpriv', ['setpriv']],
    ['setpriv and runuser', ['setpriv', 'runuser']],
    ['getent', ['getent']],
    ['flock', ['flock']],
    ['sshd and ssh', ['sshd', 'ssh']],
    ['readlink', ['readlink']],
  ])('works without %s', (_what, without) => {
    expect(accounts.run(script('add', 'alice', 'aa'), { without })).toMatchObject({
      code: 0,
      stderr: '',
    });
    expect(accounts.run(script('add', 'alice', 'bb'), { without })).toMatchObject({
      code: 0,
      stderr: '',
    });
    expect(accounts.run(script('remove', 'alice', 'aa'), { without })).toMatchObject({
      code: 0,
      stderr: '',
    });
    expect(accounts.authorizedKeys('alice')).toMatch(/^[^\n]* ssm-bridge:bb:\d+\n$/);
    expect(statSync(join(accounts.account('alice').home, '.ssh/authorized_keys')).uid).toBe(5001);
    expect(readdirSync(join(accounts.account('alice').home, '.ssh'))).toEqual(['authorized_keys']);
  });

  it.each([
    ['whole lines', '# mine\nssh-rsa AAAA me\n'],
    ['no newline at the end', 'ssh-rsa AAAA me'],
    ['carriage returns and blank lines', '\r\n\n  ssh-rsa AAAA me\r\n\n'],
    ['bytes that are no text', 'ssh-rsa AAAA \u00e9\u0001\n'],
    ['something like a mark', 'ssh-rsa AAAA ssm-bridge:zz:1\nssh-rsa AAAA xssm-bridge:aa:1\n'],
  ])('leaves other lines alone: %s', (_what, before) => {
    accounts.writeAuthorizedKeys('alice', before);
    accounts.run(script('add', 'alice', 'aa'));
    const lineBreak = before.endsWith('\n') ? '' : '\n';
    expect(accounts.authorizedKeys('alice').startsWith(before + lineBreak)).toBe(true);
    accounts.run(script('remove', 'alice', 'aa'));
    expect(accounts.authorizedKeys('alice')).toBe(before + lineBreak);
  });

  it('takes out one login’s line and no other’s', () => {
    for (const id of ['aa', 'bb', 'cc']) accounts.run(script('add', 'alice', id));
    accounts.run(script('remove', 'alice', 'bb'));
    expect(
      [...accounts.authorizedKeys('alice').matchAll(/ssm-bridge:(\w+):/g)].map(([, id]) => id),
    ).toEqual(['aa', 'cc']);
  });

  it('does nothing when there is nothing to take out', () => {
    expect(accounts.run(script('remove', 'alice'))).toEqual({ code: 0, stdout: '', stderr: '' });
    accounts.writeAuthorizedKeys('alice', 'ssh-rsa AAAA me\n');
    const file = join(accounts.account('alice').home, '.ssh/authorized_keys');
    const before = statSync(file).ino;
    accounts.run(script('remove', 'alice'));
    expect(statSync(file).ino).toBe(before);
  });

  it('sweeps its own lines that have expired, and keeps those of others', () => {
    accounts.writeAuthorizedKeys('alice', 'expiry-time="20200101" ssh-rsa AAAA theirs\n');
    accounts.run(script('add', 'alice', 'aa', -60));
    accounts.run(script('add', 'alice', 'bb'));
    expect(accounts.authorizedKeys('alice')).toMatch(
      /^expiry-time="20200101" ssh-rsa AAAA theirs\n[^\n]*ssm-bridge:bb:\d+\n$/,
    );
  });

  it('keeps a symlinked authorized_keys a symlink', () => {
    accounts.writeAuthorizedKeys('alice', '');
    const { home } = accounts.account('alice');
    const link = join(home, '.ssh/authorized_keys');
    accounts.run([
      `cd '${home}' && mkdir dot && mv .ssh/authorized_keys dot/keys && chown -R 5001:5001 dot && ln -s ../dot/keys .ssh/authorized_keys`,
    ]);
    accounts.run(script('add', 'alice', 'aa', -60));
    accounts.run(script('add', 'alice', 'bb'));
    expect(lstatSync(link).isSymbolicLink()).toBe(true);
    expect(readFileSync(join(home, 'dot/keys'), 'utf8')).toMatch(/^[^\n]*ssm-bridge:bb:\d+\n$/);
  });

  it('is not led into a file of root’s by a symlink', () => {
    const precious = join(accounts.directory, 'precious');
    writeFileSync(precious, 'root only\n', { mode: 0o600 });
    mkdirSync(join(accounts.account('alice').home, '.ssh'));
    symlinkSync(precious, join(accounts.account('alice').home, '.ssh/authorized_keys'));
    expect(accounts.run(script('add', 'alice')).code).not.toBe(0);
    expect(readFileSync(precious, 'utf8')).toBe('root only\n');
  });

  it.each([
    ['nobody-here', /no user nobody-here/],
    ['dave', /no home directory/],
  ])('says what is wrong with user %s', (name, message) => {
    const { code, stderr } = accounts.run(script('add', name));
    expect(editFault(code, name, 'mi-0abc', stderr)).toMatchObject({
      code: 'key.refused',
      message: expect.stringMatching(message) as string,
    });
  });

  it('says so when authorized_keys is no file', () => {
    mkdirSync(join(accounts.account('alice').home, '.ssh/authorized_keys'), { recursive: true });
    const { code, stderr } = accounts.run(script('add', 'alice'));
    expect(editFault(code, 'alice', 'mi-0abc', stderr)).toMatchObject({ code: 'key.refused' });
  });

  it.each([
    ['with flock', []],
    ['without flock', ['flock']],
  ])('loses nothing when many run at once, %s', async (_what, without) => {
    accounts.writeAuthorizedKeys('alice', 'ssh-rsa AAAA me\n');
    const ids = Array.from({ length: 12 }, (_, index) => `a${index}`);
    const inParallel = async (action: 'add' | 'remove', some: readonly string[]): Promise<void> => {
      const [program = '', ...args] = accounts.wrap;
      const codes = await Promise.all(
        some.map(async (id) => {
          const hide = without.map((name) => `mount --bind /dev/null /usr/bin/${name}\n`).join('');
          const child = spawn(program, [...args, 'sh'], { stdio: ['pipe', 'inherit', 'inherit'] });
          child.stdin.end(`${hide}${script(action, 'alice', id).join('\n')}\n`);
          const [code] = (await once(child, 'exit')) as [number];
          return code;
        }),
      );
      expect(codes).toEqual(some.map(() => 0));
    };
    await inParallel('add', ids);
    await Promise.all([
      inParallel('remove', ids.slice(0, 6)),
      inParallel('add', ['b1', 'b2', 'b3']),
    ]);
    const text = accounts.authorizedKeys('alice');
    expect(text.startsWith('ssh-rsa AAAA me\n')).toBe(true);
    const left = [...text.matchAll(/ssm-bridge:(\w+):/g)].map(([, id]) => id);
    expect(left.sort()).toEqual([...ids.slice(6), 'b1', 'b2', 'b3'].sort());
  });

  it('goes on after a script that was killed with the lock', () => {
    accounts.writeAuthorizedKeys('alice', '');
    const { home } = accounts.account('alice');
    accounts.run([
      `cd '${home}/.ssh' && mkdir .ssm-bridge.lock && touch .ssm-bridge.Ab12Cd && chown -R 5001:5001 .`,
    ]);
    const longAgo = new Date(Date.now() - 3600_000);
    utimesSync(join(home, '.ssh/.ssm-bridge.lock'), longAgo, longAgo);
    expect(accounts.run(script('add', 'alice'), { without: ['flock'] })).toMatchObject({ code: 0 });
    expect(readdirSync(join(home, '.ssh'))).toEqual(['authorized_keys']);
  });
});

describe.skipIf(!canHaveAccounts)('a real sshd', () => {
  const sshds: Sshd[] = [];
  const made: Accounts[] = [];
  afterAll(async () => {
    await Promise.all(sshds.map((sshd) => sshd.stop()));
    for (const accounts of made) accounts.remove();
  });

  it.each(['alice', 'b.ob', 'carol', 'admin'])(
    'accepts the line for %s, and not when it has expired',
    async (name) => {
      const accounts = makeAccounts();
      made.push(accounts);
      const sshd = await startSshd({
        prefix: accounts.wrap,
        // StrictModes looks at the owners and modes of the file and everything above it; /tmp is too open for it.
        extraConfig: ['AuthorizedKeysFile .ssh/authorized_keys'],
      });
      sshds.push(sshd);
      const logIn = (): Promise<{ code: number | null }> =>
        run(
          [
            'ssh',
            '-F',
            'none',
            '-p',
            String(sshd.port),
            '-i',
            sshd.clientKeyFile,
            '-l',
            name,
            '-o',
            'IdentitiesOnly=yes',
            '-o',
            'IdentityAgent=none',
            '-o',
            'BatchMode=yes',
            '-o',
            'StrictHostKeyChecking=no',
            '-o',
            'UserKnownHostsFile=/dev/null',
            '127.0.0.1',
            'true',
          ],
          { env: baseEnv() },
        );
      const add = (id: string, life: number) =>
        accounts.run(script('add', name, id, life, sshd.clientPublicKey));
      add('aa', -60);
      expect((await logIn()).code).toBe(255);
      add('bb', 180);
      expect((await logIn()).code).toBe(0);
      accounts.run(script('remove', name, 'bb'));
      expect((await logIn()).code).toBe(255);
    },
  );
});
