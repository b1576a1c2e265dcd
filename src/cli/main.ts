import { isatty } from 'node:tty';
import { isBridgeError } from '../errors.ts';
import { silentLogger } from '../logger.ts';
import type { Logger } from '../logger.ts';
import type { CommandArgs } from './args.ts';
import type { CommandIo } from './io.ts';
import { parse, roughTarget } from './parse.ts';
import { prefixed, report } from './report.ts';
import { writeStderr } from './stderr.ts';
import { writeStdout } from './stdout.ts';
import { version } from './version.ts';

export interface MainHooks {
  /** Called once when the command has reached its steady state. */
  readonly started: () => void;
  /** Called when the command returns although something it began is still to be undone. */
  readonly unfinished: () => void;
  readonly fatal: AbortSignal;
}

/** Runs the command line; gives the exit status. Never rejects: failures are one line on stderr. */
export async function main(
  argv: readonly string[],
  env: NodeJS.ProcessEnv,
  hooks: MainHooks,
): Promise<number> {
  let target = roughTarget(argv);
  let logger = silentLogger;
  const fail = (error: unknown): number => {
    logger.warn({ ...(isBridgeError(error) && { code: error.code }), err: error }, 'failed');
    return report(error, target, env);
  };
  try {
    const parsed = parse(argv, env);
    if (parsed.kind === 'version') {
      await writeStdout(`${version}\n`);
      return 0;
    }
    if (parsed.kind === 'help') {
      const { helpText } = await import('./help.ts');
      await writeStdout(`${await helpText(parsed.command)}\n`);
      return 0;
    }
    target = targetOf(parsed.args);
    logger = await loggerFor(parsed.args, target);
    const notice = (text: string): void => {
      writeStderr(prefixed(target, text));
    };
    return await dispatch(parsed.args, { env, logger, notice, fail, ...hooks });
  } catch (error) {
    return fail(error);
  }
}

function targetOf(args: CommandArgs): string | undefined {
  switch (args.command) {
    case 'connect':
      return args.via === undefined ? args.target : `${args.target} via ${args.via}`;
    case 'forward':
      return args.node;
    case 'known-hosts':
      return args.host;
    case 'config':
      return undefined;
  }
}

async function loggerFor(args: CommandArgs, target: string | undefined): Promise<Logger> {
  if (args.command === 'config' || args.logLevel === 'off') return silentLogger;
  const { openLog } = await import('./log.ts');
  return openLog(args, { target, command: args.command });
}

async function dispatch(args: CommandArgs, io: CommandIo): Promise<number> {
  switch (args.command) {
    case 'connect': {
      if (isatty(0)) {
        io.notice(
          'this speaks the SSH protocol on stdin and stdout and is meant to be started by ssh; ' +
            'put the output of `ssm-bridge config` into ~/.ssh/config and run `ssh USER@NODE`',
        );
      }
      const { run: connect } = await import('./commands/connect.ts');
      return connect(args, io);
    }
    case 'forward': {
      const { run: forward } = await import('./commands/forward.ts');
      return forward(args, io);
    }
    case 'known-hosts': {
      const { run: knownHosts } = await import('./commands/known-hosts.ts');
      return knownHosts(args, io);
    }
    case 'config': {
      const { run: config } = await import('./commands/config.ts');
      return config(args, io);
    }
  }
}
