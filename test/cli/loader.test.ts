import { execFileSync, spawnSync } from 'node:child_process';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  realpathSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';

// The loader with a program of two chunks in place of ours: `cold` is a file of its own.
const program = `module.exports = {
  'bin.js': function (exports, require, module) {
    const { word } = require('./word.js');
    exports.start = ({ saveCodeCache }) => {
      const { twice } = require('./cold.js');
      process.stdout.write(twice(word()) + ' ' + typeof require('node:os').platform());
      saveCodeCache();
    };
  },
  'word.js': function (exports) { exports.word = () => 'hey'; },
};`;
const cold = 'exports.twice = (text) => text + text;';
const output = 'heyhey string';

let directory: string;
let cacheHome: string;

beforeEach(() => {
  directory = realpathSync(mkdtempSync(path.join(tmpdir(), 'loader-')));
  cacheHome = path.join(directory, 'cache');
  const loader = readFileSync(
    fileURLToPath(new URL('../../scripts/loader.cjs', import.meta.url)),
    'utf8',
  );
  writeFileSync(path.join(directory, 'program.cjs'), loader.replace('__BUILD__', 'build1'));
  writeFileSync(path.join(directory, 'main.cjs'), program);
  writeFileSync(path.join(directory, 'cold.cjs'), cold);
});
afterEach(() => {
  rmSync(directory, { recursive: true });
});

function run(env: Readonly<Record<string, string>> = {}, flags: readonly string[] = []): string {
  return execFileSync(process.execPath, [...flags, path.join(directory, 'program.cjs')], {
    encoding: 'utf8',
    cwd: directory,
    env: { HOME: directory, XDG_CACHE_HOME: cacheHome, ...env },
  });
}

function caches(): readonly string[] {
  const parent = path.join(cacheHome, 'ssm-bridge');
  return existsSync(parent) ? readdirSync(parent).map((name) => path.join(parent, name)) : [];
}

/** The one cache that a first run has left. */
function firstCache(): string {
  run();
  const [cache, ...more] = caches();
  if (cache === undefined || more.length > 0) throw new Error(`${String(caches().length)} caches`);
  return cache;
}

function isAcceptedByV8(cache: string): boolean {
  const before = statSync(path.join(cache, 'main.cjs')).mtimeMs;
  utimesSync(path.join(cache, 'main.cjs'), 1, 1);
  run();
  // A cache that V8 refuses is written anew.
  const isKept = statSync(path.join(cache, 'main.cjs')).mtimeMs === 1000;
  return before > 0 && isKept;
}

describe('the code cache', () => {
  test('is written for every chunk that was loaded, for the owner alone', () => {
    const cache = firstCache();
    expect(readdirSync(cache).toSorted()).toEqual(['cold.cjs', 'main.cjs']);
    expect(statSync(cache).mode & 0o777).toBe(0o700);
    expect(statSync(path.join(cache, 'main.cjs')).mode & 0o777).toBe(0o600);
  });

  test('is used by the next run', () => {
    expect(isAcceptedByV8(firstCache())).toBe(true);
    expect(run()).toBe(output);
  });

  test('has the build, Node, V8, the platform and the size of the binary in its name', () => {
    const name = path.basename(firstCache());
    const { version, versions, platform, arch, execPath } = process;
    const size = String(statSync(execPath).size);
    expect(name.startsWith(['build1', version, versions.v8, platform, arch, size].join('-'))).toBe(
      true,
    );
  });

  test('is another one under other V8 flags', () => {
    firstCache();
    expect(run({}, ['--max-old-space-size=256'])).toBe(output);
    expect(run({ NODE_OPTIONS: '--max-old-space-size=300' })).toBe(output);
    expect(caches()).toHaveLength(3);
  });

  test('that is damaged is replaced', () => {
    const cache = firstCache();
    const file = path.join(cache, 'main.cjs');
    for (const damage of [Buffer.alloc(0), Buffer.from('nonsense'), Buffer.alloc(5000, 0xff)]) {
      writeFileSync(file, damage);
      expect(run()).toBe(output);
      expect(readFileSync(file).equals(damage)).toBe(false);
    }
  });

  test('is neither read nor written where others could write', () => {
    const cache = firstCache();
    const file = path.join(cache, 'main.cjs');
    for (const place of [cache, path.dirname(cache)]) {
      writeFileSync(file, 'planted');
      chmodSync(place, 0o777);
      expect(run()).toBe(output);
      expect(readFileSync(file, 'utf8')).toBe('planted');
      chmodSync(place, 0o700);
    }
  });

  test('is not followed through a link', () => {
    const cache = firstCache();
    const elsewhere = path.join(directory, 'elsewhere');
    mkdirSync(elsewhere, { mode: 0o700 });
    rmSync(cache, { recursive: true });
    symlinkSync(elsewhere, cache);
    expect(run()).toBe(output);
    expect(readdirSync(elsewhere)).toEqual([]);
  });

  test.each([
    ['SSM_BRIDGE_NO_CODE_CACHE', { SSM_BRIDGE_NO_CODE_CACHE: '1' }],
    ['a cache directory that is relative', { XDG_CACHE_HOME: 'cache' }],
    ['no home', { XDG_CACHE_HOME: '', HOME: '' }],
  ])('is off with %s', (_, env) => {
    expect(run(env)).toBe(output);
    expect(caches()).toEqual([]);
  });

  test('that cannot be written is done without', () => {
    writeFileSync(cacheHome, 'a file');
    expect(run()).toBe(output);
    // There mkdir says ENOENT for ever.
    expect(run({ XDG_CACHE_HOME: '/proc/nowhere' })).toBe(output);
  });

  test('leaves no more than two others behind', () => {
    const parent = path.dirname(firstCache());
    for (const [name, at] of [
      ['old1', 1],
      ['old2', 2],
      ['old3', 3],
      ['old4', 4],
    ] as const) {
      mkdirSync(path.join(parent, name));
      utimesSync(path.join(parent, name), at, at);
    }
    // Another build than the one that is cached.
    const file = path.join(directory, 'program.cjs');
    writeFileSync(file, readFileSync(file, 'utf8').replace('build1', 'build2'));
    run();
    const names = readdirSync(parent).map((name) => name.split('-')[0]);
    expect(names.toSorted()).toEqual(['build1', 'build2', 'old4']);
  });
});

test.each(['SIGHUP', 'SIGINT', 'SIGQUIT', 'SIGTSTP'])('%s is not the end of connect', (signal) => {
  const early = `module.exports = {
  'bin.js': function (exports) {
    exports.start = () => {
      process.kill(process.pid, '${signal}');
      setTimeout(() => process.stdout.write('alive'), 50);
    };
  },
};`;
  writeFileSync(path.join(directory, 'main.cjs'), early);
  const started = spawnSync(process.execPath, [path.join(directory, 'program.cjs'), 'connect'], {
    encoding: 'utf8',
    env: { HOME: directory },
    timeout: 10_000,
    killSignal: 'SIGKILL',
  });
  expect([started.signal, started.stdout]).toEqual([null, 'alive']);
});
