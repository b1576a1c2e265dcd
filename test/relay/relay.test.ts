import { spawn, type ChildProcess } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import {
  closeSync,
  existsSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { PassThrough, type Readable, type Writable } from 'node:stream';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { build } from 'esbuild';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { baseEnv, eventually, residentBytes } from '../support/process.ts';
import { pattern } from '../transport/harness.ts';
import type { Command, Event, Report, Reports } from './driver-messages.ts';

const directory = mkdtempSync(join(tmpdir(), 'sb-relay-'));
const program = join(directory, 'driver.cjs');

beforeAll(async () => {
  await build({
    entryPoints: [join(import.meta.dirname, 'driver.ts')],
    outfile: program,
    bundle: true,
    platform: 'node',
    target: 'node20',
    format: 'cjs',
    logLevel: 'warning',
  });
});
afterAll(() => {
  rmSync(directory, { recursive: true });
});

const running = new Set<ChildProcess>();
afterEach(() => {
  for (const child of running) child.kill('SIGKILL');
  running.clear();
});

interface RelayOptions {
  readonly isTerminal?: boolean;
  readonly stderr?: 'pipe';
  /** Descriptors instead of pipes. */
  readonly stdin?: number;
  readonly stdout?: number;
}

/** The relay in a process of its own, with real pipes; stderr goes to a file, which has no buffer. */
class Relay {
  static #count = 0;
  readonly child: ChildProcess;
  readonly stdin: Writable;
  readonly stdout: Readable;
  readonly reports: Report[] = [];
  readonly exited: Promise<number | NodeJS.Signals | null>;
  readonly #stderrFile = join(directory, `stderr-${(Relay.#count += 1)}`);
  readonly #watchers = new Set<() => void>();

  constructor(options: RelayOptions = {}) {
    const file = options.stderr === undefined ? openSync(this.#stderrFile, 'w') : undefined;
    this.child = spawn(
      process.execPath,
      [program, ...(options.isTerminal === true ? ['terminal'] : [])],
      {
        env: { ...baseEnv() },
        stdio: [options.stdin ?? 'pipe', options.stdout ?? 'pipe', file ?? 'pipe', 'ipc'],
      },
    );
    if (file !== undefined) closeSync(file);
    running.add(this.child);
    this.stdin = this.child.stdin ?? new PassThrough();
    this.stdout = this.child.stdout ?? new PassThrough();
    this.stdin.on('error', () => undefined);
    this.child.on('message', (message: Report) => {
      this.reports.push(message);
      for (const watcher of [...this.#watchers]) watcher();
    });
    this.exited = new Promise((resolve) => {
      this.child.once('exit', (code, signal) => {
        resolve(code ?? signal);
      });
    });
  }

  get stderr(): string {
    return readFileSync(this.#stderrFile, 'utf8');
  }

  command(command: Command): void {
    this.child.send(command);
  }

  find<E extends Event>(event: E): Reports[E] | undefined {
    // What is found carries the event's name and with it the event's fields.
    return this.reports.findLast((report) => report.event === event) as Reports[E] | undefined;
  }

  /** The latest report of its kind that fits. */
  until<E extends Event>(
    event: E,
    fits: (report: Reports[E]) => boolean = () => true,
  ): Promise<Reports[E]> {
    return new Promise((resolve, reject) => {
      const check = (): void => {
        const found = this.find(event);
        if (found === undefined || !fits(found)) return;
        this.#watchers.delete(check);
        resolve(found);
      };
      this.#watchers.add(check);
      void this.exited.then(() => {
        check();
        reject(new Error(`it ended without ${event}`));
      });
      check();
    });
  }

  /** Ends the remote side, and with it what is upstream of it. */
  end(): void {
    this.command({ do: 'end' });
    this.command({ do: 'release' });
    this.stdin.end();
  }

  /** Until the endpoint is connected. */
  async started(): Promise<this> {
    await this.until('ready');
    this.command({ do: 'open' });
    await this.until('started');
    return this;
  }

  async readAll(): Promise<Buffer> {
    const chunks: Buffer[] = [];
    for await (const chunk of this.stdout) chunks.push(chunk as Buffer);
    return Buffer.concat(chunks);
  }
}

const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

describe('input', () => {
  it('arrives whole and in order', async () => {
    const relay = await new Relay().started();
    const sent = pattern(3_000_000);
    relay.stdin.write(sent);
    const { sha256: got } = await relay.until('received', ({ bytes }) => bytes === sent.length);
    expect(got).toBe(sha256(sent));
  });

  it('that comes before the endpoint exists waits for it', async () => {
    const relay = new Relay();
    relay.stdin.write('early');
    await relay.until('ready');
    relay.command({ do: 'open' });
    const { sha256: got } = await relay.until('received');
    expect(got).toBe(sha256(Buffer.from('early')));
  });

  it('that nobody takes makes its writer wait, and none of it is lost', async () => {
    const relay = await new Relay().started();
    relay.command({ do: 'pull', isPulling: false });
    const sent = pattern(8 * 1024 * 1024);
    const written = new Promise((resolve) => {
      relay.stdin.write(sent, resolve);
    });
    const before = residentBytes(relay.child.pid ?? 0);
    await eventually('the pipe to be full', () => relay.stdin.writableNeedDrain);
    for (let count = 0; count < 50; count += 1) await new Promise((r) => setImmediate(r));
    expect(relay.stdin.writableLength).toBeGreaterThan(7 * 1024 * 1024);
    expect(residentBytes(relay.child.pid ?? 0) - before).toBeLessThan(16 * 1024 * 1024);
    relay.command({ do: 'pull', isPulling: true });
    await written;
    const { sha256: got } = await relay.until('received', ({ bytes }) => bytes === sent.length);
    expect(got).toBe(sha256(sent));
  });

  it('that has ended does not end what is still to come back', async () => {
    const relay = await new Relay().started();
    const output = relay.readAll();
    relay.stdin.end('question');
    await relay.until('received', ({ bytes }) => bytes === 8);
    relay.command({ do: 'deliver', bytes: 300_000 });
    relay.end();
    expect((await output).equals(pattern(300_000))).toBe(true);
    expect(await relay.exited).toBe(0);
  });

  it('that ends together with the reader ends the session', async () => {
    const relay = await new Relay().started();
    relay.stdout.destroy();
    relay.stdin.end('last words');
    expect((await relay.until('terminated')).received).toBe(10);
    relay.command({ do: 'release' });
    expect([await relay.exited, relay.stderr]).toEqual([0, '{"kind":"left"}\n']);
  });

  it('that ends before the endpoint exists ends the one that is made later', async () => {
    const relay = new Relay();
    await relay.until('ready');
    relay.stdout.destroy();
    relay.stdin.end();
    await eventually('a verdict', () => relay.stderr !== '');
    relay.command({ do: 'open' });
    await relay.until('terminated');
    relay.command({ do: 'release' });
    expect(await relay.exited).toBe(0);
  });
});

it.each(['a file', '/dev/null'])('input can be %s', async (kind) => {
  const path = kind === 'a file' ? join(directory, 'input') : kind;
  const sent = kind === 'a file' ? pattern(1_000_000) : new Uint8Array(0);
  if (kind === 'a file') writeFileSync(path, sent);
  const stdin = openSync(path, 'r');
  const relay = await new Relay({ stdin }).started();
  closeSync(stdin);
  if (sent.length > 0) {
    const { sha256: got } = await relay.until('received', ({ bytes }) => bytes === sent.length);
    expect(got).toBe(sha256(sent));
  }
  relay.stdout.destroy();
  await relay.until('terminated');
  relay.command({ do: 'release' });
  expect(await relay.exited).toBe(0);
});

it('output can be a file, and is whole in it', async () => {
  const path = join(directory, 'output');
  const stdout = openSync(path, 'w');
  const relay = await new Relay({ stdout }).started();
  closeSync(stdout);
  relay.command({ do: 'deliver', bytes: 3_000_000 });
  await relay.until('delivered');
  relay.end();
  expect(await relay.exited).toBe(0);
  expect(readFileSync(path).equals(pattern(3_000_000))).toBe(true);
});

describe('output', () => {
  it('is the delivered bytes and nothing else', async () => {
    const relay = await new Relay().started();
    const output = relay.readAll();
    relay.command({ do: 'deliver', bytes: 5_000_000 });
    await relay.until('delivered');
    relay.end();
    expect((await output).equals(pattern(5_000_000))).toBe(true);
  });

  it('that nobody takes makes the endpoint wait after a megabyte, and all of it comes in the end', async () => {
    const relay = await new Relay().started();
    relay.command({ do: 'deliver', bytes: 6_000_000 });
    const { delivered } = await relay.until('paused');
    expect(delivered).toBeLessThan(1_200_000);
    expect(relay.find('resumed')).toBeUndefined();
    const output = relay.readAll();
    await relay.until('resumed', (report) => report.delivered > 1_200_000);
    await relay.until('delivered');
    relay.end();
    expect((await output).equals(pattern(6_000_000))).toBe(true);
  });

  it('that drips in byte by byte does not cost a whole read for each byte', async () => {
    const relay = await new Relay().started();
    relay.command({ do: 'drip', bytes: 100_000 });
    expect((await relay.until('memory')).residentBytes).toBeLessThan(300 * 1024 * 1024);
  });

  it('without a reader ends the session at the next byte', async () => {
    const relay = await new Relay().started();
    relay.stdout.destroy();
    relay.command({ do: 'deliver', bytes: 10 });
    await relay.until('terminated');
    relay.command({ do: 'release' });
    expect([await relay.exited, relay.stderr]).toEqual([0, '{"kind":"left"}\n']);
  });

  // Only Linux has a device that is always full.
  it.runIf(existsSync('/dev/full'))('that cannot be written is a failure', async () => {
    const stdout = openSync('/dev/full', 'w');
    const relay = await new Relay({ stdout }).started();
    closeSync(stdout);
    relay.command({ do: 'deliver', bytes: 10 });
    await relay.until('terminated');
    relay.command({ do: 'release' });
    relay.stdin.end();
    expect([await relay.exited, relay.stderr]).toEqual([
      7,
      'failed: could not write to standard output: no space left on device (ENOSPC)\n',
    ]);
  });

  it.runIf(existsSync('/dev/full'))('that is lost turns the end into a failure', async () => {
    const stdout = openSync('/dev/full', 'w');
    const relay = await new Relay({ stdout }).started();
    closeSync(stdout);
    relay.command({ do: 'finish', bytes: 10 });
    await relay.until('terminated');
    relay.command({ do: 'release' });
    relay.stdin.end();
    expect([await relay.exited, relay.stderr]).toEqual([
      7,
      'failed: could not write to standard output: no space left on device (ENOSPC)\n',
    ]);
  });

  it('of a stopped reader is waited for when the remote side has ended', async () => {
    const relay = await new Relay().started();
    relay.command({ do: 'deliver', bytes: 500_000 });
    relay.end();
    await once(relay.stdout, 'readable');
    for (let count = 0; count < 50; count += 1) await new Promise((r) => setImmediate(r));
    expect(relay.stderr).toBe('');
    expect((await relay.readAll()).equals(pattern(500_000))).toBe(true);
    expect(await relay.exited).toBe(0);
  });
});

describe('the end of the remote side', () => {
  it('is explained before the reader sees it', async () => {
    const relay = await new Relay().started();
    relay.command({ do: 'deliver', bytes: 100_000 });
    relay.command({ do: 'end' });
    relay.stdout.resume();
    await once(relay.stdout, 'end');
    expect(relay.stderr).toBe('ended\n');
    relay.stdin.end();
    relay.command({ do: 'release' });
    expect(await relay.exited).toBe(0);
  });

  it('leaves the writer unharmed until it ends too', async () => {
    const relay = await new Relay().started();
    const errors: unknown[] = [];
    relay.stdin.on('error', (error) => errors.push(error));
    // Nobody takes it any more, and still it must be read.
    relay.command({ do: 'pull', isPulling: false });
    relay.command({ do: 'end' });
    relay.command({ do: 'release' });
    relay.stdout.resume();
    await once(relay.stdout, 'end');
    await new Promise((resolve) => relay.stdin.write(pattern(500_000), resolve));
    relay.stdin.end();
    expect([await relay.exited, errors]).toEqual([0, []]);
  });

  it('does not wait for a writer that never ends', async () => {
    const relay = await new Relay().started();
    relay.command({ do: 'end' });
    relay.command({ do: 'release' });
    relay.stdout.resume();
    expect(await relay.exited).toBe(0);
  });

  it('that is no beginning either is an end with its own status', async () => {
    const relay = new Relay();
    await relay.until('ready');
    relay.command({ do: 'refuse' });
    relay.stdout.resume();
    relay.stdin.end();
    expect([await relay.exited, relay.stderr]).toEqual([7, 'failed: refused\n']);
  });

  it('is brought about by an internal error', async () => {
    const relay = await new Relay().started();
    relay.stdout.resume();
    relay.command({ do: 'fail' });
    relay.stdin.end();
    await relay.until('terminated');
    relay.command({ do: 'release' });
    expect([await relay.exited, relay.stderr]).toEqual([7, 'failed: fatal\n']);
  });

  it('leaves no timer that would hold up the process', async () => {
    const relay = await new Relay().started();
    relay.stdout.resume();
    relay.end();
    const { resources } = await relay.until('done');
    expect(resources).not.toContain('Timeout');
  });
});

describe('signals', () => {
  it.each(['SIGINT', 'SIGQUIT', 'SIGTSTP'] as const)('%s changes nothing', async (signal) => {
    const relay = await new Relay().started();
    relay.child.kill(signal);
    relay.command({ do: 'deliver', bytes: 3 });
    expect((await once(relay.stdout, 'data'))[0]).toEqual(Buffer.from(pattern(3)));
    relay.end();
    expect([await relay.exited, relay.stderr]).toEqual([0, 'ended\n']);
  });

  it('SIGCONT has the connection looked at', async () => {
    const relay = await new Relay().started();
    relay.child.kill('SIGCONT');
    await relay.until('probed');
  });

  it('SIGTERM ends the session and is the status', async () => {
    const relay = await new Relay().started();
    relay.child.kill('SIGTERM');
    await relay.until('terminated');
    relay.command({ do: 'release' });
    expect([await relay.exited, relay.stderr]).toEqual([1, '{"kind":"signal","name":"SIGTERM"}\n']);
  });

  it('SIGTERM while the endpoint is being made ends the one that comes', async () => {
    const relay = new Relay();
    await relay.until('ready');
    relay.child.kill('SIGTERM');
    await eventually('a verdict', () => relay.stderr !== '');
    relay.command({ do: 'open' });
    await relay.until('terminated');
    relay.command({ do: 'release' });
    expect(await relay.exited).toBe(1);
  });

  it('SIGTERM does not wait for a stopped reader', async () => {
    const relay = await new Relay().started();
    relay.command({ do: 'deliver', bytes: 500_000 });
    relay.command({ do: 'end' });
    await once(relay.stdout, 'readable');
    relay.child.kill('SIGTERM');
    relay.command({ do: 'release' });
    expect(await relay.exited).toBe(0);
  });

  it('SIGHUP with an open input and a living parent changes nothing', async () => {
    const relay = await new Relay().started();
    relay.child.kill('SIGHUP');
    relay.stdin.write('still here');
    await relay.until('received', ({ bytes }) => bytes === 10);
    expect(relay.find('terminated')).toBeUndefined();
  });

  it('SIGHUP with the end of input ends the session', async () => {
    const relay = await new Relay().started();
    relay.stdin.end();
    relay.child.kill('SIGHUP');
    await relay.until('terminated');
    relay.command({ do: 'release' });
    expect([await relay.exited, relay.stderr]).toEqual([1, '{"kind":"signal","name":"SIGHUP"}\n']);
  });

  it('SIGINT on a terminal of its own ends the session', async () => {
    const relay = await new Relay({ isTerminal: true }).started();
    relay.child.kill('SIGINT');
    await relay.until('terminated');
    relay.command({ do: 'release' });
    expect(await relay.exited).toBe(1);
  });
});

it('stderr is closed while the session is still being ended, so that nobody waits for it', async () => {
  const relay = await new Relay({ stderr: 'pipe' }).started();
  const { stderr } = relay.child;
  if (stderr === null) throw new Error('no stderr');
  stderr.resume();
  const closed = once(stderr, 'end');
  relay.child.kill('SIGTERM');
  await closed;
  expect(relay.find('done')).toBeUndefined();
  relay.command({ do: 'release' });
  await relay.exited;
});

it('stdout is closed while the session is still being ended', async () => {
  const relay = await new Relay().started();
  relay.stdout.resume();
  const closed = once(relay.stdout, 'end');
  relay.child.kill('SIGTERM');
  await closed;
  expect(relay.find('done')).toBeUndefined();
  relay.command({ do: 'release' });
  await relay.exited;
});
