import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { ConfigArgs } from '../../src/cli/args.ts';
import { parse } from '../../src/cli/parse.ts';
import { configBlock, quoteForShell } from '../../src/cli/ssh-config.ts';

const node = 'i-0123456789abcdef0';
let directory: string;

beforeAll(() => {
  directory = mkdtempSync(path.join(tmpdir(), 'ssh-config-'));
});
afterAll(() => {
  rmSync(directory, { recursive: true });
});

function configArgs(...argv: readonly string[]): ConfigArgs {
  const parsed = parse(['config', ...argv], {});
  if (parsed.kind !== 'run' || parsed.args.command !== 'config') throw new Error('not config');
  return parsed.args;
}

function block(...argv: readonly string[]): string {
  return configBlock(configArgs(...argv), ['ssm-bridge']);
}

/** What ssh makes of a configuration for a host: the first value of each keyword (`ssh -G`). */
function asSshReads(config: string, host: string): Readonly<Record<string, string>> {
  const file = path.join(directory, 'config');
  writeFileSync(file, config);
  const output = execFileSync('ssh', ['-F', file, '-G', host], {
    encoding: 'utf8',
    env: { PATH: process.env['PATH'], HOME: directory },
  });
  return Object.fromEntries(
    output
      .trim()
      .split('\n')
      .reverse()
      .map((line) => [line.slice(0, line.indexOf(' ')), line.slice(line.indexOf(' ') + 1)]),
  );
}

/** The words that the shell hands to the program, the way ssh runs a ProxyCommand. */
function asShellReads(command: string): readonly string[] {
  const expanded = command
    .replaceAll('%%', '\0')
    .replaceAll('%h', node)
    .replaceAll('%p', '22')
    .replaceAll('%r', 'pi')
    .replaceAll('\0', '%');
  const script = `set -- ${expanded}; for word; do printf '%s\\0' "$word"; done`;
  return execFileSync('sh', ['-c', script], { encoding: 'utf8' }).split('\0').slice(0, -1);
}

describe('the block', () => {
  test('hands on a value that looks like an option', () => {
    const read = asSshReads(block('--reason=-x', '--profile=--p'), node);
    const words = asShellReads(read['proxycommand'] ?? '');
    expect(parse(words.slice(1), {})).toMatchObject({ args: { reason: '-x', profile: '--p' } });
  });

  test('sends nodes, and aliases for nodes, through the bridge and leaves other hosts alone', () => {
    const config = `Host web\n  HostName ${node}\n${block()}`;
    const command = "ssm-bridge connect '%h' %p";
    expect(asSshReads(config, node)['proxycommand']).toBe(command);
    expect(asSshReads(config, 'mi-0123456789abcdef0')['proxycommand']).toBe(command);
    expect(asSshReads(config, 'web')['proxycommand']).toBe(command);
    expect(asSshReads(config, 'example.org')['proxycommand']).toBeUndefined();
  });

  test('lets a ProxyJump of a block above win', () => {
    const config = `Host ${node}\n  ProxyJump hop\n${block()}`;
    expect(asSshReads(config, node)).toMatchObject({ proxyjump: 'hop' });
    expect(asSshReads(config, node)['proxycommand']).toBeUndefined();
  });

  test('bounds the wait for a banner and for a dead connection', () => {
    expect(asSshReads(block(), node)).toMatchObject({
      connecttimeout: '30',
      serveraliveinterval: '15',
      serveralivecountmax: '3',
    });
  });

  test('hands on the options it was given, in quotes that survive ssh and the shell', () => {
    const profile = `it's 100%h "a" \\ $HOME \`x\``;
    const config = block('--profile', profile, '--region', 'eu-central-1', '--keepalive', '5s');
    const command = asSshReads(config, node)['proxycommand'] ?? '';
    expect(asShellReads(command)).toEqual([
      'ssm-bridge',
      'connect',
      '--profile',
      profile,
      '--region',
      'eu-central-1',
      '--keepalive',
      '5s',
      node,
      '22',
    ]);
  });

  test('gives back the arguments that connect then takes', () => {
    const config = block('--via', node, '--proxy', 'socks5://127.0.0.1:1080', '--host', 'db-*');
    const words = asShellReads(asSshReads(config, 'db-1')['proxycommand'] ?? '');
    expect(parse(words.slice(1), {})).toMatchObject({
      kind: 'run',
      args: { command: 'connect', via: node, proxy: 'socks5://127.0.0.1:1080' },
    });
  });

  test('sets the login name', () => {
    expect(asSshReads(block('--user', 'ec2-user'), node)['user']).toBe('ec2-user');
  });
});

describe('the block with a pushed key', () => {
  const others = 'Host *\n  IdentitiesOnly yes\n  IdentityFile ~/.ssh/other\n';

  test('names the agent socket of an ephemeral key and no file, whatever stands below', () => {
    const read = asSshReads(block('--push-key', 'auto') + others, node);
    expect(read).toMatchObject({ identitiesonly: 'no', identityfile: 'none' });
    expect(read['identityagent']).toMatch(/\.ssh\/ssm-bridge\/[\w-]+@i-0123456789abcdef0:22$/);
    expect(asShellReads(read['proxycommand'] ?? '')).toEqual([
      ...['ssm-bridge', 'connect', '--push-key', 'auto', '--user', 'pi', node, '22'],
    ]);
  });

  test('names the file of a key that the user has', () => {
    const argv = ['--push-key', 'instance-connect', '--key', '~/.ssh/id_ed25519.pub'];
    const read = asSshReads(block(...argv), node);
    expect(read).toMatchObject({ identitiesonly: 'yes', identityfile: '~/.ssh/id_ed25519' });
    expect(read['proxycommand']).toContain('--key');
  });

  test('names the file of a key that is made once', () => {
    const read = asSshReads(block('--push-key', 'auto', '--key', 'file:~/.ssh/bridge'), node);
    expect(read).toMatchObject({ identitiesonly: 'yes', identityfile: '~/.ssh/bridge' });
  });

  test("leaves the choice to the user's agent when the key is there", () => {
    const read = asSshReads(block('--push-key', 'auto', '--key', 'agent') + others, node);
    expect(read).toMatchObject({ identitiesonly: 'no', identityfile: 'none' });
    expect(read['identityagent']).toBeUndefined();
  });

  test('gives each form back to connect as it was given', () => {
    for (const key of ['ephemeral', '~/.ssh/a b.pub', 'agent', "file:/k/it's"]) {
      const config = block('--push-key', 'auto', '--key', key);
      const command = asSshReads(config, node)['proxycommand'] ?? '';
      const words = asShellReads(command);
      expect(words[words.indexOf('--key') + 1]).toBe(key);
    }
  });
});

describe('the block that verifies host keys', () => {
  test('asks the bridge for them by an absolute path, as ssh demands', () => {
    const read = asSshReads(block('--verify-host-keys', '--profile', 'p'), node);
    expect(read['knownhostscommand']).toBe(
      '/usr/bin/env ssm-bridge known-hosts --profile p ' +
        '--lookup %I --presented %K --node %h -- %H',
    );
  });

  test('uses the absolute path of the program when there is one', () => {
    const config = configBlock(configArgs('--verify-host-keys'), ['/opt/node', '/opt/b ridge.cjs']);
    const read = asSshReads(config, node);
    expect(read['knownhostscommand']).toMatch(/^\/opt\/node "\/opt\/b ridge\.cjs" known-hosts /);
    expect(asShellReads(read['proxycommand'] ?? '').slice(0, 3)).toEqual([
      '/opt/node',
      '/opt/b ridge.cjs',
      'connect',
    ]);
  });
});

test('a line break cannot get into the file', () => {
  expect(() => quoteForShell('a\nProxyCommand evil')).toThrow(/line break/);
});
