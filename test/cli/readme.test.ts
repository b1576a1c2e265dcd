import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { optionRows, withoutPadding } from './readme-tables.ts';
import { parse } from '../../src/cli/parse.ts';
import { exitStatuses } from '../../src/cli/report.ts';
import { configBlock } from '../../src/cli/ssh-config.ts';

function read(file: string): string {
  return readFileSync(fileURLToPath(new URL(`../../${file}`, import.meta.url)), 'utf8');
}

const readme = read('README.md');
const rows = withoutPadding(readme).split('\n');

test('README and examples/ssh_config hold what `ssm-bridge config` prints', () => {
  const parsed = parse(['config'], {});
  if (parsed.kind !== 'run' || parsed.args.command !== 'config') throw new Error('not config');
  const block = configBlock(parsed.args, ['ssm-bridge']);
  expect(readme).toContain(`\`\`\`ssh-config\n${block}\`\`\`\n`);
  expect(readme.indexOf('```ssh-config')).toBeLessThan(400);
  expect(read('examples/ssh_config')).toContain(block);
});

test.each(optionRows())('README has the row %s', (row) => {
  expect(rows).toContain(withoutPadding(row));
});

describe('error codes', () => {
  // The type is the list of codes: what a program throws cannot be asked at run time.
  const codes = [...read('src/errors.ts').matchAll(/^ {2}\| '([a-z.-]+)'/gm)].map(
    ([, code]) => code,
  );

  test('are found in the source', () => {
    expect(codes.length).toBeGreaterThan(30);
  });

  test('each have a row in README, and only they', () => {
    const section = withoutPadding(readme).split('## Error codes')[1]?.split('\n## ')[0] ?? '';
    const listed = [...section.matchAll(/^\| `([a-z.-]+)` \| \S.* \| \S.* \|$/gm)].map(
      ([, it]) => it,
    );
    expect(listed.toSorted()).toEqual(codes.toSorted());
  });
});

test.each(Object.entries(exitStatuses))('README says that %s ends with %i', (name, status) => {
  const pattern = new RegExp(`^\\| ${String(status)} \\| \`${name}(?:\\.\\*)?\` \\| \\S`);
  expect(rows.filter((row) => pattern.test(row))).toHaveLength(1);
});
