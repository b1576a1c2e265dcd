import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { parse } from '../../src/cli/parse.ts';
import { configBlock } from '../../src/cli/ssh-config.ts';
import { baseEnv } from '../support/process.ts';

const examples = fileURLToPath(new URL('../../examples/', import.meta.url));
const blocks = readdirSync(examples).filter((name) => /^push-key-.*\.conf$/.test(name));
const policies = readdirSync(`${examples}iam`);

describe.each(blocks)('examples/%s', (name) => {
  const text = readFileSync(`${examples}${name}`, 'utf8');
  const [, command = '', ...rest] = text.split('\n');

  it('is what the command in its second line prints', () => {
    const argv = command.replace('# ssm-bridge ', '').split(' ');
    const parsed = parse(argv, {});
    if (parsed.kind !== 'run' || parsed.args.command !== 'config') throw new Error(command);
    expect(rest.join('\n')).toBe(configBlock(parsed.args, ['ssm-bridge']));
  });

  it.each(['i-0123456789abcdef0', 'mi-0123456789abcdef0'])(
    'is understood by ssh for %s',
    (host) => {
      const { status, stderr } = spawnSync('ssh', ['-T', '-G', '-F', `${examples}${name}`, host], {
        env: baseEnv(),
        encoding: 'utf8',
      });
      expect([status, stderr]).toEqual([0, '']);
    },
  );
});

interface Statement {
  readonly Effect: string;
  readonly Action: string | readonly string[];
  readonly Resource: string | readonly string[];
}

describe.each(policies)('examples/iam/%s', (name) => {
  // The shape is what the test is about; the casts below stand for IAM's schema.
  const policy = JSON.parse(readFileSync(`${examples}iam/${name}`, 'utf8')) as {
    readonly Version: string;
    readonly Statement: readonly Statement[];
  };

  it('is an IAM policy', () => {
    expect(policy.Version).toBe('2012-10-17');
    expect(policy.Statement.length).toBeGreaterThan(0);
    for (const { Effect, Action, Resource } of policy.Statement) {
      expect(Effect).toBe('Allow');
      for (const each of [Resource].flat())
        expect(each).toMatch(/^(\*|arn:aws:[\w-]+:[\w-]*:\d*:.+)$/);
      for (const each of [Action].flat()) expect(each).toMatch(/^[a-z0-9-]+:[A-Z]\w+$/);
    }
  });

  it('allows no action on everything, but for one that knows no resources', () => {
    const wide = policy.Statement.filter(({ Resource }) => [Resource].flat().includes('*'));
    expect(wide.flatMap(({ Action }) => Action)).toEqual(
      name === 'run-command.json' ? ['ssm:GetCommandInvocation'] : [],
    );
  });
});

it('the policies name every action that the program calls', () => {
  const named = policies.flatMap(
    (name) =>
      readFileSync(`${examples}iam/${name}`, 'utf8').match(/[a-z0-9-]+:[A-Z]\w+(?=")/g) ?? [],
  );
  const sources = fileURLToPath(new URL('../../src/aws/', import.meta.url));
  const called = readdirSync(sources).flatMap((file) =>
    [...readFileSync(`${sources}${file}`, 'utf8').matchAll(/action: '([^']+)'/g)].map(
      ([, action]) => action,
    ),
  );
  expect(called.length).toBeGreaterThan(3);
  // Only of profiles with a role, whose trust policy says who may.
  const exempt = ['sts:AssumeRole'];
  expect([...new Set(called)].filter((action) => ![...named, ...exempt].includes(action!))).toEqual(
    [],
  );
});
