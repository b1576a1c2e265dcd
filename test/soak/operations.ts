/** What people do over ssh, each with its own proof that not a byte was lost. */
import { randomBytes } from 'node:crypto';
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Bench } from '../support/bench.ts';
import { run, sha256, sha256File, type Finished } from '../support/process.ts';

export interface Job {
  readonly bench: Bench;
  /** A directory of its own, empty at the start and removed afterwards. */
  readonly dir: string;
  readonly random: () => number;
}

/** Gives the number of bytes that were compared; throws when anything differs. */
export type Operation = (job: Job) => Promise<number>;

const timeoutMs = 240_000;

function size(random: () => number): number {
  return Math.floor(random() ** 3 * 24_000_000) + 1;
}

function source(job: Job, name = 'source'): { path: string; bytes: Buffer } {
  const path = join(job.dir, name);
  const bytes = randomBytes(size(job.random));
  writeFileSync(path, bytes);
  return { path, bytes };
}

/** ssh may say what the bridge says about an outage, and nothing else. */
function check(done: Finished, code = 0): Finished {
  const unexpected = done.stderr
    .split('\n')
    .filter((line) => line !== '' && !/^ssm-bridge: i-\w+: connection (lost|resumed)/.test(line));
  if (done.code !== code || unexpected.length > 0) {
    throw new Error(`exit ${String(done.code ?? done.signal)}: ${done.stderr}`);
  }
  return done;
}

function same(what: string, got: string, wanted: string): void {
  if (got !== wanted) throw new Error(`${what} differs: ${got} instead of ${wanted}`);
}

async function copyBack(job: Job, tool: (from: string, to: string) => Promise<Finished>) {
  const { path, bytes } = source(job);
  const remote = (name: string): string => `${job.bench.host}:${join(job.dir, name)}`;
  check(await tool(path, remote('there')));
  check(await tool(remote('there'), join(job.dir, 'back')));
  same('the copy', await sha256File(join(job.dir, 'there')), sha256(bytes));
  same('the copy back', await sha256File(join(job.dir, 'back')), sha256(bytes));
  return 2 * bytes.length;
}

export const operations: Readonly<Record<string, Operation>> = {
  async 'ssh, exit status'({ bench, random }) {
    const code = Math.floor(random() * 250);
    check(await bench.ssh([bench.host, `exit ${code}`], { timeoutMs }), code);
    return 0;
  },
  async 'ssh, upload'(job) {
    const { path, bytes } = source(job);
    const done = check(
      await job.bench.ssh([job.bench.host, 'sha256sum'], { input: { file: path }, timeoutMs }),
    );
    same('the upload', done.stdout.toString().split(' ')[0] ?? '', sha256(bytes));
    return bytes.length;
  },
  async 'ssh, download'(job) {
    const { path, bytes } = source(job);
    const done = await job.bench.ssh([job.bench.host, `cat ${path}`], {
      hashOnly: true,
      timeoutMs,
    });
    same('the download', check(done).stdoutSha256, sha256(bytes));
    return bytes.length;
  },
  async 'ssh, both ways'(job) {
    const { path, bytes } = source(job);
    const done = await job.bench.ssh([job.bench.host, 'cat'], {
      input: { file: path },
      hashOnly: true,
      timeoutMs,
    });
    same('the echo', check(done).stdoutSha256, sha256(bytes));
    return 2 * bytes.length;
  },
  scp: (job) =>
    copyBack(job, (from, to) =>
      run(['scp', '-q', '-F', job.bench.config, from, to], { env: job.bench.env, timeoutMs }),
    ),
  'scp -O': (job) =>
    copyBack(job, (from, to) =>
      run(['scp', '-q', '-O', '-F', job.bench.config, from, to], { env: job.bench.env, timeoutMs }),
    ),
  rsync: (job) =>
    copyBack(job, (from, to) =>
      run(['rsync', '-a', '-e', `ssh -F '${job.bench.config}'`, from, to], {
        env: job.bench.env,
        timeoutMs,
      }),
    ),
  async git(job) {
    const env = {
      ...job.bench.env,
      GIT_SSH_COMMAND: `ssh -F '${job.bench.config}'`,
      GIT_CONFIG_GLOBAL: '/dev/null',
      GIT_CONFIG_NOSYSTEM: '1',
      ...{ GIT_AUTHOR_NAME: 'a', GIT_AUTHOR_EMAIL: 'a@example.com' },
      ...{ GIT_COMMITTER_NAME: 'a', GIT_COMMITTER_EMAIL: 'a@example.com' },
    };
    const git = async (cwd: string, ...args: string[]): Promise<string> =>
      check(await run(['git', ...args], { env, cwd, timeoutMs }))
        .stdout.toString()
        .trim();
    const [origin, here, there] = ['origin.git', 'here', 'there'].map((name) =>
      join(job.dir, name),
    );
    if (origin === undefined || here === undefined || there === undefined) return 0;
    const url = `${job.bench.host}:${origin}`;
    await git(job.dir, 'init', '-q', '--bare', '-b', 'main', origin);
    mkdirSync(here);
    await git(here, 'init', '-q', '-b', 'main');
    const bytes = randomBytes(size(job.random));
    writeFileSync(join(here, 'data'), bytes);
    await git(here, 'add', '.');
    await git(here, 'commit', '-q', '-m', 'data');
    await git(here, 'push', '-q', url, 'main');
    await git(job.dir, 'clone', '-q', url, there);
    await git(there, 'fsck', '--full', '--strict');
    same('the clone', await sha256File(join(there, 'data')), sha256(bytes));
    return 2 * bytes.length;
  },
};

/** Runs an operation in a directory of its own. */
export async function perform(
  name: string,
  bench: Bench,
  number: number,
  random: () => number,
): Promise<number> {
  const operation = operations[name];
  if (operation === undefined) throw new Error(`no operation ${name}`);
  const dir = join(bench.dir, `job-${number}`);
  mkdirSync(dir);
  try {
    return await operation({ bench, dir, random });
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}
