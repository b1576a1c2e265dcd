import { options } from '../../src/cli/options.ts';
import type { OptionSpec } from '../../src/cli/options.ts';

/** The rows of the README's table of options. */
export function optionRows(): readonly string[] {
  return options.map(row);
}

function row(option: OptionSpec): string {
  const words = option.placeholder === undefined ? [] : [option.placeholder];
  const choices = option.choices === undefined ? '' : `: ${option.choices.join(', ')}`;
  const cells = [
    `\`${[`--${option.name}`, ...words].join(' ')}\``,
    option.describe + choices,
    option.default === undefined ? '' : `\`${option.default}\``,
    option.env === undefined ? '' : `\`${option.env}\``,
    option.commands.join(', '),
  ];
  return `| ${cells.join(' | ')} |`;
}

/** Tables are compared without the padding that the formatter gives them. */
export function withoutPadding(markdown: string): string {
  return markdown
    .replace(/[ \t]*\|[ \t]*/g, ' | ')
    .replace(/^ \|/gm, '|')
    .replace(/\| $/gm, '|');
}
