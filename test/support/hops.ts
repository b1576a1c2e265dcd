/**
 * A small private network for tests of chains. Each host is a network namespace with a real sshd, and
 * reaches its neighbours only:
 *
 *   desk ── gate            gate.example.com  192.168.50.10  plain sshd, no Session Manager
 *            │
 *            └── db
 *   [SSM] ── bastion ── db ── app
 *
 *   bastion  10.0.1.10   ec2-user (22), pi (22222)   i-0123456789abcdef0 and mi-0123456789abcdef0, account a
 *   db       10.0.1.20   dba (22)               i-0bbbbbbbbbbbbbbb2, account b
 *   app      10.0.2.30   deploy (2022)               i-0cccccccccccccccc3, account b
 *
 * The desk is where ssh runs: it reaches the endpoint of account a, and gate. The endpoint of account b
 * is reached from gate, bastion and db only. Addresses, users, key files, profiles and known hosts are
 * those that the files in examples/ speak of, so that these can be used as they are.
 */
import {
  chmodSync,
  copyFileSync,
  cpSync,
  mkdirSync,
  readFileSync,
  writeFileSync,
  symlinkSync,
  appendFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { startEmulator } from '../emulator/emulator.ts';
import type { Emulator } from '../emulator/types.ts';
import { bridgeProgram } from './bench.ts';
import { link, makeNamespace, type Namespace, type NamespaceOptions } from './netns.ts';
import { generateKey, startSshd, type Sshd } from './openssh.ts';
import {
  eventually,
  marker,
  processesWith,
  run,
  start,
  type Env,
  type Finished,
  type Running,
  type StartOptions,
} from './process.ts';

export const nodes = {
  bastion: 'i-0123456789abcdef0',
  hybrid: 'mi-0123456789abcdef0',
  db: 'i-0bbbbbbbbbbbbbbb2',
  app: 'i-0cccccccccccccccc',
} as const;

export interface Host {
  readonly namespace: Namespace;
  readonly sshd: Sshd;
  readonly users: readonly string[];
  /** A directory there that its users may write to. */
  readonly files: string;
}

export interface Hops {
  /** Account a, eu-central-1: profile `team-a`. */
  readonly a: Emulator;
  /** Account b, us-east-1: profile `team-b`. */
  readonly b: Emulator;
  readonly desk: Namespace;
  readonly gate: Host;
  readonly bastion: Host;
  readonly db: Host;
  readonly app: Host;
  /** Home directory on the desk. */
  readonly home: string;
  readonly env: Env;
  /** Runs a program on the desk. */
  run(argv: readonly string[], options?: Partial<StartOptions>): Promise<Finished>;
  start(argv: readonly string[], options?: Partial<StartOptions>): Running;
  /** Makes a file of examples/, or other text, the desk's ~/.ssh/config. */
  use(exampleOrText: string): void;
  /** Waits until nothing that the desk started is alive, here or on any host, and no session is open. */
  assertClean(deadlineMs?: number): Promise<void>;
  close(): Promise<void>;
}

export function example(name: string): string {
  return fileURLToPath(new URL(`../../examples/${name}`, import.meta.url));
}

export async function openHops(): Promise<Hops> {
  // The nodes are dialled long after all of this is there.
  const hosts = {} as Record<'bastion' | 'db' | 'app', Host>;
  const names = { 'db.internal': '10.0.1.20', 'app.internal': '10.0.2.30' };
  const desk = await makeNamespace({
    ownRootHome: true,
    hosts: { 'gate.example.com': '192.168.50.10' },
  });
  const a = await startEmulator({
    region: 'eu-central-1',
    // The namespaces reach one port of each emulator.
    resumeUrl: 'same',
    nodes: [nodes.bastion, nodes.hybrid].map((id) => ({
      id,
      dial: (to: string, port: number) => hosts.bastion.namespace.dial(to, port),
    })),
  });
  const b = await startEmulator({
    region: 'us-east-1',
    resumeUrl: 'same',
    credentials: [
      { accessKeyId: 'ASIATEAMB00000000001', secretAccessKey: 'b', sessionToken: 'bb' },
    ],
    nodes: [
      { id: nodes.db, dial: (to, port) => hosts.db.namespace.dial(to, port) },
      { id: nodes.app, dial: (to, port) => hosts.app.namespace.dial(to, port) },
    ],
  });
  const gate = await host(
    { hostname: 'gate', users: ['jump'], hosts: { 'db.internal': '10.0.3.20' } },
    ['Port 22'],
  );
  const bastion = await host({ hostname: 'bastion', users: ['ec2-user', 'pi'], hosts: names }, [
    'Port 22',
    'Port 22222',
    ...pushedKeys(a, nodes.bastion),
  ]);
  const db = await host({ hostname: 'db', users: ['dba'], hosts: names }, [
    'Port 22',
    ...pushedKeys(b, nodes.db),
  ]);
  const app = await host({ hostname: 'app', users: ['deploy'] }, ['Port 2022']);
  Object.assign(hosts, { bastion, db, app });
  link(desk, '192.168.50.2/24', gate.namespace, '192.168.50.10/24');
  link(gate.namespace, '10.0.3.10/24', db.namespace, '10.0.3.20/24');
  link(bastion.namespace, '10.0.1.10/24', db.namespace, '10.0.1.20/24');
  link(db.namespace, '10.0.2.20/24', app.namespace, '10.0.2.30/24');

  await desk.expose(a.port);
  for (const each of [gate, bastion, db]) await each.namespace.expose(b.port);

  const home = join(desk.dir, 'root');
  const bin = join(desk.dir, 'bin');
  installBridge(bin);
  const mark = marker();
  const path = `${bin}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin`;
  const env = { PATH: path, HOME: home, SHELL: '/bin/sh', LANG: 'C.UTF-8', ...mark };

  writeAwsFiles(home, { 'team-a': a, 'team-b': b });
  for (const each of [gate, bastion, db]) {
    for (const user of each.users) writeAwsFiles(each.namespace.home(user), { 'team-b': b });
  }
  await writeKeys(home, { gate, bastion, db, app });
  writeKnownHosts(home, { gate, bastion, db, app });

  const onDesk = (
    argv: readonly string[],
    options?: Partial<StartOptions>,
  ): [readonly string[], StartOptions] => [[...desk.prefix, ...argv], { env, ...options }];
  const emulators = [a, b];
  return {
    a,
    b,
    desk,
    gate,
    bastion,
    db,
    app,
    home,
    env,
    run: (argv, options) => run(...onDesk(argv, options)),
    start: (argv, options) => start(...onDesk(argv, options)),
    use: (exampleOrText) => {
      const text = exampleOrText.includes('\n')
        ? exampleOrText
        : readFileSync(example(exampleOrText), 'utf8');
      writeFileSync(join(home, '.ssh', 'config'), text, { mode: 0o600 });
    },
    async assertClean(deadlineMs = 8000) {
      await eventually(
        'every process has ended and every session is over',
        () =>
          processesWith(mark).length === 0 &&
          emulators.every((each) => each.openSessionCount() === 0),
        deadlineMs,
        () =>
          JSON.stringify({
            processes: processesWith(mark),
            sessions: emulators.flatMap((each) => each.sessions.filter((s) => s.state === 'open')),
          }),
      );
      const violations = emulators.flatMap((each) => each.violations());
      if (violations.length > 0) throw new Error(`protocol violations: ${violations.join('; ')}`);
    },
    async close() {
      await Promise.all(emulators.map((each) => each.close()));
      for (const each of [gate, bastion, db, app]) {
        await each.sshd.stop();
        await each.namespace.close();
      }
      await desk.close();
    },
  };

  async function host(options: NamespaceOptions, lines: readonly string[]): Promise<Host> {
    const namespace = await makeNamespace(options);
    const users = options.users ?? [];
    const dir = join(namespace.dir, 'sshd');
    mkdirSync(dir, { mode: 0o755 });
    const files = join(namespace.dir, 'files');
    mkdirSync(files);
    chmodSync(files, 0o777);
    const sshd = await startSshd({
      dir,
      listenAddress: '0.0.0.0',
      prefix: namespace.prefix,
      extraConfig: [
        ...lines,
        // The bridge is there for the hosts that open sessions themselves.
        `SetEnv PATH=${join(desk.dir, 'bin')}:/usr/bin:/bin`,
        `AllowUsers ${users.join(' ')}`,
      ],
    });
    chmodSync(sshd.authorizedKeysFile, 0o644);
    return { namespace, sshd, users, files };
  }
}

/** Keys pushed to the node count beside those in the file. */
function pushedKeys(emulator: Emulator, nodeId: string): readonly string[] {
  return [
    `AuthorizedKeysCommand ${emulator.authorizedKeysCommand(nodeId)}`,
    'AuthorizedKeysCommandUser root',
  ];
}

/** A copy, because users in a namespace need not be able to read the source tree. */
function installBridge(bin: string): void {
  const program = bridgeProgram();
  const lib = `${bin}-lib`;
  cpSync(dirname(program), lib, { recursive: true });
  mkdirSync(bin);
  symlinkSync(join(lib, 'ssm-bridge.cjs'), join(bin, 'ssm-bridge'));
}

/** Profiles as people have them: endpoints and trust in the config file, keys in the credentials file. */
function writeAwsFiles(home: string, accounts: Readonly<Record<string, Emulator>>): void {
  const dir = join(home, '.aws');
  mkdirSync(dir);
  const config: string[] = [];
  const credentials: string[] = [];
  for (const [profile, emulator] of Object.entries(accounts)) {
    const ca = join(dir, `${profile}.pem`);
    copyFileSync(emulator.caFile, ca);
    config.push(
      `[profile ${profile}]`,
      `region = ${emulator.env['AWS_REGION'] ?? ''}`,
      `ca_bundle = ${ca}`,
      `services = ${profile}`,
      `[services ${profile}]`,
      'ssm =',
      `  endpoint_url = ${emulator.endpoint}`,
      'ec2_instance_connect =',
      `  endpoint_url = ${emulator.endpoint}`,
    );
    credentials.push(
      `[${profile}]`,
      `aws_access_key_id = ${emulator.env['AWS_ACCESS_KEY_ID'] ?? ''}`,
      `aws_secret_access_key = ${emulator.env['AWS_SECRET_ACCESS_KEY'] ?? ''}`,
      `aws_session_token = ${emulator.env['AWS_SESSION_TOKEN'] ?? ''}`,
    );
  }
  writeFileSync(join(dir, 'config'), `${config.join('\n')}\n`);
  writeFileSync(join(dir, 'credentials'), `${credentials.join('\n')}\n`);
}

/** One key for each host: `~/.ssh/<host>_ed25519`. */
async function writeKeys(home: string, hosts: Readonly<Record<string, Host>>): Promise<void> {
  const dir = join(home, '.ssh');
  mkdirSync(dir, { mode: 0o700 });
  for (const [name, each] of Object.entries(hosts)) {
    const file = join(dir, `${name}_ed25519`);
    await generateKey(file);
    appendFileSync(each.sshd.authorizedKeysFile, readFileSync(`${file}.pub`));
  }
}

function writeKnownHosts(home: string, hosts: Readonly<Record<string, Host>>): void {
  const names: Record<string, readonly string[]> = {
    gate: ['gate.example.com'],
    bastion: [nodes.bastion, nodes.hybrid, `[${nodes.hybrid}]:22222`],
    db: ['db.internal', nodes.db],
    app: ['app.internal', '[app.internal]:2022', nodes.app, `[${nodes.app}]:2022`],
  };
  const lines = Object.entries(hosts).map(
    ([name, each]) => `${(names[name] ?? []).join(',')} ${each.sshd.hostPublicKey}\n`,
  );
  writeFileSync(join(home, '.ssh', 'known_hosts'), lines.join(''));
}
