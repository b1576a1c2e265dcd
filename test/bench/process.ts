import { spawn, type ChildProcess } from 'node:child_process';
import { mkdirSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Readable, Writable } from 'node:stream';

/** The program under test, as installed. */
export const program = join(process.cwd(), 'dist', 'ssm-bridge.cjs');

export const benchNode = 'i-0123456789abcdef0';
export const MiB = 1024 * 1024;

/** A cache directory of the benchmark's own, so that neither the user's is used nor it is disturbed. */
const cacheHome = join(tmpdir(), `ssm-bridge-bench-${process.getuid?.() ?? 0}`);
mkdirSync(cacheHome, { recursive: true, mode: 0o700 });

/** An environment without the machine's own AWS, TLS and Node settings, which change what is measured. */
export function cleanEnvironment(extra: Readonly<Record<string, string>>): NodeJS.ProcessEnv {
  const { PATH, LANG } = process.env;
  return {
    ...(PATH === undefined ? {} : { PATH }),
    ...(LANG === undefined ? {} : { LANG }),
    HOME: cacheHome,
    XDG_CACHE_HOME: join(cacheHome, 'cache'),
    ...extra,
  };
}

export interface BridgeOptions {
  readonly env: Readonly<Record<string, string>>;
  readonly nodeArgs?: readonly string[];
  readonly node?: string;
}

export interface Bridge {
  readonly child: ChildProcess;
  readonly pid: number;
  readonly stdin: Writable;
  readonly stdout: Readable;
}

export function startBridge({ env, nodeArgs = [], node = benchNode }: BridgeOptions): Bridge {
  const child = spawn(process.execPath, [...nodeArgs, program, 'connect', node, '22'], {
    env: cleanEnvironment(env),
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  const { pid, stdin, stdout } = child;
  if (pid === undefined) throw new Error('the bridge did not start');
  stdin.on('error', ignore);
  return { child, pid, stdin, stdout };
}

/** How long anything but a transfer may take; a benchmark that hangs should say where. */
const patienceMs = 60_000;

/** The first chunk of the remote side: the session is up. */
export async function firstOutput({ child, stdout }: Bridge): Promise<void> {
  const chunk = new Promise((resolve) => stdout.once('data', resolve));
  await unlessItEnds(child, within(chunk, patienceMs, 'the first byte'));
}

/** Asks the child to go, insists after a while, and waits until it is gone. */
export async function stop(child: ChildProcess): Promise<void> {
  child.stdin?.end();
  child.stdout?.resume();
  child.kill();
  const timer = setTimeout(() => child.kill('SIGKILL'), 5_000);
  await exited(child);
  clearTimeout(timer);
}

export function exited(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return Promise.resolve();
  return new Promise((resolve) => {
    // Each wait adds a listener; a long-lived child has many of them.
    child.setMaxListeners(0).once('exit', () => {
      resolve();
    });
  });
}

/** Rejects if the child is gone before `promise` is settled. */
export async function unlessItEnds<T>(child: ChildProcess, promise: Promise<T>): Promise<T> {
  const gone = exited(child).then(() => {
    const how = child.signalCode ?? `status ${child.exitCode ?? '?'}`;
    throw new Error(`${child.spawnfile} ended too early: ${how}`);
  });
  gone.catch(ignore);
  return await Promise.race([promise, gone]);
}

export async function within<T>(promise: Promise<T>, ms: number, what: string): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(() => {
      reject(new Error(`${what} took longer than ${ms / 1000} s`));
    }, ms);
  });
  return await Promise.race([promise, late]).finally(() => {
    clearTimeout(timer);
  });
}

export function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

export interface Cost {
  /** CPU time of all threads, ms. */
  readonly cpuMs: number;
  readonly rssBytes: number;
  readonly pssBytes: number;
}

/** Linux only: what /proc says about a process now. */
export function costOf(pid: number): Cost {
  const rollup = readFileSync(`/proc/${pid}/smaps_rollup`, 'latin1');
  const bytes = (name: string): number =>
    Number(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(rollup)?.[1] ?? Number.NaN) * 1024;
  return { cpuMs: cpuMsOf(pid), rssBytes: bytes('Rss'), pssBytes: bytes('Pss') };
}

const ticksPerSecond = 100;

export function cpuMsOf(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
  // Fields after the command name, which may itself contain spaces (proc(5), /proc/pid/stat).
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return ((Number(fields[11]) + Number(fields[12])) * 1000) / ticksPerSecond;
}

/** How often the main thread has gone to sleep, and so been woken. */
export function wakeUpsOf(pid: number): number {
  const status = readFileSync(`/proc/${pid}/task/${pid}/status`, 'latin1');
  return Number(/^voluntary_ctxt_switches:\s+(\d+)/m.exec(status)?.[1] ?? Number.NaN);
}

export function nowMs(): number {
  return performance.timeOrigin + performance.now();
}

export function ignore(): void {
  // A pipe or socket whose other end has gone, as it is meant to.
}
