import { execFile } from 'node:child_process';
import { verify, createPublicKey } from 'node:crypto';
import { once } from 'node:events';
import { chmod, mkdir, mkdtemp, readdir, readFile, rm, utimes, writeFile } from 'node:fs/promises';
import { createConnection, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { BridgeError } from '../../src/errors.ts';
import { silentLogger } from '../../src/logger.ts';
import { listIdentities } from '../../src/ssh/agent-client.ts';
import { makeEphemeralKey } from '../../src/ssh/ephemeral-key.ts';
import { SharedAgent } from '../../src/ssh/shared-agent.ts';
import { SocketPlace } from '../../src/ssh/socket-place.ts';
import { concat, encodeString, encodeUint32, WireReader } from '../../src/ssh/wire.ts';

const execFileAsync = promisify(execFile);

let root: string;
let path: string;
const agents: SharedAgent[] = [];

beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'sa-'));
  path = join(root, 'own', 'alice@i-0abc:22');
});

afterEach(async () => {
  await Promise.all(agents.splice(0).map((agent) => agent.end(0)));
  await rm(root, { recursive: true, force: true });
});

interface Login {
  readonly agent: SharedAgent;
  readonly pushes: string[];
  readonly failures: BridgeError[];
}

function login(destination = 'same', push?: (key: string) => Promise<void>): Login {
  const pushes: string[] = [];
  const failures: BridgeError[] = [];
  const agent = new SharedAgent({
    place: new SocketPlace(path),
    destination,
    push: async (key) => {
      pushes.push(key);
      await push?.(key);
    },
    onPushFailed: (error) => failures.push(error),
    onLost: (error) => failures.push(error),
    logger: silentLogger,
  });
  agents.push(agent);
  return { agent, pushes, failures };
}

const env = () => ({ PATH: process.env['PATH'], SSH_AUTH_SOCK: path });

async function until(condition: () => boolean | Promise<boolean>, what: string): Promise<void> {
  for (let turn = 0; turn < 2000; turn++) {
    if (await condition()) return;
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  throw new Error(`never: ${what}`);
}

async function listedKey(): Promise<string | undefined> {
  const [identity] = await listIdentities(path);
  return identity === undefined ? undefined : Buffer.from(identity.blob).toString('base64');
}

describe('an ephemeral key', () => {
  it('signs what its public half verifies', () => {
    const key = makeEphemeralKey();
    const reader = new WireReader(key.sign(Buffer.from('data')));
    expect(reader.text()).toBe('ssh-ed25519');
    const signature = reader.string();
    const spkiHead = Buffer.from('302a300506032b6570032100', 'hex');
    const publicKey = createPublicKey({
      key: Buffer.concat([spkiHead, key.blob.subarray(-32)]),
      format: 'der',
      type: 'spki',
    });
    expect(verify(null, Buffer.from('data'), publicKey, signature)).toBe(true);
  });

  it('is a public key line that ssh-keygen reads', async () => {
    const key = makeEphemeralKey();
    const file = join(root, 'k.pub');
    await writeFile(file, `${key.publicKey}\n`);
    const { stdout } = await execFileAsync('ssh-keygen', ['-l', '-f', file]);
    expect(stdout).toMatch(/^256 SHA256:\S+ ssm-bridge \(ED25519\)/);
  });
});

describe('the private agent', () => {
  it('lists one key to ssh-add, pushed before it is shown', async () => {
    const { agent, pushes } = login();
    await agent.start();
    const { stdout } = await execFileAsync('ssh-add', ['-L'], { env: env() });
    expect(stdout.trim()).toBe(pushes[0]);
  });

  it('signs for ssh-keygen with that key', async () => {
    const { agent } = login();
    await agent.start();
    const { stdout: line } = await execFileAsync('ssh-add', ['-L'], { env: env() });
    await writeFile(join(root, 'k.pub'), line);
    await writeFile(join(root, 'data'), 'hello');
    await execFileAsync(
      'ssh-keygen',
      ['-Y', 'sign', '-f', join(root, 'k.pub'), '-n', 'x', join(root, 'data')],
      { env: env() },
    );
    const { stdout } = await execFileAsync('sh', [
      '-c',
      `ssh-keygen -Y check-novalidate -n x -s ${join(root, 'data')}.sig < ${join(root, 'data')}`,
    ]);
    expect(stdout).toContain('Good "x" signature');
  });

  it('keeps nothing that is added to it', async () => {
    const { agent } = login();
    await agent.start();
    const file = join(root, 'other');
    await execFileAsync('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-f', file]);
    await expect(execFileAsync('ssh-add', [file], { env: env() })).rejects.toThrow(/agent refused/);
    expect(await listIdentities(path)).toHaveLength(1);
  });

  it('signs with no other key', async () => {
    const { agent } = login();
    await agent.start();
    const other = makeEphemeralKey();
    const body = concat(
      new Uint8Array([13]),
      encodeString(other.blob),
      encodeString('data'),
      encodeUint32(0),
    );
    const socket = createConnection(path);
    socket.write(encodeString(body));
    const [answer] = (await once(socket, 'data')) as [Buffer];
    socket.destroy();
    expect([...answer]).toEqual([0, 0, 0, 1, 5]);
  });

  it.each([
    ['an impossible length', Buffer.from([0xff, 0xff, 0xff, 0xff, 1])],
    ['a length of nothing', Buffer.from([0, 0, 0, 0])],
  ])('hangs up on %s and lives on', async (_what, bytes) => {
    const { agent } = login();
    await agent.start();
    const socket = createConnection(path);
    socket.on('error', () => undefined);
    socket.write(bytes);
    await once(socket, 'close');
    expect(await listIdentities(path)).toHaveLength(1);
  });

  it('offers nothing when the push failed', async () => {
    const { agent } = login('same', () => Promise.reject(new BridgeError('key.denied', 'no')));
    await agent.start();
    expect(await listIdentities(path)).toHaveLength(0);
  });

  it('leaves nothing in its directory', async () => {
    const { agent } = login();
    await agent.start();
    await agent.end(0);
    expect(await readdir(join(root, 'own'))).toEqual([]);
  });

  it('sweeps sockets that others were killed over, and nothing else', async () => {
    await mkdir(join(root, 'own'), { mode: 0o700 });
    const longAgo = new Date(Date.now() - 3600_000);
    for (const name of ['.0123456789ab', '.0123456789ac', 'kept']) {
      await writeFile(join(root, 'own', name), '');
      if (name !== '.0123456789ac') await utimes(join(root, 'own', name), longAgo, longAgo);
    }
    const { agent } = login();
    await agent.start();
    await agent.end(0);
    expect((await readdir(join(root, 'own'))).sort()).toEqual(['.0123456789ac', 'kept']);
  });

  it('makes its directory for the owner only', async () => {
    const { agent } = login();
    await agent.start();
    const { stdout } = await execFileAsync('stat', ['-c', '%a', join(root, 'own')]);
    expect(stdout.trim()).toBe('700');
  });

  it('refuses a directory that others may enter', async () => {
    await mkdir(join(root, 'own'));
    await chmod(join(root, 'own'), 0o755);
    await expect(login().agent.start()).rejects.toMatchObject({
      code: 'key.agent',
      hint: expect.stringContaining('chmod 700') as string,
    });
  });

  it('refuses a path that a socket cannot have', () => {
    path = join(root, 'x'.repeat(110));
    expect(() => login()).toThrow(/103/);
  });

  it('refuses a path where something else is', async () => {
    await mkdir(join(root, 'own'), { mode: 0o700 });
    await writeFile(path, 'precious');
    await expect(login().agent.start()).rejects.toMatchObject({ code: 'key.agent' });
    expect(await readFile(path, 'utf8')).toBe('precious');
  });

  it('refuses a path where another kind of agent listens', async () => {
    await mkdir(join(root, 'own'), { mode: 0o700 });
    const { stdout } = await execFileAsync('ssh-agent', ['-a', path]);
    const pid = Number(/SSH_AGENT_PID=(\d+)/.exec(stdout)?.[1]);
    try {
      await expect(login().agent.start()).rejects.toMatchObject({ code: 'key.agent' });
    } finally {
      process.kill(pid);
    }
  });
});

describe('logins that share a path', () => {
  it('have one owner and one key, however many start at once', async () => {
    const logins = Array.from({ length: 50 }, () => login());
    await Promise.all(logins.map(({ agent }) => agent.start()));
    expect(logins.filter(({ agent }) => agent.role === 'owner')).toHaveLength(1);
    expect(logins.filter(({ agent }) => agent.role === 'tenant')).toHaveLength(49);
    const keys = new Set(await Promise.all(Array.from({ length: 50 }, () => listedKey())));
    expect(keys.size).toBe(1);
  });

  it('never find the place empty while owners come and go', async () => {
    const first = login();
    await first.agent.start();
    const state = { isOver: false };
    let asked = 0;
    const asking = (async () => {
      while (!state.isOver) {
        expect(await listedKey()).toBeDefined();
        asked += 1;
      }
    })();
    let previous = first;
    for (let turn = 0; turn < 20; turn++) {
      const next = login();
      await next.agent.start();
      await previous.agent.end(1000);
      expect(next.agent.role).toBe('owner');
      previous = next;
    }
    state.isOver = true;
    await asking;
    expect(asked).toBeGreaterThan(0);
  });

  it('all find the new owner when the old one ends', async () => {
    const logins = Array.from({ length: 10 }, () => login());
    await Promise.all(logins.map(({ agent }) => agent.start()));
    const owner = logins.find(({ agent }) => agent.role === 'owner')!;
    await owner.agent.end(1000);
    const rest = logins.filter((each) => each !== owner);
    await until(
      () =>
        rest.every(({ agent }) => agent.role !== 'none') &&
        rest.filter(({ agent }) => agent.role === 'owner').length === 1,
      'one owner, the others tenants',
    );
    expect(await listedKey()).toBeDefined();
  });

  it('get signatures from an owner that has begun to end', async () => {
    const first = login();
    await first.agent.start();
    const second = login();
    await second.agent.start();
    const socket = createConnection(path);
    socket.write(encodeString(new Uint8Array([11])));
    const [list] = (await once(socket, 'data')) as [Buffer];
    const reader = new WireReader(list);
    expect(reader.uint32()).toBe(list.length - 4);
    expect(reader.byte()).toBe(12);
    reader.uint32();
    const blob = reader.string();
    const ending = first.agent.end(10_000);
    await until(() => second.agent.role === 'owner', 'the second owns the socket');
    socket.write(
      encodeString(
        concat(new Uint8Array([13]), encodeString(blob), encodeString('data'), encodeUint32(0)),
      ),
    );
    const [answer] = (await once(socket, 'data')) as [Buffer];
    expect(answer[4]).toBe(14);
    socket.destroy();
    await ending;
  });

  it('that have connected before the owner began to end are all answered', async () => {
    const owner = login();
    await owner.agent.start();
    // connect(2) happens in this turn: the kernel queues them all before the owner accepts one.
    const clients = Array.from({ length: 40 }, () => createConnection(path));
    const asked = clients.map(async (client) => {
      client.write(encodeString(new Uint8Array([11])));
      const [answer] = (await once(client, 'data')) as [Buffer];
      client.destroy();
      return answer[4];
    });
    const ending = owner.agent.end(10_000);
    expect(await Promise.all(asked)).toEqual(clients.map(() => 12));
    await ending;
  });

  it('push the key themselves when the owner pushes elsewhere', async () => {
    const owner = login('here');
    await owner.agent.start();
    const tenant = login('there');
    await tenant.agent.start();
    await tenant.agent.atNewkeys();
    expect(tenant.pushes).toHaveLength(1);
    expect(owner.pushes).toHaveLength(0);
    expect(tenant.pushes[0]).toContain((await listedKey())!);
  });

  it('leave the push to an owner that pushes to the same place', async () => {
    const owner = login();
    await owner.agent.start();
    const tenant = login();
    await tenant.agent.start();
    expect(tenant.agent.atNewkeys()).toBeUndefined();
    expect(tenant.pushes).toHaveLength(0);
  });

  it('hear of a push that failed for all', async () => {
    const owner = login('same', () =>
      Promise.reject(new BridgeError('key.throttled', 'too many', { hint: 'wait' })),
    );
    await owner.agent.start();
    const tenant = login();
    await tenant.agent.start();
    await listIdentities(path);
    await until(() => tenant.failures.length > 0, 'the failure is announced');
    expect(tenant.failures[0]).toMatchObject({
      code: 'key.throttled',
      message: 'too many',
      hint: 'wait',
    });
  });

  it('do not wait for an owner that is stopped', async () => {
    await mkdir(join(root, 'own'), { mode: 0o700 });
    const silent = createServer(() => undefined);
    silent.listen(path);
    await once(silent, 'listening');
    const { agent } = login();
    await agent.start();
    expect(agent.role).toBe('owner');
    expect(await listedKey()).toBeDefined();
    silent.close();
  });

  it('get another agent when somebody removes the whole directory', async () => {
    const { agent, failures } = login();
    await agent.start();
    await rm(join(root, 'own'), { recursive: true });
    await until(() => listedKey().then(Boolean, () => false), 'a key is listed');
    expect(failures).toEqual([]);
  });

  it('get another agent when somebody removes the socket', async () => {
    const { agent } = login();
    await agent.start();
    const before = await listedKey();
    await rm(path);
    await until(async () => {
      const now = await listedKey().catch(() => undefined);
      return now !== undefined && now !== before;
    }, 'another key is listed');
    expect(agent.role).toBe('owner');
  });
});

describe('an owner whose session goes on', () => {
  it('takes the socket away when its login has had its signature', async () => {
    const { agent } = login();
    await agent.start();
    void agent.atNewkeys();
    const { stdout: line } = await execFileAsync('ssh-add', ['-L'], { env: env() });
    await writeFile(join(root, 'k.pub'), line);
    await writeFile(join(root, 'data'), 'hello');
    await execFileAsync(
      'ssh-keygen',
      ['-Y', 'sign', '-f', join(root, 'k.pub'), '-n', 'x', join(root, 'data')],
      { env: env() },
    );
    await until(async () => (await readdir(join(root, 'own'))).length === 0, 'the socket is gone');
  });
});
