/**
 * Child processes for tests: every one has a hard time limit, its own process group, a clean explicit
 * environment, and an end that is always observed (so nothing is left as a zombie).
 *
 *   const done = await run(['ssh', '-F', config, 'i-0abc', 'true'], { env, timeoutMs: 20_000 });
 *   done.code, done.signal, done.stdout (Buffer), done.stderr (string), done.stdoutSha256, done.stdoutBytes
 *
 *   const child = start([...], { stdin: 'pipe' });
 *   await child.waitForStdout(/ready/); child.signal('SIGINT'); await child.exited;
 *
 * A run that exceeds its time limit is killed with its whole group and rejects, quoting its stderr.
 * `marker()` gives an environment variable that every descendant inherits; `processesWith(marker)`
 * lists the living ones, wherever they were re-parented to (Linux, /proc).
 */
import { spawn, type ChildProcess, type StdioOptions } from 'node:child_process';
import { createHash, randomUUID } from 'node:crypto';
import { createReadStream, readdirSync, readFileSync } from 'node:fs';
import { type Readable, type Writable } from 'node:stream';
import { pipeline } from 'node:stream/promises';

export type Env = Readonly<Record<string, string>>;

export interface StartOptions {
  readonly env: Env;
  readonly cwd?: string;
  /** After this the group is killed and `finished` rejects. */
  readonly timeoutMs?: number;
  /** What to feed and then close. Default: empty (/dev/null). */
  readonly input?: string | Uint8Array | { readonly file: string } | Readable;
  /** Keeps stdin open for the test to write to. */
  readonly stdin?: 'pipe';
  /** Keep only size and hash of stdout; for outputs too large to hold. */
  readonly hashOnly?: boolean;
  /** 'paused' leaves stdout unread until `resumeStdout`; a descriptor is handed over as it is. */
  readonly stdout?: 'read' | 'paused' | number;
  readonly stderr?: 'read' | number;
}

export interface Finished {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: Buffer;
  readonly stderr: string;
  readonly stdoutBytes: number;
  readonly stdoutSha256: string;
  readonly durationMs: number;
}

export interface Running {
  readonly pid: number;
  readonly child: ChildProcess;
  /** Only with `stdin: 'pipe'`. */
  readonly stdin: Writable;
  /** The process has ended; its pipes may still be held open by a descendant. */
  readonly exited: Promise<{ code: number | null; signal: NodeJS.Signals | null }>;
  /** Ended, and every holder of its stdout and stderr has closed them. */
  readonly finished: Promise<Finished>;
  stdoutSoFar(): string;
  stderrSoFar(): string;
  stdoutBytesSoFar(): number;
  /** Resolves when the text so far matches; rejects when the process ends or the deadline passes first. */
  waitForStdout(pattern: RegExp, deadlineMs?: number): Promise<void>;
  waitForStderr(pattern: RegExp, deadlineMs?: number): Promise<void>;
  waitForBytes(count: number, deadlineMs?: number): Promise<void>;
  resumeStdout(): void;
  /** To the process alone. */
  signal(signal: NodeJS.Signals): void;
  /** To everything in its process group. */
  signalGroup(signal: NodeJS.Signals): void;
}

const defaultTimeoutMs = 60_000;
const keptOutputBytes = 96 * 1024 * 1024;

/** Groups to end when the test process itself ends early: they are detached and would outlive it. */
const liveGroups = new Set<number>();
process.once('exit', () => {
  for (const pid of liveGroups) {
    try {
      process.kill(-pid, 'SIGKILL');
    } catch {
      // It ended by itself.
    }
  }
});

/** What every child gets: nothing of this machine's certificates, proxies or AWS settings. */
export function baseEnv(extra: Env = {}): Env {
  return {
    PATH: process.env['PATH'] ?? '/usr/local/bin:/usr/bin:/bin',
    HOME: process.env['HOME'] ?? '/',
    LANG: 'C.UTF-8',
    SHELL: '/bin/sh',
    ...extra,
  };
}

export function start(argv: readonly string[], options: StartOptions): Running {
  const [program, ...args] = argv;
  if (program === undefined) throw new Error('start: no program');
  const startedAt = performance.now();
  const stdio: StdioOptions = [
    options.input === undefined && options.stdin === undefined ? 'ignore' : 'pipe',
    typeof options.stdout === 'number' ? options.stdout : 'pipe',
    typeof options.stderr === 'number' ? options.stderr : 'pipe',
  ];
  const child = spawn(program, args, {
    // NODE_OPTIONS and the like of the test runner must not reach children: the environment is whole.
    env: { ...options.env },
    cwd: options.cwd,
    detached: true,
    stdio,
  });
  if (child.pid !== undefined) liveGroups.add(child.pid);
  const chunks: Buffer[] = [];
  const hash = createHash('sha256');
  let stdoutBytes = 0;
  let stderr = '';
  let hasEnded = false;
  const watchers = new Set<() => void>();
  const changed = (): void => {
    for (const watcher of [...watchers]) watcher();
  };
  const onStdout = (chunk: Buffer): void => {
    stdoutBytes += chunk.length;
    hash.update(chunk);
    if (options.hashOnly !== true) {
      if (stdoutBytes > keptOutputBytes) throw new Error('too much output: use hashOnly');
      chunks.push(chunk);
    }
    changed();
  };
  if (options.stdout !== 'paused') child.stdout?.on('data', onStdout);
  child.stderr?.on('data', (chunk: Buffer) => {
    if (stderr.length < 1024 * 1024) stderr += chunk.toString('utf8');
    changed();
  });
  feed(child, options.input);

  const exited = new Promise<{ code: number | null; signal: NodeJS.Signals | null }>(
    (resolve, reject) => {
      child.once('error', reject);
      child.once('exit', (code, signal) => {
        hasEnded = true;
        if (child.pid !== undefined) liveGroups.delete(child.pid);
        resolve({ code, signal });
        changed();
      });
    },
  );
  const signalGroup = (signal: NodeJS.Signals): void => {
    if (child.pid === undefined) return;
    try {
      process.kill(-child.pid, signal);
    } catch {
      // The group is already gone.
    }
  };
  const timeoutMs = options.timeoutMs ?? defaultTimeoutMs;
  const finished = new Promise<Finished>((resolve, reject) => {
    const timer = setTimeout(() => {
      signalGroup('SIGKILL');
      child.stdout?.destroy();
      child.stderr?.destroy();
      reject(
        new Error(
          `${argv.join(' ')}: still running after ${timeoutMs} ms; stdout ${stdoutBytes} bytes, stderr: ${stderr}`,
        ),
      );
    }, timeoutMs);
    child.once('error', (error) => {
      clearTimeout(timer);
      reject(error);
    });
    child.once('close', (code, signal) => {
      clearTimeout(timer);
      resolve({
        code,
        signal,
        stdout: Buffer.concat(chunks),
        stderr,
        stdoutBytes,
        stdoutSha256: hash.digest('hex'),
        durationMs: performance.now() - startedAt,
      });
    });
  });
  // A test may look at `exited` only; neither promise may then become an unhandled rejection.
  exited.catch(() => undefined);
  finished.catch(() => undefined);

  const stdoutText = (): string => Buffer.concat(chunks).toString('utf8');
  /** For messages: the output of a test may be megabytes of random bytes. */
  const shown = (): string => `${stdoutBytes} bytes ${JSON.stringify(stdoutText().slice(0, 500))}`;
  const until = (what: string, isTrue: () => boolean, deadlineMs = 20_000): Promise<void> =>
    new Promise((resolve, reject) => {
      const settle = (): void => {
        clearTimeout(timer);
        watchers.delete(check);
      };
      const fail = (why: string): void => {
        settle();
        reject(
          new Error(`${argv.join(' ')}: ${why} ${what}; stdout: ${shown()}; stderr: ${stderr}`),
        );
      };
      const check = (): void => {
        if (isTrue()) {
          settle();
          resolve();
        } else if (hasEnded) {
          fail('ended without');
        }
      };
      const timer = setTimeout(() => {
        fail(`no sign within ${deadlineMs} ms of`);
      }, deadlineMs);
      watchers.add(check);
      check();
    });

  return {
    pid: child.pid ?? -1,
    child,
    get stdin() {
      if (child.stdin === null) throw new Error('stdin is not a pipe');
      return child.stdin;
    },
    exited,
    finished,
    stdoutSoFar: stdoutText,
    stderrSoFar: () => stderr,
    stdoutBytesSoFar: () => stdoutBytes,
    waitForStdout: (pattern, deadlineMs) =>
      until(`${String(pattern)} on stdout`, () => pattern.test(stdoutText()), deadlineMs),
    waitForStderr: (pattern, deadlineMs) =>
      until(`${String(pattern)} on stderr`, () => pattern.test(stderr), deadlineMs),
    waitForBytes: (count, deadlineMs) =>
      until(`${count} bytes on stdout`, () => stdoutBytes >= count, deadlineMs),
    resumeStdout() {
      child.stdout?.on('data', onStdout);
    },
    signal(signal) {
      child.kill(signal);
    },
    signalGroup,
  };
}

export function run(argv: readonly string[], options: StartOptions): Promise<Finished> {
  return start(argv, options).finished;
}

/** Runs and insists on exit status 0; for the steps of a test that are not its subject. */
export async function must(argv: readonly string[], options: StartOptions): Promise<Finished> {
  const done = await run(argv, options);
  if (done.code !== 0) {
    throw new Error(
      `${argv.join(' ')}: exit ${String(done.code ?? done.signal)}: ${done.stderr}${done.stdout.toString().slice(0, 2000)}`,
    );
  }
  return done;
}

function feed(child: ChildProcess, input: StartOptions['input']): void {
  const { stdin } = child;
  if (stdin === null) return;
  // A child that ends before it has read everything is the test's business, not an error here.
  stdin.on('error', () => undefined);
  if (input === undefined) return;
  if (typeof input === 'string' || input instanceof Uint8Array) {
    stdin.end(input);
    return;
  }
  const source = 'file' in input ? createReadStream(input.file) : input;
  pipeline(source, stdin).catch(() => undefined);
}

export const markerName = 'SSM_BRIDGE_TEST_RUN';

/** One variable, unique to a fixture; merge it into the environment of what the fixture starts. */
export function marker(): Env {
  return { [markerName]: randomUUID() };
}

export interface LiveProcess {
  readonly pid: number;
  readonly parentPid: number;
  readonly command: string;
}

/** Living processes whose environment at start held this marker. Zombies are not listed. */
export function processesWith(mark: Env): readonly LiveProcess[] {
  const needle = `${markerName}=${mark[markerName] ?? 'none'}`;
  const found: LiveProcess[] = [];
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    try {
      if (!readFileSync(`/proc/${name}/environ`, 'latin1').includes(needle)) continue;
      const command = readFileSync(`/proc/${name}/cmdline`, 'utf8').replaceAll('\0', ' ').trim();
      found.push({ pid: Number(name), parentPid: parentOf(Number(name)), command });
    } catch {
      // It ended while we looked, or belongs to another user.
    }
  }
  return found;
}

function parentOf(pid: number): number {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8');
  return Number(/^PPid:\s+(\d+)/m.exec(status)?.[1] ?? 0);
}

/** Resident memory of a living process, in bytes. */
export function residentBytes(pid: number): number {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8');
  return Number(/^VmRSS:\s+(\d+) kB/m.exec(status)?.[1] ?? 0) * 1024;
}

export function openDescriptors(pid: number): number {
  return readdirSync(`/proc/${pid}/fd`).length;
}

/**
 * Waits for something only visible by looking (the process table, a file): checks every few
 * milliseconds, rejects with what `describe` says when the deadline passes.
 */
export async function eventually(
  what: string,
  isTrue: () => boolean | Promise<boolean>,
  deadlineMs = 10_000,
  describe: () => string = () => '',
): Promise<void> {
  const deadline = performance.now() + deadlineMs;
  while (!(await isTrue())) {
    if (performance.now() > deadline) {
      throw new Error(`not within ${deadlineMs} ms: ${what} ${describe()}`);
    }
    await new Promise((resolve) => setTimeout(resolve, 15));
  }
}

export function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}

export async function sha256File(file: string): Promise<string> {
  const hash = createHash('sha256');
  await pipeline(createReadStream(file), hash);
  return hash.digest('hex');
}
