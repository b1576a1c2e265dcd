/** Many logins at once: one node or many, a service that throttles, owners of the agent that die. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { openKeyBench, type KeyBench } from '../ssh/key-bench.ts';
import { eventually, start, type Finished } from '../support/process.ts';

const count = 50;
const nodes = Array.from(
  { length: count },
  (_, index) => `i-0123456789abcde${index.toString(16).padStart(2, '0')}`,
);

let keys: KeyBench;
beforeAll(async () => {
  keys = await openKeyBench({ nodes, emulator: { keyPushLimit: 20 } });
});
afterEach(() => keys.assertClean());
afterAll(() => keys.close());

function parentOf(pid: number): number | undefined {
  try {
    return Number(/^PPid:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]);
  } catch {
    return undefined; // It has ended by itself.
  }
}

const outcome = ({ code, stderr }: Finished): readonly [number | null, string] => [code, stderr];
const allIn = Array.from({ length: count }, () => [0, '']);
/** Fifty nodes of Node.js starting at once take a small machine a while. */
const timeoutMs = 110_000;

describe(`${count} logins at once`, () => {
  it('to one node all get in, with few pushes', async () => {
    const config = keys.config(keys.ephemeral());
    const before = keys.pushes();
    const all = await Promise.all(
      nodes.map(() => keys.ssh(config, [keys.node, 'true'], { timeoutMs })),
    );
    expect(all.map(outcome)).toEqual(allIn);
    expect(keys.pushes() - before).toBeLessThan(count);
    await eventually('nothing is left', () => readdirSync(keys.agentDirectory).length === 0, 8000);
  });

  it('to as many nodes all get in, each with a key of its own, though pushes are throttled', async () => {
    const config = keys.config(keys.ephemeral());
    const before = keys.emulator.keys.length;
    const all = await Promise.all(
      nodes.map((node) => keys.ssh(config, [node, 'true'], { timeoutMs })),
    );
    expect(all.map(outcome)).toEqual(allIn);
    const pushed = keys.emulator.keys.slice(before).map(({ publicKey }) => publicKey);
    expect(new Set(pushed).size).toBe(count);
  });
});

describe('the owner of the agent', () => {
  /** A bridge alone, which owns the agent of this bench's first node until it ends. */
  async function ownerAlone() {
    const path = join(keys.agentDirectory, `${keys.sshd.user}@${keys.node}:22`);
    const options = ['--push-key', 'auto', '--user', keys.sshd.user, '--agent-socket', path];
    const owner = keys.bench.bridge(['connect', ...options, keys.node, '22'], { stdin: 'pipe' });
    const isReady = (): boolean => readdirSync(keys.agentDirectory).join() === basename(path);
    await eventually('it listens', () => existsSync(path) && isReady(), 10_000);
    return owner;
  }

  function endOrphans(): void {
    // What is killed cannot end its session; the service does that when it has been idle for long.
    for (const session of keys.emulator.sessions) {
      if (session.state === 'open') session.end('emulator');
    }
  }

  it('that is killed leaves a socket that stops nobody', async () => {
    const owner = await ownerAlone();
    owner.signal('SIGKILL');
    await owner.exited;
    const config = keys.config(keys.ephemeral());
    const next = await Promise.all([1, 2, 3].map(() => keys.ssh(config, [keys.node, 'true'])));
    endOrphans();
    expect(next.map(outcome)).toEqual(next.map(() => [0, '']));
    await eventually('nothing is left', () => readdirSync(keys.agentDirectory).length === 0, 8000);
  });

  it('that is killed is replaced by the logins that wait', async () => {
    const owner = await ownerAlone();
    const config = keys.config(keys.ephemeral());
    const options = '-o BatchMode=no -o StrictHostKeyChecking=ask -o UserKnownHostsFile=/dev/null';
    const waiting = Array.from({ length: 5 }, () =>
      start(['script', '-qfec', `ssh -F ${config} ${options} ${keys.node} echo in`, '/dev/null'], {
        env: keys.env,
        stdin: 'pipe',
      }),
    );
    await Promise.all(waiting.map((each) => each.waitForStdout(/fingerprint\]\)\?/)));
    owner.signal('SIGKILL');
    await owner.exited;
    for (const each of waiting) each.stdin.write('yes\n');
    const codes = await Promise.all(
      waiting.map(async (each) => {
        const { code } = await each.exited;
        each.stdin.end();
        return code;
      }),
    );
    endOrphans();
    expect(codes).toEqual([0, 0, 0, 0, 0]);
  });

  it('that is killed again and again leaves an agent that works', async () => {
    const config = keys.config(keys.ephemeral());
    const state = { isOver: false };
    const killing = (async () => {
      while (!state.isOver) {
        await eventually(
          'a bridge runs',
          () => state.isOver || keys.bench.bridgePids().length > 2,
          10_000,
        );
        const [pid] = keys.bench.bridgePids();
        try {
          if (pid !== undefined) process.kill(pid, 'SIGKILL');
        } catch {
          // It ended by itself.
        }
      }
    })();
    for (let turn = 0; turn < 4; turn++) {
      await Promise.all([1, 2, 3, 4, 5].map(() => keys.ssh(config, [keys.node, 'true'])));
    }
    state.isOver = true;
    await killing;
    const next = await Promise.all(
      [1, 2, 3, 4, 5].map(() => keys.ssh(config, [keys.node, 'true'])),
    );
    endOrphans();
    expect(next.map(outcome)).toEqual(next.map(() => [0, '']));
  });

  it('that gets SIGTERM while others log in makes none of them fail', async () => {
    const config = keys.config(keys.ephemeral());
    const state = { isOver: false };
    /** Those whose own bridge was ended. */
    const ended = new Set<number>();
    const seen = new Set<number>();
    const ending = (async () => {
      while (!state.isOver) {
        const pids = (): readonly number[] =>
          keys.bench.bridgePids().filter((pid) => !seen.has(pid));
        await eventually('bridges run', () => state.isOver || pids().length > 2, 20_000);
        const [pid] = pids();
        if (pid === undefined) continue;
        seen.add(pid);
        const parent = parentOf(pid);
        if (parent === undefined) continue;
        try {
          process.kill(pid, 'SIGTERM');
          ended.add(parent);
        } catch {
          // It has ended by itself.
        }
      }
    })();
    const others: Finished[] = [];
    await Promise.all(
      Array.from({ length: 5 }, async () => {
        for (let turn = 0; turn < 6; turn++) {
          const login = keys.startSsh(config, [keys.node, 'true'], { timeoutMs });
          const done = await login.finished;
          if (!ended.has(login.pid)) others.push(done);
        }
      }),
    );
    state.isOver = true;
    await ending;
    expect(ended.size).toBeGreaterThan(0);
    expect(others.map(outcome)).toEqual(others.map(() => [0, '']));
  });

  it('that ends while others log in makes none of them fail', async () => {
    const config = keys.config(keys.ephemeral());
    const results: Finished[] = [];
    // Waves that overlap: somebody always ends while somebody else begins.
    await Promise.all(
      Array.from({ length: 4 }, async () => {
        for (let turn = 0; turn < 6; turn++) {
          results.push(await keys.ssh(config, [keys.node, 'true'], { timeoutMs }));
        }
      }),
    );
    expect(results.map(outcome)).toEqual(results.map(() => [0, '']));
  });
});
