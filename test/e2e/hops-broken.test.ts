/** A chain of three hops, broken in the middle in every way it can break: what the user is told. */
import { once } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { nodes, openHops, type Hops } from '../support/hops.ts';
import { netnsMissing } from '../support/netns.ts';
import { run, start, type Finished } from '../support/process.ts';

const missing = netnsMissing();

describe.skipIf(missing !== undefined)(`a chain with a broken hop ${missing ?? ''}`, () => {
  let hops: Hops;
  beforeAll(async () => {
    hops = await openHops();
  });
  beforeEach(() => {
    hops.use('hops-private-hosts.conf');
  });
  const repairs: (() => unknown)[] = [];
  afterEach(async () => {
    for (const repair of repairs.splice(0)) await repair();
    hops.a.faults.clear();
    await hops.assertClean();
  });
  afterAll(() => hops.close());

  const app = (...args: string[]): Promise<Finished> =>
    hops.run(['ssh', ...args, 'app', 'true'], { timeoutMs: 60_000 });

  function lines(done: Finished): readonly string[] {
    return done.stderr.trim().split(/\r?\n/);
  }

  /** Replaces a file until the test is over. */
  function replace(file: string, edit: (text: string) => string): void {
    const before = readFileSync(file, 'utf8');
    repairs.push(() => {
      writeFileSync(file, before);
    });
    writeFileSync(file, edit(before));
  }

  async function inNamespace(name: 'bastion' | 'db' | 'app', ...argv: string[]): Promise<void> {
    await run([...hops[name].namespace.prefix, ...argv], { env: hops.env });
  }

  it('node not connected: our line names the node, then ssh ends', async () => {
    const node = hops.a.node(nodes.bastion);
    hops.a.setNode({ ...node, online: false });
    repairs.push(() => {
      hops.a.setNode(node);
    });
    const done = await app();
    expect(done.code).toBe(255);
    const ours = lines(done).filter((line) => line.startsWith('ssm-bridge: '));
    expect(ours).toHaveLength(1);
    expect(ours[0]).toMatch(/^ssm-bridge: i-0123456789abcdef0: .*not connected/);
    expect(lines(done)[0]).toBe(ours[0]);
  });

  it('credentials missing: our line names the node', async () => {
    replace(join(hops.home, '.aws', 'credentials'), () => '');
    const done = await app();
    expect([done.code, lines(done)[0]]).toEqual([
      255,
      expect.stringMatching(/^ssm-bridge: i-0123456789abcdef0: .*credentials/),
    ]);
  });

  it('sshd of the first hop not there: our line names node and port', async () => {
    const node = hops.a.node(nodes.bastion);
    hops.a.setNode({ ...node, dial: () => Promise.reject(new Error('refused')) });
    repairs.push(() => {
      hops.a.setNode(node);
    });
    const done = await app();
    expect([done.code, lines(done)[0]]).toEqual([
      255,
      expect.stringMatching(/^ssm-bridge: i-0123456789abcdef0: .*port 22/),
    ]);
  });

  it('sshd of the middle hop not there: ssh says what could not be reached', async () => {
    replace(join(hops.home, '.ssh', 'config'), (text) =>
      text.replace('HostName db.internal', 'HostName db.internal\n  Port 23'),
    );
    const done = await app();
    expect(done.code).toBe(255);
    expect(done.stderr).toMatch(/connect failed: Connection refused/);
    expect(done.stderr).not.toContain('ssm-bridge');
  });

  it('middle hop unknown to the hop before', async () => {
    replace(join(hops.home, '.ssh', 'config'), (text) =>
      text.replace('HostName db.internal', 'HostName nowhere.invalid'),
    );
    const done = await app();
    expect(done.code).toBe(255);
    expect(done.stderr).toMatch(/connect failed: .*(?:not known|Temporary failure|resolution)/);
  });

  it('key refused at the middle hop: ssh names user and host', async () => {
    replace(hops.db.sshd.authorizedKeysFile, () => '');
    const done = await app();
    expect(done.code).toBe(255);
    expect(done.stderr).toMatch(/dba@db\.internal: Permission denied/);
  });

  it('host key changed at the middle hop: ssh names the host', async () => {
    const other = hops.app.sshd.hostPublicKey;
    replace(join(hops.home, '.ssh', 'known_hosts'), (text) =>
      text.replace(hops.db.sshd.hostPublicKey, other),
    );
    const done = await app();
    expect(done.code).toBe(255);
    expect(done.stderr).toMatch(/Host key verification failed/);
    expect(done.stderr).toContain('db.internal');
  });

  it('forwarding forbidden at the middle hop', async () => {
    replace(hops.db.sshd.authorizedKeysFile, (text) =>
      text.replaceAll('ssh-ed25519', 'restrict ssh-ed25519'),
    );
    const done = await app();
    expect(done.code).toBe(255);
    expect(done.stderr).toMatch(/administratively prohibited/);
  });

  it('middle hop cut off while the chain is in use: everything ends', async () => {
    const running = hops.start(['ssh', '-o', 'ServerAliveInterval=1', 'app', 'echo up; sleep 60'], {
      timeoutMs: 50_000,
    });
    await running.waitForStdout(/up/);
    await inNamespace('db', 'pkill', '-KILL', '-u', 'dba');
    const done = await running.finished;
    expect(done.code).toBe(255);
  });

  it('session ended by the service while the chain is in use: our line names the node', async () => {
    const running = hops.start(['ssh', 'app', 'echo up; sleep 60'], { timeoutMs: 50_000 });
    await running.waitForStdout(/up/);
    hops.a.sessions.at(-1)?.end('terminate-api', 'terminated by an administrator');
    const done = await running.finished;
    expect(done.code).toBe(255);
    const ours = lines(done).filter((line) => line.startsWith('ssm-bridge: '));
    expect(ours).toEqual([
      expect.stringMatching(/^ssm-bridge: i-0123456789abcdef0: .*terminated by an administrator/),
    ]);
  });

  it('socket of the session lost while the chain is in use: nobody notices', async () => {
    const running = hops.start(['ssh', 'app', 'echo up; cat; echo done'], {
      stdin: 'pipe',
      timeoutMs: 50_000,
    });
    await running.waitForStdout(/up/);
    hops.a.sessions.at(-1)?.resetSocket();
    running.stdin.write('more\n');
    await running.waitForStdout(/more/);
    running.stdin.end();
    const done = await running.finished;
    expect([done.code, done.stdout.toString(), done.stderr]).toEqual([0, 'up\nmore\ndone\n', '']);
  });

  it('outermost ssh killed: every hop ends, also at the far side', async () => {
    const running = hops.start(['ssh', 'app', 'echo up; exec sleep 77'], { timeoutMs: 50_000 });
    await running.waitForStdout(/up/);
    running.signal('SIGKILL');
    await running.exited;
    await hops.a.waitFor(() => hops.a.openSessionCount() === 0, 'the session to end');
  });

  describe('hops-via.conf', () => {
    beforeEach(() => {
      hops.use('hops-via.conf');
    });

    it('destination refused: our line names host and node', async () => {
      replace(join(hops.home, '.ssh', 'config'), (text) =>
        text.replace('HostName db.internal', 'HostName db.internal\n  Port 23'),
      );
      const done = await app();
      expect([done.code, lines(done)[0]]).toEqual([
        255,
        expect.stringMatching(
          /^ssm-bridge: db\.internal via i-0123456789abcdef0: .*could not connect to db\.internal:23/,
        ),
      ]);
    });

    it('destination silent: our line says so within seconds', async () => {
      const node = hops.a.node(nodes.bastion);
      hops.a.setNode({ ...node, dial: () => new Promise(() => undefined) });
      repairs.push(() => {
        hops.a.setNode(node);
      });
      const done = await app();
      expect([done.code, lines(done)[0]]).toEqual([
        255,
        expect.stringMatching(/^ssm-bridge: db\.internal via .*did not answer/),
      ]);
    });

    it('destination gone while in use: everything ends', async () => {
      const running = hops.start(['ssh', 'db', 'echo up; sleep 60'], { timeoutMs: 50_000 });
      await running.waitForStdout(/up/);
      await inNamespace('db', 'pkill', '-KILL', '-u', 'dba');
      expect((await running.finished).code).toBe(255);
    });
  });

  describe('hops-session-on-hop.conf', () => {
    beforeEach(() => {
      hops.use('hops-session-on-hop.conf');
    });

    it('node not connected, seen from the hop: the line of the bridge there arrives here', async () => {
      const node = hops.b.node(nodes.db);
      hops.b.setNode({ ...node, online: false });
      repairs.push(() => {
        hops.b.setNode(node);
      });
      const done = await app();
      const ours = lines(done).filter((line) => line.startsWith('ssm-bridge: '));
      expect(done.code).toBe(255);
      expect(ours).toEqual([
        expect.stringMatching(/^ssm-bridge: i-0bbbbbbbbbbbbbbb2: .*not connected/),
      ]);
    });

    it('first hop cut off while in use: the bridge on it ends its session', async () => {
      const running = hops.start(['ssh', 'app', 'echo up; sleep 60'], { timeoutMs: 50_000 });
      await running.waitForStdout(/up/);
      await run([...hops.gate.namespace.prefix, 'pkill', '-KILL', '-u', 'jump', 'sshd'], {
        env: hops.env,
      });
      expect((await running.finished).code).toBe(255);
      await hops.b.waitFor(() => hops.b.openSessionCount() === 0, 'the session to end');
    });
  });

  describe('forward-database.sh', () => {
    it('forwards both ports until it is told to stop', async () => {
      const script = join(import.meta.dirname, '../../examples/forward-database.sh');
      const server = await databaseIn(hops);
      const running = hops.start(['sh', script], { timeoutMs: 50_000 });
      await running.waitForStderr(/(?:forwarding 127\.0\.0\.1:\d+ -> \S+ via [^]*){2}/);
      const sshd = await hops.desk.dial('127.0.0.1', 18_022);
      expect(String((await once(sshd, 'data'))[0])).toMatch(/^SSH-2\.0-/);
      sshd.destroy();
      const database = await hops.desk.dial('127.0.0.1', 15_432);
      expect(String((await once(database, 'data'))[0])).toBe('database ready\n');
      database.destroy();
      running.signalGroup('SIGINT');
      expect((await running.exited).code).toBe(130);
      server();
    });
  });
});

/** Something that answers on db.internal:5432. Returns what ends it. */
async function databaseIn(hops: Hops): Promise<() => void> {
  const program =
    "require('net').createServer((s) => s.end('database ready\\n')).listen(5432, () => console.log('up'))";
  const running = start([...hops.db.namespace.prefix, process.execPath, '-e', program], {
    env: { PATH: '/usr/bin:/bin' },
  });
  await running.waitForStdout(/up/);
  return () => {
    running.signal('SIGKILL');
  };
}
