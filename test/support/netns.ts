/**
 * Network namespaces (Linux, root): hosts that are reachable only from their neighbours.
 *
 *   const reason = netnsMissing();                 // why there can be none, or undefined
 *   const bastion = await makeNamespace({ users: ['alice'], hosts: { 'db.internal': '10.0.1.20' } });
 *   const db = await makeNamespace({ users: ['bob'] });
 *   link(bastion, '10.0.1.10/24', db, '10.0.1.20/24');
 *   await run([...db.prefix, 'sshd', …]);          // runs in there, with /etc/passwd and /etc/hosts of its own
 *   const socket = await bastion.dial('10.0.1.20', 22);
 *   await bastion.expose(443, emulatorPort);       // 127.0.0.1:443 in there leads to a port out here
 *   await bastion.close();
 *
 * Names hold the pid of the test: what an earlier, killed run has left is removed by the next one.
 */
import { execFileSync } from 'node:child_process';
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
} from 'node:fs';
import { readFileSync, writeFileSync } from 'node:fs';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { baseEnv, start } from './process.ts';

export interface NamespaceOptions {
  /** Accounts that exist in there only; each gets a home directory. */
  readonly users?: readonly string[];
  /** Gives root a home of its own too, so that `~/.ssh` and `~/.aws` are not the machine's. */
  readonly ownRootHome?: boolean;
  /** What /etc/hostname says in there. */
  readonly hostname?: string;
  /** Names that resolve in there only. */
  readonly hosts?: Readonly<Record<string, string>>;
}

export interface Namespace {
  readonly name: string;
  /** Short; readable by every user. */
  readonly dir: string;
  /** argv to put in front of a program. */
  readonly prefix: readonly string[];
  home(user: string): string;
  /** A TCP connection made in there; rejects with the system's error code. */
  dial(host: string, port: number): Promise<Socket>;
  /** Makes 127.0.0.1:`port` in there lead to 127.0.0.1:`port` of the test. */
  expose(port: number): Promise<void>;
  close(): Promise<void>;
}

const helper = fileURLToPath(new URL('./netns-helper.mjs', import.meta.url));
const namePattern = /^sb(\d+)-\d+$/;
/** Name to directory. */
const live = new Map<string, string>();
let count = 0;
let interfaces = 0;

/** Why there can be no namespaces here; undefined when there can. */
export function netnsMissing(): string | undefined {
  if (process.platform !== 'linux') return 'network namespaces need Linux';
  if (process.getuid?.() !== 0) return 'network namespaces need root';
  try {
    const name = newName();
    ip('netns', 'add', name);
    ip('netns', 'exec', name, 'true');
    removeNamespace(name);
    return undefined;
  } catch (error) {
    return `no network namespaces: ${error instanceof Error ? error.message : String(error)}`;
  }
}

export async function makeNamespace(options: NamespaceOptions = {}): Promise<Namespace> {
  removeLeftovers();
  const name = newName();
  const dir = mkdtempSync(join(tmpdir(), 'sn-'));
  chmodSync(dir, 0o755);
  writeEtc(name, dir, options);
  ip('netns', 'add', name);
  live.set(name, dir);
  ip('-n', name, 'link', 'set', 'lo', 'up');
  const prefix = ['ip', 'netns', 'exec', name];
  const dialSocket = join(dir, 'dial');
  const running = start([...prefix, process.execPath, helper, dialSocket], {
    env: baseEnv(),
    timeoutMs: 24 * 3600 * 1000,
  });
  await running.waitForStdout(/ready/);
  const exposed: Server[] = [];
  return {
    name,
    dir,
    prefix,
    home: (user) => join(dir, user),
    dial: (host, port) => ask(dialSocket, `${host} ${port}`),
    async expose(port) {
      const path = join(dir, `expose-${port}`);
      const server = createServer({ allowHalfOpen: true }, (inside) => {
        joinSockets(
          inside,
          connect({ port, host: '127.0.0.1', allowHalfOpen: true, noDelay: true }),
        );
      });
      exposed.push(server);
      await new Promise<void>((resolve) => server.listen(path, resolve));
      const answer = await ask(dialSocket, `expose ${port} ${path}`);
      answer.destroy();
    },
    async close() {
      if (!live.has(name)) return;
      for (const server of exposed) server.close();
      running.signal('SIGKILL');
      await running.exited;
      removeNamespace(name);
    },
  };
}

/** A cable between two namespaces, each end with its address (CIDR). */
export function link(a: Namespace, aAddress: string, b: Namespace, bAddress: string): void {
  const ends = [
    { namespace: a, address: aAddress, device: newInterface() },
    { namespace: b, address: bAddress, device: newInterface() },
  ] as const;
  const [one, other] = ends;
  // Made inside, so that nothing of it is ever seen outside and it goes with the namespace.
  ip(
    '-n',
    a.name,
    'link',
    'add',
    one.device,
    'type',
    'veth',
    'peer',
    'name',
    other.device,
    'netns',
    b.name,
  );
  for (const { namespace, address, device } of ends) {
    ip('-n', namespace.name, 'addr', 'add', address, 'dev', device);
    ip('-n', namespace.name, 'link', 'set', device, 'up');
  }
}

function ask(dialSocket: string, line: string): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect({ path: dialSocket, allowHalfOpen: true });
    let answer = '';
    const onReadable = (): void => {
      for (;;) {
        // Without an encoding, read() gives buffers; its type cannot say so.
        const byte = socket.read(1) as Buffer | null;
        if (byte === null) return;
        if (byte[0] !== 10) {
          answer += byte.toString('latin1');
          continue;
        }
        socket.off('readable', onReadable);
        socket.off('error', reject);
        if (answer === 'ok') resolve(socket);
        else reject(Object.assign(new Error(`connect ${answer} ${line}`), { code: answer }));
        return;
      }
    };
    socket.on('readable', onReadable);
    socket.once('error', reject);
    socket.once('close', () => {
      reject(new Error(`the namespace is gone: ${line}`));
    });
    socket.write(`${line}\n`);
  });
}

function joinSockets(a: Socket, b: Socket): void {
  const drop = (): void => {
    a.destroy();
    b.destroy();
  };
  a.on('error', drop).on('close', drop).pipe(b);
  b.on('error', drop).on('close', drop).pipe(a);
}

/** `ip netns exec` puts these in place of the machine's own files. */
function writeEtc(name: string, dir: string, options: NamespaceOptions): void {
  const etc = join('/etc/netns', name);
  mkdirSync(etc, { recursive: true });
  const accounts = (options.users ?? []).map((user, index) => {
    const home = join(dir, user);
    const id = 54_000 + index;
    mkdirSync(home);
    chownSync(home, id, id);
    return `${user}:x:${id}:${id}:test:${home}:/bin/sh\n`;
  });
  let passwd = readFileSync('/etc/passwd', 'utf8');
  if (options.ownRootHome === true) {
    mkdirSync(join(dir, 'root'), { mode: 0o700 });
    passwd = passwd.replace(/^root:.*$/m, `root:x:0:0:root:${join(dir, 'root')}:/bin/sh`);
  }
  writeFileSync(join(etc, 'passwd'), passwd + accounts.join(''));
  const hosts = Object.entries(options.hosts ?? {}).map(([host, to]) => `${to} ${host}\n`);
  writeFileSync(join(etc, 'hosts'), ['127.0.0.1 localhost\n', ...hosts].join(''));
  writeFileSync(join(etc, 'hostname'), `${options.hostname ?? name}\n`);
  // No name server: what is not in hosts is unknown at once.
  writeFileSync(join(etc, 'resolv.conf'), 'nameserver 127.0.0.1\noptions timeout:1 attempts:1\n');
}

function newName(): string {
  count += 1;
  return `sb${process.pid}-${count}`;
}

function newInterface(): string {
  interfaces += 1;
  // At most 15 characters; only seen inside the namespaces.
  return `v${interfaces}`;
}

function removeLeftovers(): void {
  if (!existsSync('/run/netns')) return;
  for (const name of readdirSync('/run/netns')) {
    const pid = namePattern.exec(name)?.[1];
    if (pid !== undefined && !existsSync(`/proc/${pid}`)) removeNamespace(name);
  }
}

function removeNamespace(name: string): void {
  const dir = live.get(name);
  live.delete(name);
  try {
    for (const pid of ip('netns', 'pids', name).split('\n').filter(Boolean)) {
      try {
        process.kill(Number(pid), 'SIGKILL');
      } catch {
        // It ended meanwhile.
      }
    }
    ip('netns', 'del', name);
  } catch {
    // Never made, or gone already.
  }
  rmSync(join('/etc/netns', name), { recursive: true, force: true });
  if (dir !== undefined) rmSync(dir, { recursive: true, force: true });
}

function ip(...args: readonly string[]): string {
  return execFileSync('ip', args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
}

process.once('exit', () => {
  for (const name of [...live.keys()]) removeNamespace(name);
});
