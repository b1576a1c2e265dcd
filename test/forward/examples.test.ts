import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { parse } from '../../src/cli/parse.ts';
import { baseEnv } from '../support/process.ts';

const examples = fileURLToPath(new URL('../../examples/', import.meta.url));
const endToEnd = fileURLToPath(new URL('../e2e/', import.meta.url));
const names = readdirSync(examples).filter((name) => /^hops-.*\.conf$|^forward-.*\.sh$/.test(name));
const tests = readdirSync(endToEnd)
  .filter((name) => name.startsWith('hops'))
  .map((name) => readFileSync(`${endToEnd}${name}`, 'utf8'))
  .join('\n');
const readme = readFileSync(new URL('../../README.md', import.meta.url), 'utf8');

/** What stands between the name of the program and the end of the command, over continued lines. */
function commandLines(text: string): readonly string[] {
  return text
    .replaceAll('\\\n', ' ')
    .split('\n')
    .filter((line) => !line.startsWith('#'))
    .flatMap((line) => /\bssm-bridge (.*)$/.exec(line)?.[1] ?? []);
}

describe.each(names)('examples/%s', (name) => {
  const text = readFileSync(`${examples}${name}`, 'utf8');

  it('is used by an end-to-end test', () => {
    expect(tests).toContain(name);
  });

  it('gives ssm-bridge arguments that it takes', () => {
    for (const line of commandLines(text)) {
      const argv = line
        .replaceAll("'", '')
        .replace('%h', name === 'hops-via.conf' ? 'db.internal' : 'i-0123456789abcdef0')
        .replace('%p', '22')
        .replace('%r', 'ec2-user')
        .trim()
        .split(/\s+/);
      expect(parse(argv, {}).kind).toBe('run');
    }
    expect(commandLines(text).length).toBeGreaterThan(0);
  });

  it.runIf(name.endsWith('.conf'))('is understood by ssh, for every host in it', () => {
    const hosts = [...text.matchAll(/^Host (.+)$/gm)].flatMap(
      (match) => match[1]?.split(' ') ?? [],
    );
    for (const host of hosts.filter((each) => each !== '*')) {
      const { status, stderr } = spawnSync('ssh', ['-T', '-G', '-F', `${examples}${name}`, host], {
        env: baseEnv(),
        encoding: 'utf8',
      });
      expect([host, status, stderr]).toEqual([host, 0, '']);
    }
  });
});

it('every recipe for hops stands in the README', () => {
  for (const name of names.filter((each) => each.endsWith('.conf'))) {
    expect(readme).toContain(`examples/${name}`);
  }
});
