import yargs from 'yargs';
import { commands, optionsOf } from './options.ts';
import type { CommandName, OptionSpec } from './options.ts';
import { version } from './version.ts';

const columns = 100;

/** The text of --help. yargs is here only: the hot path reads its arguments without it. */
export function helpText(command: CommandName | undefined): Promise<string> {
  return command === undefined ? overview() : commandHelp(command);
}

function overview(): Promise<string> {
  const parser = base().usage('Usage: ssm-bridge <command> [options]');
  for (const { name, describe, positionals } of commands) {
    const words = positionals.map((spec) => {
      const word = spec.many === true ? `${spec.name}..` : spec.name;
      return spec.required ? `<${word}>` : `[${word}]`;
    });
    parser.command([name, ...words].join(' '), describe);
  }
  return parser
    .epilogue(
      'ssm-bridge <command> --help shows the options of a command.\n' +
        'To begin: ssm-bridge config >> ~/.ssh/config',
    )
    .getHelp();
}

function commandHelp(name: CommandName): Promise<string> {
  const command = commands.find((candidate) => candidate.name === name);
  const positionals = command?.positionals ?? [];
  const usage = positionals.map((spec) => {
    const word = spec.many === true ? `${spec.name}…` : spec.name;
    return spec.required ? `<${word}>` : `[${word}]`;
  });
  const parser = base().usage(
    [`Usage: ssm-bridge ${[name, ...usage].join(' ')} [options]`, '', command?.describe].join('\n'),
  );
  for (const spec of positionals) parser.positional(spec.name, { describe: spec.describe });
  for (const option of optionsOf(name)) parser.option(option.name, yargsOption(option));
  return parser.getHelp();
}

function base(): ReturnType<typeof yargs> {
  return yargs([])
    .scriptName('ssm-bridge')
    .locale('en')
    .wrap(columns)
    .help('help', 'show this help')
    .version('version', 'show the version', version)
    .parserConfiguration({ 'boolean-negation': false });
}

function yargsOption(option: OptionSpec): {
  type: 'boolean' | 'string';
  describe: string;
  choices?: string[];
  defaultDescription?: string;
} {
  const env = option.env === undefined ? '' : ` (${option.env})`;
  return {
    type: option.type === 'flag' ? 'boolean' : 'string',
    describe: option.describe + env,
    ...(option.choices !== undefined && { choices: [...option.choices] }),
    ...(option.default !== undefined && {
      default: option.default,
      defaultDescription: option.default,
    }),
  };
}
