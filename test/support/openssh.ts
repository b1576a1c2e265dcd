/**
 * A real sshd and what a real ssh needs to reach it, in one temporary directory.
 *
 *   const sshd = await startSshd();                    // own host key, own client key, own port
 *   const config = writeSshConfig(sshd, { proxyCommand: [process.execPath, bin, 'connect', '%h', '%p'] });
 *   await run(['ssh', '-F', config.file, 'i-0123456789abcdef0', 'true'], { env: baseEnv() });
 *   await sshd.stop();                                 // ends its children, removes the directory
 *
 * `prefix` puts argv in front of sshd (`['ip', 'netns', 'exec', 'x']`), `listenAddress` and
 * `extraConfig` go into sshd_config, `authorizedKeysCommand` replaces the authorized_keys file.
 * sshd runs in the foreground, logs to its stderr (`sshd.log()`), and is up once it has said so.
 * All paths are absolute: sshd re-executes itself per connection from `/`.
 */
import { execFile } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { writeFileSync } from 'node:fs';
import { createServer, type AddressInfo } from 'node:net';
import { tmpdir, userInfo } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { baseEnv, start, type Running } from './process.ts';

const execFileAsync = promisify(execFile);

export interface SshdOptions {
  /** Default 127.0.0.1. */
  readonly listenAddress?: string;
  /** argv put in front of sshd, such as `ip netns exec X`. */
  readonly prefix?: readonly string[];
  /** Absolute program and arguments (sshd tokens allowed); the authorized_keys file is then not used. */
  readonly authorizedKeysCommand?: string;
  /** User the command runs as; default the user of the test. */
  readonly authorizedKeysCommandUser?: string;
  /** Further sshd_config lines; they come first, and sshd takes the first value of a keyword. */
  readonly extraConfig?: readonly string[];
  /** Default true: the generated client key may log in. */
  readonly authorizeClientKey?: boolean;
  /** Directory to use instead of a fresh one; it is then not removed. */
  readonly dir?: string;
}

export interface Sshd {
  readonly address: string;
  readonly port: number;
  readonly pid: number;
  /** Short on purpose: control sockets live in it and have about 100 bytes for their path. */
  readonly dir: string;
  readonly user: string;
  /** `ssh-ed25519 AAAA…`, as in a .pub file. */
  readonly hostPublicKey: string;
  readonly clientKeyFile: string;
  readonly clientPublicKey: string;
  readonly authorizedKeysFile: string;
  log(): string;
  stop(): Promise<void>;
}

export async function startSshd(options: SshdOptions = {}): Promise<Sshd> {
  const dir = options.dir ?? mkdtempSync(join(tmpdir(), 'sb-'));
  const address = options.listenAddress ?? '127.0.0.1';
  const { username } = userInfo();
  preparePrivilegeSeparation();
  const hostKeyFile = join(dir, 'host_key');
  const clientKeyFile = join(dir, 'client_key');
  await Promise.all([generateKey(hostKeyFile), generateKey(clientKeyFile)]);
  const hostPublicKey = publicKeyOf(hostKeyFile);
  const clientPublicKey = publicKeyOf(clientKeyFile);
  const authorizedKeysFile = join(dir, 'authorized_keys');
  const isAuthorized = options.authorizeClientKey !== false;
  writeFileSync(authorizedKeysFile, isAuthorized ? `${clientPublicKey}\n` : '');
  chmodSync(authorizedKeysFile, 0o600);

  const command = options.authorizedKeysCommand;
  const fixed = [
    ...(options.extraConfig ?? []),
    `HostKey ${hostKeyFile}`,
    'PidFile none',
    'UsePAM no',
    'StrictModes no',
    'MaxStartups 200:30:400',
    'MaxSessions 100',
    'PermitRootLogin yes',
    'PasswordAuthentication no',
    'KbdInteractiveAuthentication no',
    'PrintMotd no',
    'PrintLastLog no',
    'UseDNS no',
    'X11Forwarding no',
    'LogLevel VERBOSE',
    'Subsystem sftp internal-sftp',
    'AcceptEnv GIT_PROTOCOL',
    // A shell started by sshd reads ~/.bashrc: what a developer has there is not under test.
    `SetEnv HOME=${dir} HISTFILE=/dev/null`,
    ...((await sshdVersion()) >= 9.8 ? ['PerSourcePenalties no'] : []),
    ...(command === undefined
      ? [`AuthorizedKeysFile ${authorizedKeysFile}`]
      : [
          'AuthorizedKeysFile none',
          `AuthorizedKeysCommand ${command}`,
          `AuthorizedKeysCommandUser ${options.authorizedKeysCommandUser ?? username}`,
        ]),
  ];
  const configFile = join(dir, 'sshd_config');
  const prefix = options.prefix ?? [];
  const { running, port } = await listenSomewhere(address, configFile, fixed, prefix);
  let isStopped = false;
  return {
    address,
    port,
    pid: running.pid,
    dir,
    user: username,
    hostPublicKey,
    clientKeyFile,
    clientPublicKey,
    authorizedKeysFile,
    log: () => running.stderrSoFar(),
    async stop() {
      if (isStopped) return;
      isStopped = true;
      running.signal('SIGTERM');
      await running.exited;
      // Per-connection children have their own sessions; they end with their connections.
      running.signalGroup('SIGKILL');
      if (options.dir === undefined) rmSync(dir, { recursive: true, force: true });
    },
  };
}

/**
 * sshd cannot be asked for port 0, so a port that was free a moment ago is tried, and another one when
 * somebody took it meanwhile (or when it is taken in the network namespace of `prefix`).
 */
async function listenSomewhere(
  address: string,
  configFile: string,
  lines: readonly string[],
  prefix: readonly string[],
): Promise<{ running: Running; port: number }> {
  for (let attempt = 0; ; attempt++) {
    const port = prefix.length === 0 ? await freePort(address) : 20_000 + randomBelow(40_000);
    const listen = [`ListenAddress ${address}`, `Port ${port}`];
    writeFileSync(configFile, [...listen, ...lines, ''].join('\n'));
    const running = start([...prefix, sshdProgram(), '-D', '-e', '-f', configFile], {
      env: baseEnv(),
      timeoutMs: 24 * 3600 * 1000,
    });
    try {
      await running.waitForStderr(new RegExp(`Server listening on .* port ${port}\\.`));
      return { running, port };
    } catch (error) {
      running.signalGroup('SIGKILL');
      const isTaken = running.stderrSoFar().includes('Address already in use');
      if (!isTaken || attempt >= 10) throw error;
    }
  }
}

export interface SshConfigOptions {
  readonly proxyCommand: readonly string[];
  /** Host patterns of the block. Default `i-* mi-*`. */
  readonly hosts?: string;
  /** What ssh asks the proxy for; default 22. */
  readonly port?: number;
  /** Lines put in front of the block's own. */
  readonly extra?: readonly string[];
  /** File name inside the sshd's directory. */
  readonly name?: string;
}

export interface SshConfig {
  readonly file: string;
  readonly knownHostsFile: string;
}

/** An ssh_config whose hosts go through `proxyCommand`; strict host keys, no user files, no agent. */
export function writeSshConfig(sshd: Sshd, options: SshConfigOptions): SshConfig {
  const file = join(sshd.dir, options.name ?? 'ssh_config');
  const knownHostsFile = join(sshd.dir, 'known_hosts');
  if (!existsSync(knownHostsFile)) writeFileSync(knownHostsFile, `* ${sshd.hostPublicKey}\n`);
  const lines = [
    `Host ${options.hosts ?? 'i-* mi-*'}`,
    ...(options.extra ?? []),
    `ProxyCommand ${options.proxyCommand.map(quoteForShell).join(' ')}`,
    `User ${sshd.user}`,
    `Port ${options.port ?? 22}`,
    `IdentityFile ${sshd.clientKeyFile}`,
    'IdentitiesOnly yes',
    'IdentityAgent none',
    `UserKnownHostsFile ${knownHostsFile}`,
    'GlobalKnownHostsFile /dev/null',
    'StrictHostKeyChecking yes',
    'UpdateHostKeys no',
    'PasswordAuthentication no',
    'KbdInteractiveAuthentication no',
    '',
  ];
  writeFileSync(file, lines.join('\n'));
  return { file, knownHostsFile };
}

/** Quotes for the shell that ssh starts; `%h` and the like stay expandable. */
function quoteForShell(word: string): string {
  return /^[\w%./:=@,+-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
}

export async function generateKey(file: string, type = 'ed25519'): Promise<void> {
  await execFileAsync('ssh-keygen', ['-q', '-t', type, '-N', '', '-C', 'test', '-f', file]);
}

export function publicKeyOf(privateKeyFile: string): string {
  const [type, blob] = readFileSync(`${privateKeyFile}.pub`, 'utf8').trim().split(' ');
  return `${type ?? ''} ${blob ?? ''}`;
}

export async function freePort(address = '127.0.0.1'): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(0, address, resolve);
  });
  // A TCP server's address is always an AddressInfo.
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

function randomBelow(limit: number): number {
  return Math.floor(Math.random() * limit);
}

export function sshdProgram(): string {
  const found = ['/usr/sbin/sshd', '/usr/local/sbin/sshd', '/usr/bin/sshd'].find(existsSync);
  if (found === undefined) throw new Error('no sshd: install the OpenSSH server');
  return found;
}

let knownVersion: Promise<number> | undefined;

/** Major and minor as a number, such as 9.2. */
export function sshdVersion(): Promise<number> {
  knownVersion ??= execFileAsync('ssh', ['-V']).then(({ stderr }) =>
    Number(/OpenSSH_(\d+\.\d+)/.exec(stderr)?.[1] ?? 0),
  );
  return knownVersion;
}

/** As root sshd insists on this directory, which packages make at boot only. */
function preparePrivilegeSeparation(): void {
  if (process.getuid?.() === 0 && !existsSync('/run/sshd')) {
    mkdirSync('/run/sshd', { recursive: true, mode: 0o755 });
  }
}
