import { describe, expect, test } from 'vitest';
import { BridgeError } from '../../src/errors.ts';
import type { CommandArgs, ConnectArgs } from '../../src/cli/args.ts';
import { optionsOf } from '../../src/cli/options.ts';
import { parse, roughTarget } from '../../src/cli/parse.ts';

const node = 'i-0123456789abcdef0';

function argsOf(argv: readonly string[], env: NodeJS.ProcessEnv = {}): CommandArgs {
  const parsed = parse(argv, env);
  if (parsed.kind !== 'run') throw new Error(`parsed as ${parsed.kind}`);
  return parsed.args;
}

function connect(argv: readonly string[], env: NodeJS.ProcessEnv = {}): ConnectArgs {
  const args = argsOf(['connect', ...argv], env);
  if (args.command !== 'connect') throw new Error(`parsed as ${args.command}`);
  return args;
}

function faultOf(argv: readonly string[], env: NodeJS.ProcessEnv = {}): BridgeError {
  try {
    parse(argv, env);
  } catch (error) {
    if (error instanceof BridgeError) return error;
    throw error;
  }
  throw new Error('it was accepted');
}

describe('connect', () => {
  test('has a default for everything but the target', () => {
    expect(connect([node])).toEqual({
      command: 'connect',
      target: node,
      port: 22,
      via: undefined,
      pushKey: 'off',
      user: undefined,
      key: { kind: 'ephemeral' },
      agentSocket: undefined,
      availabilityZone: undefined,
      profile: undefined,
      region: undefined,
      proxy: undefined,
      logLevel: 'off',
      logFile: undefined,
      reason: undefined,
      payloadBytes: 16_384,
      connectTimeoutMs: 25_000,
      resumeTimeoutMs: 300_000,
      keepaliveMs: 30_000,
    } satisfies ConnectArgs);
  });

  test('takes options before, between and after the target and the port', () => {
    const args = connect([
      '--profile',
      'p',
      node,
      '--region=eu-central-1',
      '2222',
      '--keepalive=5s',
    ]);
    expect(args).toMatchObject({
      profile: 'p',
      region: 'eu-central-1',
      port: 2222,
      keepaliveMs: 5000,
    });
  });

  test('takes what follows -- as target and port', () => {
    expect(connect(['--profile', 'p', '--', node, '23'])).toMatchObject({ target: node, port: 23 });
  });

  test('takes an empty profile for a mistake', () => {
    expect(faultOf(['connect', '--profile', '', node]).message).toBe("--profile '': it is empty");
  });

  test('takes a value that begins with a dash only after an equals sign', () => {
    expect(connect(['--profile=-x', node]).profile).toBe('-x');
    expect(faultOf(['connect', '--profile', '--region', 'eu-west-1', node]).message).toBe(
      '--profile needs a value',
    );
  });

  test.each([
    ['ephemeral', { kind: 'ephemeral' }],
    ['~/.ssh/id.pub', { kind: 'public', path: '~/.ssh/id.pub' }],
    ['agent', { kind: 'agent', comment: undefined }],
    ['agent:me@here', { kind: 'agent', comment: 'me@here' }],
    ['file:/tmp/k', { kind: 'file', path: '/tmp/k' }],
  ])('reads --key %s', (text, choice) => {
    const push = ['--push-key', 'auto', '--user', 'pi'];
    expect(connect([...push, '--key', text, node]).key).toEqual(choice);
  });

  test.each(['id_ed25519', 'agent:', 'file:', '.pub'])('refuses --key %s', (text) => {
    const fault = faultOf(['connect', '--push-key', 'auto', '--user', 'pi', '--key', text, node]);
    expect(fault.message).toMatch(/^--key .*expected/);
  });

  test.each([
    ['key', 'agent'],
    ['key', 'ephemeral'],
    ['agent-socket', '/tmp/a'],
    ['availability-zone', 'eu-central-1a'],
  ])('refuses --%s when no key is pushed', (name, value) => {
    for (const off of [[], ['--push-key', 'off', '--user', 'pi']]) {
      const fault = faultOf(['connect', ...off, `--${name}`, value, node]);
      expect([fault.code, fault.message, fault.hint]).toEqual([
        'usage.arguments',
        `--${name} does nothing when no key is pushed`,
        `add --push-key auto, or leave --${name} out`,
      ]);
    }
  });

  test('takes a login name when no key is pushed', () => {
    expect(connect(['--user', 'pi', node])).toMatchObject({ user: 'pi', pushKey: 'off' });
  });

  test('takes a zone for Instance Connect only', () => {
    const zone = ['--availability-zone', 'eu-central-1a', '--user', 'pi', node];
    for (const method of ['auto', 'instance-connect']) {
      const args = connect(['--push-key', method, ...zone]);
      expect(args.availabilityZone).toBe('eu-central-1a');
    }
    expect(faultOf(['connect', '--push-key', 'run-command', ...zone]).message).toBe(
      '--availability-zone does not go with --push-key run-command',
    );
  });

  test('takes a socket for an ephemeral key only', () => {
    const argv = ['--push-key', 'auto', '--user', 'pi', '--agent-socket', '/tmp/a', node];
    expect(connect(argv).agentSocket).toBe('/tmp/a');
    expect(faultOf(['connect', '--key', 'agent', ...argv]).message).toBe(
      '--agent-socket is for an ephemeral key only',
    );
  });

  test.each([
    [['--key', 'agent'], '--key does nothing when no key is pushed'],
    [['--push-key', 'auto', '--via', node], '--push-key does not go with --via'],
    [
      ['--push-key', 'run-command', '--availability-zone', 'eu-central-1a'],
      '--availability-zone does not go with --push-key run-command',
    ],
  ])('config does not print what connect would refuse: %j', (argv, message) => {
    expect(faultOf(['config', ...argv]).message).toBe(message);
  });

  test('wants the login name for a key to push', () => {
    const fault = faultOf(['connect', '--push-key', 'auto', node]);
    expect(fault.message).toBe('--push-key needs --user');
    expect(connect(['--push-key', 'auto', '--user', 'pi', node]).pushKey).toBe('auto');
  });

  test('takes any host as target with --via, and node ids only without', () => {
    expect(connect(['db.internal', '5432', '--via', node])).toMatchObject({
      target: 'db.internal',
      port: 5432,
      via: node,
    });
    expect(faultOf(['connect', 'db.internal']).code).toBe('usage.target');
    expect(faultOf(['connect', '10.0.0.1', '--via', 'db.internal']).code).toBe('usage.arguments');
  });

  test('does not push a key to a host behind a node', () => {
    const argv = ['connect', 'db', '--via', node, '--push-key', 'auto', '--user', 'pi'];
    expect(faultOf(argv).message).toBe('--push-key does not go with --via');
  });

  test('explains a node id in capitals', () => {
    expect(faultOf(['connect', node.toUpperCase()]).hint).toMatch(/lower case/);
  });

  test.each(['0', '65536', 'ssh'])('refuses port %s', (port) => {
    expect(faultOf(['connect', node, port]).code).toBe('usage.target');
  });

  test('refuses an argument too many, and a missing target', () => {
    expect(faultOf(['connect', node, '22', 'x']).message).toBe("'x' is one argument too many");
    expect(faultOf(['connect']).message).toBe('connect needs <target>');
  });

  test('refuses an option that is given twice', () => {
    expect(faultOf(['connect', '--user', 'a', '--user', 'b', node]).message).toBe(
      '--user is given twice',
    );
  });

  test('suggests the option that was meant', () => {
    expect(faultOf(['connect', '--profle', 'x', node]).hint).toBe('did you mean --profile?');
    expect(faultOf(['connect', '--xyzzy', node]).hint).toBe('ssm-bridge connect --help lists them');
  });

  test('says where an option of another command belongs', () => {
    expect(faultOf(['connect', '--absolute', node]).hint).toBe('it belongs to config');
  });

  test('does not take short options or abbreviations', () => {
    expect(faultOf(['connect', '-p', node]).message).toBe("there is no option '-p'");
    expect(faultOf(['connect', '--prof', 'x', node]).message).toBe("there is no option '--prof'");
  });

  test('refuses values out of bounds', () => {
    expect(faultOf(['connect', '--payload-size', '1m', node]).message).toBe(
      "--payload-size '1m': expected from 256 to 65536 bytes",
    );
    expect(faultOf(['connect', '--keepalive', '0', node]).message).toMatch(/expected a time from/);
    expect(faultOf(['connect', '--push-key', 'yes', node]).message).toMatch(/expected one of off/);
  });

  test('refuses control characters in a value', () => {
    expect(faultOf(['connect', '--reason', 'a\x1b[2Jb', node]).message).toMatch(/control/);
  });
});

describe('the environment', () => {
  test('stands in for options that are not given', () => {
    const env = { SSM_BRIDGE_CONNECT_TIMEOUT: '3s', SSM_BRIDGE_LOG_LEVEL: 'debug' };
    expect(connect([node], env)).toMatchObject({ connectTimeoutMs: 3000, logLevel: 'debug' });
    expect(connect(['--connect-timeout', '4s', node], env).connectTimeoutMs).toBe(4000);
  });

  test('is as good as unset when empty', () => {
    expect(connect([node], { SSM_BRIDGE_CONNECT_TIMEOUT: '' }).connectTimeoutMs).toBe(25_000);
  });

  test('is named when its value is wrong', () => {
    expect(faultOf(['connect', node], { SSM_BRIDGE_KEEPALIVE: 'soon' }).message).toBe(
      "SSM_BRIDGE_KEEPALIVE 'soon': expected a time such as 30s or 5m",
    );
  });

  test('does not matter to commands without the option', () => {
    expect(argsOf(['config'], { SSM_BRIDGE_KEEPALIVE: 'soon' }).command).toBe('config');
  });
});

test('a log file without a level logs at info', () => {
  expect(connect(['--log-file', 'x', node]).logLevel).toBe('info');
  expect(connect(['--log-file', 'x', '--log-level', 'trace', node]).logLevel).toBe('trace');
});

describe('forward', () => {
  test.each([
    ['8080:db:5432', { bindHost: undefined, bindPort: 8080, host: 'db', port: 5432 }],
    ['8080:5432', { bindHost: undefined, bindPort: 8080, host: undefined, port: 5432 }],
    ['0:db:5432', { bindHost: undefined, bindPort: 0, host: 'db', port: 5432 }],
    ['localhost:8080:db:5432', { bindHost: 'localhost', bindPort: 8080, host: 'db', port: 5432 }],
    ['[::1]:8080:[fd00::2]:5432', { bindHost: '::1', bindPort: 8080, host: 'fd00::2', port: 5432 }],
    ['localhost:8080:5432', { bindHost: 'localhost', bindPort: 8080, host: undefined, port: 5432 }],
  ])('reads %s', (text, spec) => {
    const args = argsOf(['forward', node, text]);
    expect(args).toMatchObject({ command: 'forward', node, forwards: [spec] });
  });

  test.each(['8080', '8080:', ':8080:db:1', 'a:b', '1:2:3:4:5', '1:db:0', '70000:db:1', '1:d b:1'])(
    'refuses %j',
    (text) => {
      expect(faultOf(['forward', node, text]).code).toBe('usage.arguments');
    },
  );

  test('takes several and needs one', () => {
    expect(argsOf(['forward', node, '1:a:1', '2:b:2'])).toMatchObject({
      forwards: [{ host: 'a' }, { host: 'b' }],
    });
    expect(faultOf(['forward', node]).message).toBe('forward needs <forwards>');
  });
});

describe('known-hosts', () => {
  test('takes what ssh puts in for its tokens', () => {
    const argv = [
      'known-hosts',
      '--lookup',
      'HOSTNAME',
      '--presented',
      'AAAA',
      '--',
      `[${node}]:23`,
    ];
    expect(argsOf(argv)).toMatchObject({
      host: `[${node}]:23`,
      lookup: 'HOSTNAME',
      presented: 'AAAA',
      node: undefined,
      timeoutMs: 20_000,
      cacheMs: 86_400_000,
    });
  });
});

describe('commands', () => {
  test('are suggested when mistyped', () => {
    expect(faultOf(['conect', node]).hint).toBe('did you mean connect?');
    expect(faultOf([]).message).toBe('no command given');
    expect(faultOf([node]).hint).toBe(`write ssm-bridge connect ${node}`);
  });

  test.each([
    [['--help'], undefined],
    [['help'], undefined],
    [['help', 'config'], 'config'],
    [['connect', '--help'], 'connect'],
    [['connect', node, '-h'], 'connect'],
  ])('%j asks for help', (argv, command) => {
    expect(parse(argv, {})).toEqual({ kind: 'help', command });
  });

  test('--help after -- is an argument', () => {
    expect(faultOf(['connect', '--', '--help']).code).toBe('usage.target');
  });

  test.each([[['--version']], [['-V']], [['connect', '--version']]])('%j asks for it', (argv) => {
    expect(parse(argv, {})).toEqual({ kind: 'version' });
  });
});

test('every option can be given to each of its commands as the help shows it', () => {
  const value: Readonly<Record<string, string>> = {
    region: 'eu-central-1',
    proxy: 'socks5://127.0.0.1:1080',
    via: node,
    'availability-zone': 'eu-central-1a',
    user: 'pi',
  };
  // What is for a pushed key is given with one.
  const forPushed = ['key', 'agent-socket', 'availability-zone'];
  const positionals = {
    connect: [node],
    forward: [node, '1:a:1'],
    'known-hosts': [node],
    config: [],
  };
  for (const command of ['connect', 'forward', 'known-hosts', 'config'] as const) {
    for (const option of optionsOf(command)) {
      const text = value[option.name] ?? option.default ?? 'x';
      const given = option.type === 'flag' ? [] : [text];
      const push = forPushed.includes(option.name) ? ['--push-key', 'auto', '--user', 'pi'] : [];
      const argv = [command, ...push, `--${option.name}`, ...given, ...positionals[command]];
      expect(() => parse(argv, {}), argv.join(' ')).not.toThrow();
    }
  }
});

test('the target of a refused command line is found for the message', () => {
  expect(roughTarget(['connect', '--bogus', node])).toBe(node);
  expect(roughTarget(['connect', 'web'])).toBeUndefined();
});

test.each([
  [['connect', node, '--proxy', 'http://me:hunter2@proxy/x'], {}],
  [['connect', node], { SSM_BRIDGE_PROXY: 'hunter2@proxy' }],
])('a proxy that is not accepted is not repeated, since it may hold a password', (argv, env) => {
  const fault = faultOf(argv, env);
  expect(fault.message).toMatch(/(?:--proxy|SSM_BRIDGE_PROXY): expected a URL/);
  expect(`${fault.message} ${fault.hint ?? ''}`).not.toContain('hunter2');
});
