// What a user gets: packs the package, looks at what is in it, installs it globally into an empty place
// without a network, and runs it there.
import { execFile } from 'node:child_process';
import { mkdir, mkdtemp, readFile, rm, stat } from 'node:fs/promises';
import { tmpdir, userInfo } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { publint } from 'publint';
import { formatMessage } from 'publint/utils';

const run = promisify(execFile);
const root = fileURLToPath(new URL('..', import.meta.url));
const packageJson = JSON.parse(await readFile(path.join(root, 'package.json'), 'utf8'));
const work = await mkdtemp(path.join(tmpdir(), 'ssm-bridge-package-'));

function ensure(condition, message) {
  if (!condition) throw new Error(message);
}

try {
  const { stdout } = await run(
    'npm',
    ['pack', '--ignore-scripts', '--json', '--pack-destination', work],
    {
      cwd: root,
    },
  );
  const [packed] = JSON.parse(stdout);
  const files = packed.files.map((file) => file.path);

  for (const file of [
    'dist/ssm-bridge.cjs',
    'dist/main.cjs',
    'dist/THIRD-PARTY-NOTICES',
    'LICENSE',
    'README.md',
    'package.json',
  ]) {
    ensure(files.includes(file), `${file} is not in the package`);
  }
  const odd = files.filter(
    (file) =>
      !/^(?:dist\/[\w.-]+\.cjs|dist\/THIRD-PARTY-NOTICES|examples\/[\w./-]+)$/.test(file) &&
      !['LICENSE', 'README.md', 'CHANGELOG.md', 'package.json'].includes(file),
  );
  ensure(odd.length === 0, `these do not belong into the package: ${odd.join(', ')}`);
  ensure(
    Object.keys(packageJson.dependencies ?? {}).length === 0,
    'everything is bundled: there should be no dependencies to install',
  );

  const machine = [root.replace(/\/$/, ''), userInfo().homedir].filter(
    (dir) => dir.split('/').length > 2,
  );
  for (const file of files) {
    const text = await readFile(path.join(root, file), 'latin1');
    for (const dir of machine) {
      ensure(!text.includes(dir), `${file} names a directory of this machine (${dir})`);
    }
  }

  const { messages } = await publint({ pkgDir: root, strict: true });
  for (const message of messages) console.log(formatMessage(message, packageJson));
  ensure(messages.length === 0, 'publint complains');

  const prefix = path.join(work, 'prefix');
  const home = path.join(work, 'home');
  await mkdir(home);
  const env = {
    PATH: [path.join(prefix, 'bin'), path.dirname(process.execPath), '/usr/bin:/bin'].join(':'),
    HOME: home,
  };
  const tarball = path.join(work, packed.filename);
  await run(
    'npm',
    ['install', '--global', '--offline', '--no-audit', '--no-fund', '--prefix', prefix, tarball],
    { env, cwd: work },
  );
  const program = path.join(prefix, 'bin', 'ssm-bridge');
  ensure(((await stat(program)).mode & 0o111) !== 0, 'the program is not executable');
  const version = await run('ssm-bridge', ['--version'], { env, cwd: work });
  ensure(version.stdout === `${packageJson.version}\n`, `--version says ${version.stdout}`);
  const help = await run('ssm-bridge', ['--help'], { env, cwd: work });
  ensure(/^Usage: ssm-bridge <command>/.test(help.stdout), '--help does not begin with the usage');
  for (const command of ['connect', 'forward', 'known-hosts', 'config']) {
    const { stdout: text } = await run('ssm-bridge', [command, '--help'], { env, cwd: work });
    ensure(text.includes(`ssm-bridge ${command}`), `${command} --help does not name it`);
  }
  const config = await run('ssm-bridge', ['config'], { env, cwd: work });
  ensure(
    config.stdout.includes('ProxyCommand ssm-bridge connect'),
    'config prints no ProxyCommand',
  );
  for (const { stderr } of [version, help, config]) ensure(stderr === '', `stderr has: ${stderr}`);

  console.log(
    `${packed.filename}: ${files.length} files, ${Math.round(packed.size / 1024)} KiB packed`,
  );
} finally {
  await rm(work, { recursive: true });
}
