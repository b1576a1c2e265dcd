/**
 * Accounts of a made-up machine: a mount namespace in which /etc/passwd is ours and the homes are
 * directories of a temporary one. Scripts run in it as root, as Run Command runs them on a node, and so
 * can an sshd. Needs root.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import {
  chmodSync,
  chownSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

export const canHaveAccounts =
  process.getuid?.() === 0 && spawnSync('unshare', ['-m', 'true']).status === 0;

export interface Account {
  readonly name: string;
  readonly uid: number;
  readonly home: string;
}

export interface Accounts {
  readonly directory: string;
  /** argv to put before a command that is to run on the machine. */
  readonly wrap: readonly string[];
  account(name: string): Account;
  authorizedKeys(name: string): string;
  writeAuthorizedKeys(name: string, text: string): void;
  /** Runs a script as Run Command does. */
  run(
    script: readonly string[],
    options?: RunOptions,
  ): { code: number; stdout: string; stderr: string };
  remove(): void;
}

export interface RunOptions {
  /** Programs of /usr/bin and /usr/sbin that the machine does not have. */
  readonly without?: readonly string[];
  readonly shell?: string;
}

/** alice: usual. b.ob: a blank in the home's path. carol: home by a symlink. admin: uid 0. dave: no home. */
export function makeAccounts(): Accounts {
  const directory = mkdtempSync(join(tmpdir(), 'acc-'));
  chmodSync(directory, 0o755);
  const accounts: Account[] = [
    { name: 'alice', uid: 5001, home: join(directory, 'home', 'alice') },
    { name: 'b.ob', uid: 5002, home: join(directory, 'home', 'b ob') },
    { name: 'carol', uid: 5003, home: join(directory, 'by-link') },
    { name: 'admin', uid: 0, home: join(directory, 'home', 'admin') },
    { name: 'dave', uid: 5005, home: join(directory, 'none') },
  ];
  mkdirSync(join(directory, 'home'));
  for (const { uid, home } of accounts) {
    if (home.endsWith('none')) continue;
    const place = home.endsWith('by-link') ? join(directory, 'home', 'carol') : home;
    mkdirSync(place);
    chownSync(place, uid, uid);
    if (place !== home) execFileSync('ln', ['-s', place, home]);
  }
  const passwdFile = join(directory, 'passwd');
  const lines = accounts.map(({ name, uid, home }) => `${name}:x:${uid}:${uid}::${home}:/bin/sh`);
  writeFileSync(
    passwdFile,
    `${readFileSync('/etc/passwd', 'utf8').trimEnd()}\n${lines.join('\n')}\n`,
  );
  // su asks PAM, which looks for an account here.
  const shadow = accounts.map(({ name }) => `${name}:*:19000:0:99999:7:::`);
  writeFileSync(join(directory, 'shadow'), `${shadow.join('\n')}\n`, { mode: 0o600 });
  const wrap = wrapFor(directory, []);
  const account = (name: string): Account => {
    const found = accounts.find((each) => each.name === name);
    if (found === undefined) throw new Error(`no account ${name}`);
    return found;
  };
  const keysFile = (name: string): string => join(account(name).home, '.ssh', 'authorized_keys');
  return {
    directory,
    wrap,
    account,
    authorizedKeys: (name) => readFileSync(keysFile(name), 'utf8'),
    writeAuthorizedKeys(name, text) {
      const { uid, home } = account(name);
      mkdirSync(join(home, '.ssh'), { recursive: true, mode: 0o700 });
      writeFileSync(keysFile(name), text, { mode: 0o600 });
      chownSync(join(home, '.ssh'), uid, uid);
      chownSync(keysFile(name), uid, uid);
    },
    run(script, { without = [], shell = 'sh' } = {}) {
      const [program = '', ...args] = wrapFor(directory, without);
      const done = spawnSync(program, [...args, shell], {
        input: `${script.join('\n')}\n`,
        env: { PATH: '/usr/sbin:/usr/bin:/sbin:/bin' },
        encoding: 'utf8',
      });
      return { code: done.status ?? -1, stdout: done.stdout, stderr: done.stderr };
    },
    remove() {
      rmSync(directory, { recursive: true, force: true });
    },
  };
}

function wrapFor(directory: string, without: readonly string[]): readonly string[] {
  const hide = without.map(
    (name) =>
      `for d in /usr/bin /usr/sbin; do [ ! -e $d/${name} ] || mount --bind /dev/null $d/${name}; done`,
  );
  const own = ['passwd', 'shadow'].map(
    (name) => `mount --bind '${join(directory, name)}' /etc/${name}`,
  );
  const setUp = [...own, ...hide, 'exec "$@"'];
  return ['unshare', '-m', 'sh', '-c', setUp.join('\n'), 'sh'];
}
