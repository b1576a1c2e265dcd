/**
 * Chains of hops with real OpenSSH, each host in a network namespace of its own, reachable from its
 * neighbours only. The ssh_config in use is always a file of examples/, as it is.
 */
import { randomBytes } from 'node:crypto';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { nodes, openHops, type Hops } from '../support/hops.ts';
import { netnsMissing } from '../support/netns.ts';
import { must, sha256, sha256File, type Finished } from '../support/process.ts';

const missing = netnsMissing();

describe.skipIf(missing !== undefined)(`chains of hops ${missing ?? ''}`, () => {
  let hops: Hops;
  beforeAll(async () => {
    hops = await openHops();
  });
  /** A test group keeps something running between its tests. */
  let isBackgroundBusy = false;
  afterEach(async () => {
    if (!isBackgroundBusy) await hops.assertClean();
  });
  afterAll(() => hops.close());

  /** Who and where the last hop is: proof that the whole chain was taken. */
  async function whoAndWhere(args: readonly string[]): Promise<string> {
    const done = await hops.run(['ssh', ...args, 'echo $(id -un)@$(cat /etc/hostname)']);
    return done.code === 0
      ? `${done.stdout.toString()}${done.stderr}`.trim()
      : `exit ${String(done.code)}: ${done.stderr}`;
  }

  describe('hops-private-hosts.conf: Session Manager first', () => {
    beforeAll(() => {
      hops.use('hops-private-hosts.conf');
    });
    it.each([
      ['one hop', ['bastion'], 'ec2-user@bastion'],
      ['one hop by node id', [nodes.bastion], 'ec2-user@bastion'],
      ['two hops', ['db'], 'dba@db'],
      ['three hops', ['app'], 'deploy@app'],
      ['two hops on the command line', ['-J', 'bastion', 'db'], 'dba@db'],
      ['three hops on the command line', ['-J', 'bastion,db', 'app'], 'deploy@app'],
      ['by node ids on the command line', ['-J', `${nodes.bastion},db`, nodes.app], 'deploy@app'],
      ['to a node id over the private network', [nodes.app], 'deploy@app'],
    ])('%s', async (_, args, expected) => {
      expect(await whoAndWhere(args)).toBe(expected);
    });

    it('uses one session for the whole chain', async () => {
      const before = hops.a.sessions.length;
      await whoAndWhere(['app']);
      expect(hops.a.sessions.length - before).toBe(1);
    });

    it('gives the exit status of the last hop', async () => {
      expect((await hops.run(['ssh', 'app', 'exit 7'])).code).toBe(7);
    });
  });

  describe('files through three hops', () => {
    beforeAll(() => {
      hops.use('hops-private-hosts.conf');
    });
    const size = 3_000_000;

    it.each([[[]], [['-O']]])('scp %j both ways', async (options) => {
      const source = join(hops.home, 'scp-source');
      writeFileSync(source, randomBytes(size));
      const there = join(hops.app.files, 'scp-there');
      await must([...hops.desk.prefix, 'scp', '-q', ...options, source, `app:${there}`], {
        env: hops.env,
      });
      await must([...hops.desk.prefix, 'scp', '-q', ...options, `app:${there}`, `${source}-back`], {
        env: hops.env,
      });
      expect(await sha256File(`${source}-back`)).toBe(await sha256File(source));
    });

    it('rsync both ways, the second run without sending it again', async () => {
      const source = join(hops.home, 'rsync-source');
      mkdirSync(source);
      for (let index = 0; index < 20; index += 1) {
        writeFileSync(join(source, `f${index}`), randomBytes(40_000 + index));
      }
      const there = `app:${join(hops.app.files, 'rsync-there')}/`;
      const sync = (...args: string[]): Promise<Finished> =>
        must([...hops.desk.prefix, 'rsync', '-rc', '--stats', ...args], { env: hops.env });
      await sync(`${source}/`, there);
      const second = await sync(`${source}/`, there);
      expect(second.stdout.toString()).toMatch(/Number of regular files transferred: 0/);
      await sync(there, join(hops.home, 'rsync-back/'));
      for (let index = 0; index < 20; index += 1) {
        expect(sha256(readFileSync(join(hops.home, 'rsync-back', `f${index}`)))).toBe(
          sha256(readFileSync(join(source, `f${index}`))),
        );
      }
    });

    it('git clone and push', async () => {
      const bare = join(hops.app.files, 'repo.git');
      const setUp = `git init -q --bare -b main ${bare}`;
      await must([...hops.desk.prefix, 'ssh', 'app', setUp], { env: hops.env });
      const git = (cwd: string, ...args: string[]): Promise<Finished> =>
        must([...hops.desk.prefix, 'git', '-c', 'user.name=t', '-c', 'user.email=t@t', ...args], {
          env: { ...hops.env, GIT_CONFIG_NOSYSTEM: '1' },
          cwd,
        });
      const work = join(hops.home, 'work');
      await git(hops.home, 'clone', '-q', `app:${bare}`, work);
      writeFileSync(join(work, 'big'), randomBytes(1_000_000));
      await git(work, 'add', 'big');
      await git(work, 'commit', '-q', '-m', 'big');
      await git(work, 'push', '-q', 'origin', 'HEAD:main');
      await git(hops.home, 'clone', '-q', '-b', 'main', `app:${bare}`, `${work}-again`);
      expect(await sha256File(join(`${work}-again`, 'big'))).toBe(
        await sha256File(join(work, 'big')),
      );
    });
  });

  describe('hops-via.conf: a node without ssh on it', () => {
    beforeAll(() => {
      hops.use('hops-via.conf');
    });
    it('is the only hop to a private host', async () => {
      const logins = (): number => hops.bastion.sshd.log().split('Accepted publickey').length;
      const before = logins();
      expect(await whoAndWhere(['db'])).toBe('dba@db');
      expect(logins()).toBe(before);
      expect(hops.a.sessions.at(-1)?.documentName).toBe(
        'AWS-StartPortForwardingSessionToRemoteHost',
      );
    });
    it('is the first of three hops', async () => {
      expect(await whoAndWhere(['app'])).toBe('deploy@app');
    });
    it('carries a file through the chain', async () => {
      const bytes = randomBytes(4_000_000);
      const done = await hops.run(['ssh', 'app', 'cat'], { input: bytes });
      expect([done.code, done.stdoutSha256, done.stderr]).toEqual([0, sha256(bytes), '']);
    });
  });

  describe('hops-hybrid-port.conf: a hybrid node with sshd on port 22222', () => {
    beforeAll(() => {
      hops.use('hops-hybrid-port.conf');
    });
    it.each([
      ['the node itself', ['pi'], 'pi@bastion'],
      ['ProxyJump', ['db'], 'dba@db'],
      ['ssh -W', ['db-explicit'], 'dba@db'],
      ['the command line', ['-J', 'pi@mi-0123456789abcdef0:22222', 'dba@db'], 'dba@db'],
    ])('%s', async (_, args, expected) => {
      expect(await whoAndWhere(args)).toBe(expected);
      expect(hops.a.sessions.at(-1)).toMatchObject({
        target: nodes.hybrid,
        parameters: { portNumber: ['22222'] },
      });
    });

    it('without -W the login shell gets the banner of ssh, and nothing comes of it', async () => {
      const proxy = 'ProxyCommand=ssh mi-0123456789abcdef0 -l pi -p 22222';
      const done = await hops.run(['ssh', '-o', proxy, '-o', 'ConnectTimeout=4', 'db', 'true']);
      expect(done.code).toBe(255);
      expect(done.stderr).toMatch(/SSH-2\.0-OpenSSH\S*: not found/);
    });
  });

  describe('hops-session-on-hop.conf: the session is opened on a hop', () => {
    beforeAll(() => {
      hops.use('hops-session-on-hop.conf');
    });
    it.each([
      ['two hops, Session Manager last', ['inner'], 'dba@db', 'i-0bbbbbbbbbbbbbbb2'],
      ['three hops, Session Manager in the middle', ['app'], 'deploy@app', 'i-0bbbbbbbbbbbbbbb2'],
      ['three hops, Session Manager last', ['app-by-session'], 'deploy@app', nodes.app],
    ])('%s', async (_, args, expected, target) => {
      expect(await whoAndWhere(args)).toBe(expected);
      expect(hops.b.sessions.at(-1)?.target).toBe(target);
    });
  });

  describe.each(['hops-two-accounts.conf', 'hops-pushed-keys.conf'])(
    '%s: two sessions in two accounts, the second through a SOCKS proxy over the first',
    (file) => {
      beforeAll(async () => {
        hops.use(file);
        isBackgroundBusy = true;
        await must([...hops.desk.prefix, 'ssh', '-f', '-N', 'socks'], {
          env: hops.env,
          stderr: 2,
        });
      });
      afterAll(async () => {
        await must([...hops.desk.prefix, 'ssh', '-O', 'exit', 'socks'], { env: hops.env });
        isBackgroundBusy = false;
        await hops.assertClean();
      });

      it('reaches the second node, then a host behind it', async () => {
        expect(await whoAndWhere(['inner'])).toBe('dba@db');
        expect(hops.b.sessions.at(-1)?.target).toBe(nodes.db);
        const pushed = file === 'hops-pushed-keys.conf' ? [nodes.bastion, nodes.db] : [];
        expect([...hops.a.keys, ...hops.b.keys].map((key) => key.instanceId)).toEqual(pushed);
        expect(await whoAndWhere(['app'])).toBe('deploy@app');
      });
    },
  );

  describe('20 chains of three hops at once', () => {
    it('all arrive', async () => {
      hops.use('hops-private-hosts.conf');
      const all = await Promise.all(
        Array.from({ length: 20 }, async (_, index) => {
          const bytes = randomBytes(20_000 + index);
          const done = await hops.run(['ssh', 'app', 'cat'], { input: bytes, timeoutMs: 100_000 });
          return done.code === 0 && done.stdoutSha256 === sha256(bytes) ? 'ok' : done.stderr;
        }),
      );
      expect(all).toEqual(Array.from({ length: 20 }, () => 'ok'));
    });
  });
});
