#!/usr/bin/env node
'use strict';
// Starts the bundled program, with V8's code cache of an earlier run when there is one for exactly this
// build and this Node. Nothing here may fail: without the cache the program starts a little slower.
const fs = require('node:fs');
const path = require('node:path');
const vm = require('node:vm');

const build = '__BUILD__';
const keepCaches = 3;

/**
 * V8 checks a cache for its version and the length of the source only, and then trusts it: a cache of another
 * Node release can crash the process (nodejs/node#62781). So everything that could make a difference is in
 * the directory's name, and the directory must be ours alone, since what is in it is code.
 */
function cacheDirectory() {
  const { env, execArgv, execPath, version, versions, platform, arch } = process;
  if (env.SSM_BRIDGE_NO_CODE_CACHE || !process.getuid) return undefined;
  const base = env.XDG_CACHE_HOME || (env.HOME && path.join(env.HOME, '.cache'));
  if (!base || !path.isAbsolute(base)) return undefined;
  const node = fs.statSync(execPath);
  const flags = hash(`${execArgv.join(' ')}|${env.NODE_OPTIONS || ''}`);
  const parts = [
    build,
    version,
    versions.v8,
    platform,
    arch,
    node.size,
    Math.trunc(node.mtimeMs),
    flags,
  ];
  const directory = path.join(base, 'ssm-bridge', parts.join('-'));
  return isOurs(path.dirname(directory)) && isOurs(directory) ? directory : undefined;
}

function isOurs(directory) {
  const stat = fs.lstatSync(directory, { throwIfNoEntry: false });
  return (
    !stat || (stat.isDirectory() && stat.uid === process.getuid() && (stat.mode & 0o022) === 0)
  );
}

function hash(text) {
  let value = 5381;
  for (let i = 0; i < text.length; i += 1) value = ((value * 33) ^ text.charCodeAt(i)) >>> 0;
  return value;
}

function attempt(action) {
  try {
    return action();
  } catch {
    return undefined;
  }
}

const cache = attempt(cacheDirectory);
const modules = new Map();
const scripts = new Map();
let packed = {};

function compile(name) {
  const filename = path.join(__dirname, name);
  const file = cache && path.join(cache, name);
  const cachedData = file && attempt(() => fs.readFileSync(file));
  // The build writes ASCII, which as latin1 is taken over without decoding.
  const source = fs.readFileSync(filename, 'latin1');
  const script = new vm.Script(`(function(exports,require,module){${source}\n})`, {
    filename,
    cachedData,
  });
  scripts.set(name, { script, isStale: !cachedData || script.cachedDataRejected === true });
  return script.runInThisContext();
}

/** The chunks of the program: those every connection needs are packed into main.cjs, others are files. */
function load(id) {
  if (!id.startsWith('./')) return require(id);
  const name = id.slice(2);
  const known = modules.get(name);
  if (known) return known.exports;
  const module = { exports: {} };
  modules.set(name, module);
  const define = packed[name] || compile(name.replace(/\.js$/, '.cjs'));
  define.call(module.exports, module.exports, load, module);
  return module.exports;
}

/** Node's own recursive mkdir never returns where the file system says ENOENT for ever, as /proc does. */
function makeDirectory(directory, missingParents) {
  if (fs.existsSync(directory)) return;
  if (missingParents > 0) makeDirectory(path.dirname(directory), missingParents - 1);
  fs.mkdirSync(directory, { mode: 0o700 });
}

/** Called when the session is up: by then V8 has compiled what a connection needs. */
function saveCodeCache() {
  if (!cache) return;
  attempt(() => {
    const stale = [...scripts].filter(([, { isStale }]) => isStale);
    if (stale.length === 0) return;
    makeDirectory(cache, 3);
    if (!isOurs(path.dirname(cache)) || !isOurs(cache)) return;
    for (const [name, entry] of stale) {
      const draft = path.join(cache, `.${name}.${process.pid}`);
      fs.writeFileSync(draft, entry.script.createCachedData(), { mode: 0o600, flag: 'wx' });
      fs.renameSync(draft, path.join(cache, name));
      entry.isStale = false;
    }
    prune(path.dirname(cache));
  });
}

/** Upgrades of Node and of this program leave caches behind. */
function prune(directory) {
  const caches = fs
    .readdirSync(directory, { withFileTypes: true })
    .filter((entry) => entry.isDirectory())
    .map(({ name }) => ({ name, at: fs.statSync(path.join(directory, name)).mtimeMs }))
    .filter(({ name }) => name !== path.basename(cache))
    .sort((a, b) => b.at - a.at);
  for (const { name } of caches.slice(keepCaches - 1)) {
    fs.rmSync(path.join(directory, name), { recursive: true, force: true });
  }
}

/**
 * What a key on the terminal sends is meant for ssh, which may survive it, and so is a SIGHUP that ssh ignores
 * under nohup: Node sets every signal back to its default at the start, also one that was to be ignored.
 * Before the relay has its handlers we would die of them; should ssh die, the end of its pipe tells us. Run
 * by hand, Ctrl-C works from the relay on.
 */
if (process.argv[2] === 'connect') {
  for (const name of ['SIGHUP', 'SIGINT', 'SIGQUIT', 'SIGTSTP']) process.on(name, () => {});
}

if (Number(process.versions.node.split('.')[0]) < 20) {
  fs.writeSync(2, `ssm-bridge: Node 20.19 or later is needed, and this is ${process.version}\n`);
  process.exitCode = 2;
} else {
  packed = load('./main.js');
  load('./bin.js').start({ saveCodeCache });
}
