import { BridgeError } from '../errors.ts';
import type {
  AwsArgs,
  CommandArgs,
  ForwardSpec,
  KeyChoice,
  LogArgs,
  LogLevel,
  PushMethod,
  SessionArgs,
} from './args.ts';
import { commands, faultIn, options, passedThrough, shownValue } from './options.ts';
import type { CommandName, CommandSpec } from './options.ts';
import { quote, readOptions, usage } from './read-options.ts';
import type { Given } from './read-options.ts';
import { closest } from './suggest.ts';
import { isHostName, isNodeId, parseDuration, parsePort, parseSize } from './values.ts';

export type Parsed =
  | { readonly kind: 'run'; readonly args: CommandArgs }
  | { readonly kind: 'help'; readonly command: CommandName | undefined }
  | { readonly kind: 'version' };

/**
 * Reads the command line without yargs, which would cost a third of the start-up time of every
 * connection. Throws usage.* for anything it does not understand completely.
 */
export function parse(argv: readonly string[], env: NodeJS.ProcessEnv): Parsed {
  const [first, ...rest] = argv;
  if (first === undefined) throw usage('no command given', 'ssm-bridge --help lists the commands');
  if (first === '--version' || first === '-V') return { kind: 'version' };
  if (first === '--help' || first === '-h') return { kind: 'help', command: undefined };
  if (first === 'help') {
    return {
      kind: 'help',
      command: rest[0] === undefined ? undefined : commandNamed(rest[0]).name,
    };
  }
  const command = commandNamed(first);
  const given = readOptions(command.name, rest);
  if (given === 'help') return { kind: 'help', command: command.name };
  if (given === 'version') return { kind: 'version' };
  return { kind: 'run', args: build(command, given, env) };
}

/** The target to name in error messages, for argument lists that parse() refused. */
export function roughTarget(argv: readonly string[]): string | undefined {
  return argv.find((arg) => isNodeId(arg));
}

function commandNamed(name: string): CommandSpec {
  const command = commands.find((candidate) => candidate.name === name);
  if (command !== undefined) return command;
  if (isNodeId(name)) {
    throw usage(`no command given before ${name}`, `write ssm-bridge connect ${name}`);
  }
  const close = closest(
    name,
    commands.map((candidate) => candidate.name),
  );
  throw usage(
    `there is no command ${quote(name)}`,
    close === undefined ? 'ssm-bridge --help lists the commands' : `did you mean ${close}?`,
  );
}

function build(command: CommandSpec, given: Given, env: NodeJS.ProcessEnv): CommandArgs {
  const { positionals } = given;
  const text = (name: string): string | undefined => valueFor(name, given.values, env);
  const expected = command.positionals;
  const missing = expected.find((spec, index) => spec.required && positionals.length <= index);
  if (missing !== undefined) {
    throw usage(`${command.name} needs <${missing.name}>`, missing.describe);
  }
  const extra = expected.at(-1)?.many === true ? undefined : positionals[expected.length];
  if (extra !== undefined) throw usage(`${quote(extra)} is one argument too many`);

  // The reader above has made sure that required positionals are there.
  const [first = '', second] = positionals;
  switch (command.name) {
    case 'connect': {
      const via = text('via');
      const pushKey = pushMethod(text('push-key'));
      const user = text('user');
      if (pushKey !== 'off' && user === undefined) {
        throw usage('--push-key needs --user', "write --user '%r' in the ProxyCommand");
      }
      checkPush(given, pushKey);
      return {
        command: 'connect',
        target: via === undefined ? node(first) : host(first),
        port: port(second ?? '22'),
        via,
        pushKey,
        user,
        key: keyChoice(text('key')),
        agentSocket: text('agent-socket'),
        availabilityZone: text('availability-zone'),
        ...awsArgs(text),
        ...logArgs(text),
        ...sessionArgs(text),
      };
    }
    case 'forward':
      return {
        command: 'forward',
        node: node(first),
        forwards: positionals.slice(1).map(forwardSpec),
        quiet: text('quiet') !== undefined,
        ...awsArgs(text),
        ...logArgs(text),
        ...sessionArgs(text),
      };
    case 'known-hosts':
      if (!/^[\w.:[\]%-]{1,300}$/.test(first)) {
        throw usage(`${quote(first)} is not a host name as ssh gives it`, 'write %H');
      }
      return {
        command: 'known-hosts',
        host: first,
        node: text('node'),
        lookup: text('lookup'),
        presented: text('presented'),
        timeoutMs: duration(text('timeout')),
        cacheMs: duration(text('cache')),
        acceptChanged: text('accept-changed') !== undefined,
        ...awsArgs(text),
        ...logArgs(text),
      };
    case 'config': {
      const pushKey = pushMethod(text('push-key'));
      // What it prints is for `connect` to take.
      checkPush(given, pushKey);
      return {
        command: 'config',
        host: text('host') ?? '',
        absolute: text('absolute') !== undefined,
        verifyHostKeys: text('verify-host-keys') !== undefined,
        user: text('user'),
        pushKey,
        key: keyChoice(text('key')),
        passed: passedThrough.flatMap((name) => {
          const value = given.values.get(name);
          return value === undefined ? [] : [{ name, value }];
        }),
      };
    }
  }
}

/**
 * What is for a pushed key only must not be given in vain: whoever names a key believes that it is pushed.
 * A zone goes with `auto`, which stands in blocks for instances and other nodes alike.
 */
function checkPush({ values }: Given, method: PushMethod): void {
  if (method === 'off') {
    const vain = ['key', 'agent-socket', 'availability-zone'].find((name) => values.has(name));
    if (vain === undefined) return;
    throw usage(
      `--${vain} does nothing when no key is pushed`,
      `add --push-key auto, or leave --${vain} out`,
    );
  }
  if (values.has('via')) {
    throw usage(
      '--push-key does not go with --via',
      'Systems Manager can give a key to a managed node only, not to a host behind it',
    );
  }
  if (method === 'run-command' && values.has('availability-zone')) {
    throw usage(
      '--availability-zone does not go with --push-key run-command',
      'only EC2 Instance Connect takes a zone; leave it out',
    );
  }
  if (values.has('agent-socket') && keyChoice(values.get('key')).kind !== 'ephemeral') {
    throw usage('--agent-socket is for an ephemeral key only', 'leave it out, or leave --key out');
  }
}

type TextOf = (name: string) => string | undefined;

/** What was given, else what the environment says, else the default. */
function valueFor(
  name: string,
  values: ReadonlyMap<string, string>,
  env: NodeJS.ProcessEnv,
): string | undefined {
  const value = values.get(name);
  if (value !== undefined) return value;
  const option = options.find((candidate) => candidate.name === name);
  const fromEnv = option?.env === undefined ? undefined : env[option.env];
  if (option === undefined || fromEnv === undefined || fromEnv === '') return option?.default;
  const fault = faultIn(option, fromEnv);
  if (fault !== undefined) {
    throw usage(`${option.env ?? ''}${shownValue(option, fromEnv)}: ${fault}`);
  }
  return fromEnv;
}

function awsArgs(text: TextOf): AwsArgs {
  return { profile: text('profile'), region: text('region'), proxy: text('proxy') };
}

function logArgs(text: TextOf): LogArgs {
  const logFile = text('log-file');
  const level = text('log-level');
  // faultIn() has limited the text to the choices.
  return {
    logLevel: level === 'off' && logFile !== undefined ? 'info' : (level as LogLevel),
    logFile,
  };
}

function sessionArgs(text: TextOf): SessionArgs {
  return {
    reason: text('reason'),
    payloadBytes: parseSize(text('payload-size') ?? '') ?? 0,
    connectTimeoutMs: duration(text('connect-timeout')),
    resumeTimeoutMs: duration(text('resume-timeout')),
    keepaliveMs: duration(text('keepalive')),
  };
}

/** For values that faultIn() has accepted, or that the table gives. */
function duration(text: string | undefined): number {
  return parseDuration(text ?? '') ?? 0;
}

function pushMethod(text: string | undefined): PushMethod {
  // faultIn() has limited the text to the choices.
  return (text ?? 'off') as PushMethod;
}

function keyChoice(text: string | undefined): KeyChoice {
  if (text === undefined || text === 'ephemeral') return { kind: 'ephemeral' };
  if (text === 'agent') return { kind: 'agent', comment: undefined };
  if (text.startsWith('agent:')) return { kind: 'agent', comment: text.slice('agent:'.length) };
  if (text.startsWith('file:')) return { kind: 'file', path: text.slice('file:'.length) };
  return { kind: 'public', path: text };
}

function node(text: string): string {
  if (isNodeId(text)) return text;
  throw new BridgeError(
    'usage.target',
    `${quote(text)} is not a node id`,
    isNodeId(text.toLowerCase())
      ? { hint: 'node ids are in lower case; %h gives them so' }
      : {
          hint: 'expected i- or mi- and 17 hex digits (old instances: 8), as in i-0123456789abcdef0',
        },
  );
}

function host(text: string): string {
  if (isHostName(text)) return text;
  throw new BridgeError('usage.target', `${quote(text)} is not a host name or an IP address`);
}

function port(text: string): number {
  const value = parsePort(text);
  if (value === undefined) {
    throw new BridgeError('usage.target', `${quote(text)} is not a port from 1 to 65535`);
  }
  return value;
}

/** [BIND:]LOCAL:HOST:PORT or [BIND:]LOCAL:PORT as ssh -L has them; IPv6 addresses in brackets. */
function forwardSpec(text: string): ForwardSpec {
  const fault = usage(
    `${quote(text)} is not a forward`,
    'write LOCAL:HOST:PORT, or LOCAL:PORT for a port of the node itself',
  );
  const fields = text.match(/\[[^\]]*\]|[^:[\]]+/g) ?? [];
  if (fields.join(':') !== text) throw fault;
  const bare = fields.map((field) => field.replace(/^\[(.*)\]$/, '$1'));
  const isNumber = (value: string | undefined): boolean => /^\d+$/.test(value ?? '');
  // A bind address is there when the first field is no port.
  const bindHost = isNumber(bare[0]) ? undefined : bare.shift();
  const [local = '', ...remote] = bare;
  const [remoteHost, remotePort] = remote.length === 1 ? [undefined, remote[0]] : remote;
  const bindPort = local === '0' ? 0 : parsePort(local);
  const remotePortNumber = parsePort(remotePort ?? '');
  const isSound =
    remote.length <= 2 &&
    (bindHost === undefined || isHostName(bindHost)) &&
    (remoteHost === undefined || isHostName(remoteHost));
  if (!isSound || bindPort === undefined || remotePortNumber === undefined) throw fault;
  return { bindHost, bindPort, host: remoteHost, port: remotePortNumber };
}
