import { BridgeError } from '../errors.ts';
import type { ConfigArgs, PassedOption } from './args.ts';

/**
 * The ssh_config block for these options. `program` is the words that start ssm-bridge.
 * Rejects values that an ssh_config line cannot hold.
 */
export function configBlock(args: ConfigArgs, program: readonly string[]): string {
  const lines = [
    '# Managed nodes of AWS Systems Manager. Keep this block below those of single hosts: the first value',
    '# that ssh finds wins, and this line also matches the HostName that a block above has set.',
    `Match host "${args.host}"`,
    `  ProxyCommand ${proxyCommand(args, program)}`,
    ...(args.user === undefined ? [] : [`  User ${quoteForConfig(args.user)}`]),
    ...(args.pushKey === 'off' ? [] : identityLines(args)),
    ...(args.verifyHostKeys ? knownHostsLines(args, program) : []),
    '  # ssh alone would wait for ever: for the login banner, and on a connection that has died.',
    '  ConnectTimeout 30',
    '  ServerAliveInterval 15',
    '  ServerAliveCountMax 3',
  ];
  return `${lines.join('\n')}\n`;
}

/** ssh pastes its tokens unquoted into a shell line, so they stand in quotes of the shell's. */
function proxyCommand(args: ConfigArgs, program: readonly string[]): string {
  const words = program.map(quoteForShell);
  const passed = args.passed.map((option) => optionText(option, quoteForShell));
  const user = args.pushKey === 'off' ? [] : ['--user', "'%r'"];
  return [...words, 'connect', ...passed, ...user, "'%h'", '%p'].join(' ');
}

/**
 * What ssh must look at to find the key that is pushed. `IdentitiesOnly yes` in a block below would hide
 * keys of an agent that have no file, so each form states its own.
 */
function identityLines(args: ConfigArgs): readonly string[] {
  switch (args.key.kind) {
    case 'ephemeral':
      return ['  IdentityAgent ~/.ssh/ssm-bridge/%r@%h:%p', ...agentKeysOnly];
    case 'agent':
      return agentKeysOnly;
    case 'public':
      return fileOnly(args.key.path.replace(/\.pub$/, ''));
    case 'file':
      return fileOnly(args.key.path);
  }
}

const agentKeysOnly = ['  IdentitiesOnly no', '  IdentityFile none'];

function fileOnly(path: string): readonly string[] {
  return [`  IdentityFile ${quoteForConfig(path)}`, '  IdentitiesOnly yes'];
}

/** Without a shell: ssh splits this line itself and wants an absolute path first. */
function knownHostsLines(args: ConfigArgs, program: readonly string[]): readonly string[] {
  const words = program[0]?.startsWith('/') === true ? program : ['/usr/bin/env', ...program];
  const passed = args.passed
    .filter(({ name }) => ['profile', 'region', 'proxy'].includes(name))
    .map((option) => optionText(option, quoteForConfig));
  const lookup = '--lookup %I --presented %K --node %h -- %H';
  return [
    `  KnownHostsCommand ${[...words.map(quoteForConfig), 'known-hosts', ...passed, lookup].join(' ')}`,
  ];
}

/** A value that looks like an option belongs to its own only in one word with it. */
function optionText({ name, value }: PassedOption, quoted: (word: string) => string): string {
  return value.startsWith('-') ? quoted(`--${name}=${value}`) : `--${name} ${quoted(value)}`;
}

/** For a line that goes to $SHELL after ssh has expanded its tokens. */
export function quoteForShell(word: string): string {
  const literal = refuseLineBreaks(word).replaceAll('%', '%%');
  return /^[\w@+=:,./-]+$/.test(literal) ? literal : `'${literal.replaceAll("'", "'\\''")}'`;
}

/** For a word that ssh reads itself. */
export function quoteForConfig(word: string): string {
  const literal = refuseLineBreaks(word).replaceAll('%', '%%');
  return /^[\w@+=:,./~%-]+$/.test(literal)
    ? literal
    : `"${literal.replaceAll('\\', '\\\\').replaceAll('"', '\\"')}"`;
}

function refuseLineBreaks(word: string): string {
  if (!/[\0\r\n]/.test(word)) return word;
  throw new BridgeError('usage.config', 'an ssh_config value cannot contain a line break');
}
