import { parseArgs } from 'node:util';
import { BridgeError } from '../errors.ts';
import { faultIn, options, optionsOf, shownValue } from './options.ts';
import type { CommandName, OptionSpec } from './options.ts';
import { closest } from './suggest.ts';

/** What is on the command line, options by name, before it has a meaning. */
export interface Given {
  readonly values: ReadonlyMap<string, string>;
  readonly positionals: readonly string[];
}

export function readOptions(
  command: CommandName,
  argv: readonly string[],
): Given | 'help' | 'version' {
  const known = optionsOf(command);
  const { tokens } = parseArgs({
    args: [...argv],
    options: Object.fromEntries(
      known.map(({ name, type }) => [name, { type: type === 'flag' ? 'boolean' : 'string' }]),
    ),
    // The strict mode's messages advise things that do not work in an ssh_config, so the checks are ours.
    strict: false,
    tokens: true,
  });
  const values = new Map<string, string>();
  const positionals: string[] = [];
  for (const token of tokens) {
    if (token.kind === 'option-terminator') continue;
    if (token.kind === 'positional') {
      positionals.push(token.value);
      continue;
    }
    if (token.rawName === '--help' || token.rawName === '-h') return 'help';
    if (token.rawName === '--version' || token.rawName === '-V') return 'version';
    const option = known.find(({ name }) => `--${name}` === token.rawName);
    if (option === undefined) throw unknownOption(token.rawName, command);
    const value = valueOf(option, token.value, token.inlineValue === true);
    if (values.has(option.name)) throw usage(`--${option.name} is given twice`);
    const fault = faultIn(option, value);
    if (fault !== undefined) {
      throw usage(`--${option.name}${shownValue(option, value)}: ${fault}`);
    }
    values.set(option.name, value);
  }
  return { values, positionals };
}

function valueOf(option: OptionSpec, value: string | undefined, isInline: boolean): string {
  if (option.type === 'flag') {
    if (value !== undefined) throw usage(`--${option.name} takes no value`);
    return 'yes';
  }
  if (value === undefined || (!isInline && value.startsWith('-'))) {
    throw usage(`--${option.name} needs a value`, `write --${option.name}=VALUE`);
  }
  return value;
}

function unknownOption(rawName: string, command: CommandName): BridgeError {
  const elsewhere = options.find(({ name }) => `--${name}` === rawName);
  if (elsewhere !== undefined) {
    const where = elsewhere.commands.join(', ');
    return usage(`${rawName} is not an option of ${command}`, `it belongs to ${where}`);
  }
  const close = closest(
    rawName.replace(/^-+/, ''),
    optionsOf(command).map(({ name }) => name),
  );
  return usage(
    `there is no option ${quote(rawName)}`,
    close === undefined ? `ssm-bridge ${command} --help lists them` : `did you mean --${close}?`,
  );
}

export function usage(message: string, hint?: string): BridgeError {
  return new BridgeError('usage.arguments', message, hint === undefined ? {} : { hint });
}

export function quote(text: string): string {
  return `'${text}'`;
}
