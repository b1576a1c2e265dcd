import { isNodeId, isUserName, parseDuration, parseSize } from './values.ts';

export type CommandName = 'connect' | 'forward' | 'known-hosts' | 'config';

export interface OptionSpec {
  readonly name: string;
  /** One letter. */
  readonly alias?: string;
  /** `flag` takes no value. The others take one; how it is read and bounded depends on the type. */
  readonly type: 'flag' | 'text' | 'duration' | 'size' | 'choice';
  readonly placeholder?: string;
  readonly describe: string;
  /** Environment variable that stands in when the option is not given. */
  readonly env?: string;
  /** As it would be typed. */
  readonly default?: string;
  readonly choices?: readonly string[];
  /** Bounds of a duration (ms) or a size (bytes), both inclusive. */
  readonly min?: number;
  readonly max?: number;
  /** For text: whether the value is acceptable, and what is expected otherwise. */
  readonly accepts?: (value: string) => boolean;
  readonly expected?: string;
  /** The value may hold a password: no message repeats it. */
  readonly isSecret?: boolean;
  readonly commands: readonly CommandName[];
}

const session: readonly CommandName[] = ['connect', 'forward', 'config'];
const aws: readonly CommandName[] = ['connect', 'forward', 'known-hosts', 'config'];

/**
 * Every option, once. The parser, the help, the README's table (checked by a test) and the lines that
 * `config` prints all come from here.
 */
export const options: readonly OptionSpec[] = [
  {
    name: 'profile',
    type: 'text',
    placeholder: 'NAME',
    describe: 'profile of the AWS configuration (also AWS_PROFILE)',
    commands: aws,
  },
  {
    name: 'region',
    type: 'text',
    placeholder: 'REGION',
    describe: 'AWS region (also AWS_REGION or the profile)',
    accepts: (value) => /^[a-z]{2,}(?:-[a-z0-9]+)+$/.test(value),
    expected: 'a region such as eu-central-1',
    commands: aws,
  },
  {
    name: 'proxy',
    type: 'text',
    placeholder: 'URL',
    describe: 'proxy to the AWS endpoints: http://, https:// or socks5://host:port',
    env: 'SSM_BRIDGE_PROXY',
    accepts: (value) => /^(?:https?|socks5h?):\/\/[^\s/]+\/?$/.test(value),
    expected: 'a URL such as socks5://127.0.0.1:1080',
    isSecret: true,
    commands: aws,
  },
  {
    name: 'via',
    type: 'text',
    placeholder: 'NODE',
    describe: 'reach the target as a host from this managed node, with no ssh on it',
    accepts: isNodeId,
    expected: 'a node id such as i-0123456789abcdef0',
    commands: ['connect', 'config'],
  },
  {
    name: 'push-key',
    type: 'choice',
    placeholder: 'HOW',
    describe: 'push a public key for this one login',
    default: 'off',
    choices: ['off', 'auto', 'instance-connect', 'run-command'],
    commands: ['connect', 'config'],
  },
  {
    name: 'user',
    type: 'text',
    placeholder: 'NAME',
    describe: 'login name the key is pushed for (%r in ssh_config)',
    accepts: isUserName,
    expected: 'a login name',
    commands: ['connect', 'config'],
  },
  {
    name: 'key',
    type: 'text',
    placeholder: 'KEY',
    describe: 'key that --push-key pushes: ephemeral, a PATH.pub, agent[:COMMENT] or file:PATH',
    default: 'ephemeral',
    accepts: (value) => value === 'ephemeral' || /^agent(?::.+)?$|^file:.+$|.\.pub$/s.test(value),
    expected: 'ephemeral, a path that ends in .pub, agent, agent:COMMENT or file:PATH',
    commands: ['connect', 'config'],
  },
  {
    name: 'agent-socket',
    type: 'text',
    placeholder: 'PATH',
    describe: 'agent socket for an ephemeral key of --push-key; the same path as IdentityAgent',
    commands: ['connect'],
  },
  {
    name: 'availability-zone',
    type: 'text',
    placeholder: 'ZONE',
    describe: 'availability zone that --push-key names to EC2 Instance Connect',
    accepts: (value) => /^[a-z]{2,}(?:-[a-z0-9]+)+$/.test(value),
    expected: 'a zone such as eu-central-1a',
    commands: ['connect', 'config'],
  },
  {
    name: 'reason',
    type: 'text',
    placeholder: 'TEXT',
    describe: 'reason shown with the session in Session Manager',
    env: 'SSM_BRIDGE_REASON',
    accepts: (value) => value.length <= 256,
    expected: 'at most 256 characters',
    commands: session,
  },
  {
    name: 'connect-timeout',
    type: 'duration',
    placeholder: 'TIME',
    describe: 'give up when the session is not open by then',
    env: 'SSM_BRIDGE_CONNECT_TIMEOUT',
    default: '25s',
    min: 100,
    max: 3_600_000,
    commands: session,
  },
  {
    name: 'resume-timeout',
    type: 'duration',
    placeholder: 'TIME',
    describe: 'how long to try to resume a session whose connection is lost; 0 never resumes',
    env: 'SSM_BRIDGE_RESUME_TIMEOUT',
    default: '5m',
    min: 0,
    max: 86_400_000,
    commands: session,
  },
  {
    name: 'keepalive',
    type: 'duration',
    placeholder: 'TIME',
    describe: 'probe a connection that was silent for this long',
    env: 'SSM_BRIDGE_KEEPALIVE',
    default: '30s',
    min: 500,
    max: 3_600_000,
    commands: session,
  },
  {
    name: 'payload-size',
    type: 'size',
    placeholder: 'BYTES',
    describe: 'largest payload of one message',
    env: 'SSM_BRIDGE_PAYLOAD_SIZE',
    default: '16k',
    min: 256,
    max: 65_536,
    commands: session,
  },
  {
    name: 'node',
    type: 'text',
    placeholder: 'NODE',
    describe: 'node to ask, when the host does not name it (%h in ssh_config)',
    commands: ['known-hosts'],
  },
  {
    name: 'lookup',
    type: 'text',
    placeholder: 'KIND',
    describe: 'why ssh asks (%I in ssh_config)',
    commands: ['known-hosts'],
  },
  {
    name: 'presented',
    type: 'text',
    placeholder: 'KEY',
    describe: 'key that the server presented (%K in ssh_config)',
    commands: ['known-hosts'],
  },
  {
    name: 'timeout',
    type: 'duration',
    placeholder: 'TIME',
    describe: "give up when the node's host keys are not there by then",
    default: '20s',
    min: 100,
    max: 600_000,
    commands: ['known-hosts'],
  },
  {
    name: 'cache',
    type: 'duration',
    placeholder: 'TIME',
    describe: 'how long fetched host keys are believed; 0 always fetches',
    env: 'SSM_BRIDGE_HOST_KEY_CACHE',
    default: '1d',
    min: 0,
    max: 90 * 86_400_000,
    commands: ['known-hosts'],
  },
  {
    name: 'accept-changed',
    type: 'flag',
    describe: 'believe the host keys that the node has now, and remember them',
    commands: ['known-hosts'],
  },
  {
    name: 'host',
    type: 'text',
    placeholder: 'PATTERNS',
    describe: 'patterns of the host names that go through the bridge',
    default: 'i-*,mi-*',
    accepts: (value) => /^[\w.*?!,:@-]+$/.test(value),
    expected: 'ssh_config patterns separated by commas',
    commands: ['config'],
  },
  {
    name: 'verify-host-keys',
    type: 'flag',
    describe: 'fetch host keys through Systems Manager instead of trusting the first one seen',
    commands: ['config'],
  },
  {
    name: 'absolute',
    type: 'flag',
    describe: 'name this program by its absolute path, for programs with another PATH',
    commands: ['config'],
  },
  {
    name: 'quiet',
    alias: 'q',
    type: 'flag',
    describe: 'do not print the addresses that are forwarded',
    commands: ['forward'],
  },
  {
    name: 'log-level',
    type: 'choice',
    placeholder: 'LEVEL',
    describe: 'how much to log (info when only a log file is given)',
    env: 'SSM_BRIDGE_LOG_LEVEL',
    default: 'off',
    choices: ['off', 'warn', 'info', 'debug', 'trace'],
    commands: aws,
  },
  {
    name: 'log-file',
    type: 'text',
    placeholder: 'PATH',
    describe: 'append log lines to this file instead of stderr',
    env: 'SSM_BRIDGE_LOG_FILE',
    commands: aws,
  },
];

/** Options that `config` hands on to `connect`, besides those it turns into ssh_config keywords. */
export const passedThrough: readonly string[] = options
  .filter((option) => option.commands.includes('config') && option.commands.includes('connect'))
  .map((option) => option.name)
  .filter((name) => name !== 'user');

export interface PositionalSpec {
  readonly name: string;
  readonly describe: string;
  readonly required: boolean;
  readonly many?: boolean;
}

export interface CommandSpec {
  readonly name: CommandName;
  readonly describe: string;
  readonly positionals: readonly PositionalSpec[];
}

export const commands: readonly CommandSpec[] = [
  {
    name: 'connect',
    describe: 'join stdin and stdout to a port of a node; what ssh runs as ProxyCommand',
    positionals: [
      { name: 'target', describe: 'node id, i-… or mi-… (any host with --via)', required: true },
      { name: 'port', describe: 'TCP port, 22 if not given', required: false },
    ],
  },
  {
    name: 'forward',
    describe: 'listen on local ports and carry the connections over one session',
    positionals: [
      { name: 'node', describe: 'node id, i-… or mi-…', required: true },
      {
        name: 'forwards',
        describe: '[BIND:]LOCAL:HOST:PORT, or LOCAL:PORT for a port of the node itself',
        required: true,
        many: true,
      },
    ],
  },
  {
    name: 'known-hosts',
    describe: "print a node's host keys; what ssh runs as KnownHostsCommand",
    positionals: [{ name: 'host', describe: 'the host as ssh names it (%H)', required: true }],
  },
  {
    name: 'config',
    describe: 'print the ssh_config block to use',
    positionals: [],
  },
];

export function optionsOf(command: CommandName): readonly OptionSpec[] {
  return options.filter((option) => option.commands.includes(command));
}

/** Why a value is not acceptable for an option; undefined when it is. */
export function faultIn(option: OptionSpec, value: string): string | undefined {
  switch (option.type) {
    case 'flag':
      return undefined;
    case 'text':
      if (value === '') return 'it is empty';
      if (/[\0-\x1f\x7f]/.test(value)) return 'it contains control characters';
      return option.accepts?.(value) === false ? `expected ${option.expected ?? ''}` : undefined;
    case 'choice':
      return option.choices?.includes(value) === true
        ? undefined
        : `expected one of ${(option.choices ?? []).join(', ')}`;
    case 'duration':
      return outOfBounds(option, parseDuration(value), 'a time such as 30s or 5m');
    case 'size':
      return outOfBounds(option, parseSize(value), 'a size such as 16k');
  }
}

/** The value as it may stand in a message about it. */
export function shownValue(option: OptionSpec, value: string): string {
  return option.isSecret === true ? '' : ` '${value}'`;
}

function outOfBounds(
  option: OptionSpec,
  value: number | undefined,
  expected: string,
): string | undefined {
  if (value === undefined) return `expected ${expected}`;
  const { min = 0, max = Number.MAX_SAFE_INTEGER } = option;
  if (value >= min && value <= max) return undefined;
  return option.type === 'duration'
    ? `expected a time from ${min} ms to ${max / 1000} s`
    : `expected from ${min} to ${max} bytes`;
}
