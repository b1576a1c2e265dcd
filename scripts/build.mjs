// Builds dist/: one file with everything that each connection needs (main.cjs), one file for each thing
// that few need (help, logs, the full credential chain, other commands), and the loader that starts them.
//
// esbuild splits the program as ES modules, so that no module is there twice; each chunk is then turned
// into CommonJS, because V8's code cache works through vm.Script, which knows no ES modules.
import { createHash } from 'node:crypto';
import { mkdir, readFile, readdir, rename, rm, writeFile } from 'node:fs/promises';
import filePromises from 'node:fs/promises';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { build, transform } from 'esbuild';
import { licenseNotices } from './license-notices.mjs';

const root = fileURLToPath(new URL('..', import.meta.url));
const dist = path.join(root, 'dist');
const packageJson = JSON.parse(await readFile(path.join(root, 'package.json'), 'utf8'));

/** Loaded lazily, but by every connection: part of main.cjs. */
const hotImports = ['src/cli/commands/connect.ts'];

/** What must never be loaded by a plain connection. */
const forbiddenInMain = [
  /node_modules\/yargs/,
  /node_modules\/string-width/,
  /node_modules\/pino/,
  /nested-clients/,
  /credential-provider-(?!env)/,
  /client-(?:sts|sso)/,
  /node_modules\/ws\/lib\/websocket-server/,
];

/** Every connection reads and compiles this file: growth should be noticed, and have a reason. */
const mainBudgetBytes = 320 * 1024;

const result = await build({
  absWorkingDir: root,
  entryPoints: ['src/bin.ts'],
  outdir: 'dist',
  bundle: true,
  splitting: true,
  write: false,
  metafile: true,
  format: 'esm',
  platform: 'node',
  target: 'node20',
  // The ES module builds of the SDK can be tree-shaken, the CommonJS ones cannot.
  mainFields: ['module', 'main'],
  charset: 'ascii',
  legalComments: 'none',
  chunkNames: '[name]-[hash]',
  logLevel: 'warning',
  define: {
    SSM_BRIDGE_VERSION: JSON.stringify(packageJson.version),
    // No native add-ons: they would be tried with require() on every start.
    'process.env.WS_NO_BUFFER_UTIL': '"1"',
    'process.env.WS_NO_UTF_8_VALIDATE': '"1"',
    // Only compared with; reading the global would load all of web streams.
    ReadableStream: 'undefined',
    'import.meta.url': 'importMetaUrl',
  },
  plugins: [
    lazyFilePromises(),
    slimWebSocket(),
    pruneSsmClient(),
    withoutDefaultChain(),
    credentialChainApart(),
  ],
});

const { outputs } = result.metafile;
const nameOf = (output) => path.basename(output);
const entryOf = (output) => outputs[output].entryPoint;

/** Chunks that `start` needs, following static imports and the lazy ones that are always taken. */
function hotClosure(start) {
  const hot = new Set();
  const visit = (output) => {
    if (hot.has(output)) return;
    hot.add(output);
    for (const { path: imported, kind, external } of outputs[output].imports) {
      if (external) continue;
      if (kind !== 'dynamic-import' || hotImports.includes(entryOf(imported))) visit(imported);
    }
  };
  visit(start);
  return hot;
}

const entry = Object.keys(outputs).find((output) => entryOf(output) === 'src/bin.ts');
const hot = hotClosure(entry);
const inputsOfMain = [...hot].flatMap((output) => Object.keys(outputs[output].inputs));
const intruders = inputsOfMain.filter((input) => forbiddenInMain.some((it) => it.test(input)));
if (intruders.length > 0) {
  throw new Error(`main.cjs must not contain:\n  ${intruders.join('\n  ')}`);
}

const chunks = new Map();
for (const { path: file, text } of result.outputFiles) {
  const output = path.relative(root, file);
  const usesUrl = text.includes('importMetaUrl');
  const { code } = await transform(text, {
    format: 'cjs',
    platform: 'node',
    target: 'node20',
    minify: true,
    charset: 'ascii',
    legalComments: 'none',
    // vm.Script has no import(): it becomes the loader's require().
    supported: { 'dynamic-import': false },
    banner: usesUrl
      ? 'const importMetaUrl=require("node:url").pathToFileURL(process.argv[1]).href;'
      : '',
  });
  chunks.set(output, code.trimEnd());
}

const written = new Map();
const packed = [...hot].map((output) => {
  const body = chunks.get(output);
  return `${JSON.stringify(nameOf(output))}:function(exports,require,module){${body}\n}`;
});
written.set('main.cjs', `module.exports={${packed.join(',\n')}};\n`);
for (const [output, code] of chunks) {
  if (!hot.has(output)) written.set(nameOf(output).replace(/\.js$/, '.cjs'), `${code}\n`);
}
const chain = await credentialChain();
written.set('credential-chain.cjs', chain.code);
const hash = createHash('sha256');
for (const [name, code] of [...written].sort()) hash.update(`${name}\0${code}\0`);
const loader = await readFile(path.join(root, 'scripts/loader.cjs'), 'utf8');
written.set('ssm-bridge.cjs', loader.replace('__BUILD__', hash.digest('hex').slice(0, 16)));
written.set(
  'THIRD-PARTY-NOTICES',
  await licenseNotices(root, [...Object.keys(result.metafile.inputs), ...chain.inputs]),
);

// One file after the other replaced, so that a program that runs from dist/ meanwhile goes on working.
await mkdir(dist, { recursive: true });
for (const [name, text] of written) {
  const draft = path.join(dist, `.${name}`);
  await writeFile(draft, text, { mode: name === 'ssm-bridge.cjs' ? 0o755 : 0o644 });
  await rename(draft, path.join(dist, name));
}
for (const name of await readdir(dist)) {
  if (!written.has(name)) await rm(path.join(dist, name), { recursive: true });
}
await mkdir(path.join(root, 'build'), { recursive: true });
await writeFile(path.join(root, 'build/meta.json'), JSON.stringify(result.metafile));

const sizes = [...written].map(([name, text]) => ({ name, bytes: Buffer.byteLength(text) }));
for (const { name, bytes } of sizes.sort((a, b) => b.bytes - a.bytes)) {
  console.log(`${(bytes / 1024).toFixed(1).padStart(8)} KiB  ${name}`);
}
const mainBytes = Buffer.byteLength(written.get('main.cjs'));
console.log(
  `main.cjs: ${hot.size} chunks, ${Math.round((100 * mainBytes) / mainBudgetBytes)}% of its budget`,
);
if (mainBytes > mainBudgetBytes) throw new Error('main.cjs is over its budget');

/**
 * node:fs/promises brings readline along; most connections never read a file this way. `fs.promises` loads
 * the same when it is first used.
 */
function lazyFilePromises() {
  const names = Object.keys(filePromises).filter(
    (name) => typeof filePromises[name] === 'function',
  );
  const exported = names.map(
    (name) => `export const ${name} = (...a) => fs.promises.${name}(...a);`,
  );
  return {
    name: 'lazy-file-promises',
    setup({ onResolve, onLoad }) {
      onResolve({ filter: /^(?:node:)?fs\/promises$/ }, () => ({
        path: 'fs-promises',
        namespace: 'lazy',
        sideEffects: false,
      }));
      onLoad({ filter: /.*/, namespace: 'lazy' }, () => ({
        contents: ["import fs from 'node:fs';", ...exported].join('\n'),
      }));
    },
  };
}

/** Of ws only the client is used; its package entry brings the server and a stream adapter along. */
function slimWebSocket() {
  return {
    name: 'slim-websocket',
    setup({ onResolve }) {
      onResolve({ filter: /^ws$/ }, () => ({
        path: path.join(root, 'node_modules/ws/lib/websocket.js'),
      }));
    },
  };
}

/**
 * The SSM client registers an error class and a schema for each of its 140 errors, and none of them is ever
 * tree-shaken. One that is not registered still arrives as SSMServiceException with its name, and names
 * are all that is looked at here.
 */
function pruneSsmClient() {
  return {
    name: 'prune-ssm-client',
    setup({ onLoad }) {
      onLoad({ filter: /client-ssm\/dist-es\/schemas\/schemas_0\.js$/ }, async (args) => {
        const source = await readFile(args.path, 'utf8');
        let count = 0;
        const without = (pattern) => (text) =>
          text.replace(pattern, (whole, name) => {
            if (name === 'SSMServiceException') return whole;
            count += 1;
            return '';
          });
        const contents = [
          /^n\d+_registry\.registerError\((\w+)\$, \w+\);$/gm,
          /^export var (\w+)\$ = \[-3, [\s\S]*?\n\];$/gm,
        ].reduce((text, pattern) => without(pattern)(text), source);
        if (count < 50) {
          return {
            errors: [{ text: `the SSM client's schemas look different: ${count} matches` }],
          };
        }
        // Bit masks written as `64 | 0` count as side effects, and keep what they stand in.
        const folded = contents.replace(/\b(64|128) \| (\d+)\b/g, (_, a, b) => String(a | b));
        return { contents: folded, loader: 'js' };
      });
    },
  };
}

/**
 * The SDK's clients fall back to its whole credential chain. Ours always get their credentials from
 * src/aws/credentials.ts, which loads that chain when it is needed.
 */
function withoutDefaultChain() {
  return {
    name: 'without-default-chain',
    setup({ onResolve, onLoad }) {
      onResolve({ filter: /^@aws-sdk\/credential-provider-node$/ }, ({ importer }) =>
        /node_modules\/@aws-sdk\/client-/.test(importer)
          ? { path: 'no-default-chain', namespace: 'stub', sideEffects: false }
          : undefined,
      );
      onLoad({ filter: /.*/, namespace: 'stub' }, () => ({
        contents: `export const defaultProvider = () => () =>
          Promise.reject(new Error('a client was made without credentials'));`,
      }));
    },
  };
}

/**
 * The SDK's credential chain gets a file with its own copy of what it needs of the SDK. Splitting works by
 * whole modules: through the SDK's index modules, all that the chain uses would end up in main.cjs.
 */
function credentialChainApart() {
  return {
    name: 'credential-chain-apart',
    setup({ onResolve }) {
      onResolve({ filter: /\/cold-chain\.ts$/ }, () => ({
        path: './credential-chain.cjs',
        external: true,
      }));
    },
  };
}

async function credentialChain() {
  const { outputFiles, metafile } = await build({
    absWorkingDir: root,
    entryPoints: ['src/aws/cold-chain.ts'],
    bundle: true,
    write: false,
    metafile: true,
    format: 'cjs',
    platform: 'node',
    target: 'node20',
    mainFields: ['module', 'main'],
    minify: true,
    charset: 'ascii',
    legalComments: 'none',
    supported: { 'dynamic-import': false },
    logLevel: 'warning',
  });
  return { code: `${outputFiles[0].text.trimEnd()}\n`, inputs: Object.keys(metafile.inputs) };
}
