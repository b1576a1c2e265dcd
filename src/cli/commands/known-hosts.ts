import { knownHostsLines } from '../../ssh/known-hosts.ts';
import type { KnownHostsArgs } from '../args.ts';
import type { CommandIo } from '../io.ts';
import { writeStdout } from '../stdout.ts';

/**
 * Prints a node's host keys for ssh's KnownHostsCommand. ssh ends the connection when this fails, and goes
 * by the user's known_hosts when it prints nothing.
 */
export async function run(args: KnownHostsArgs, io: CommandIo): Promise<number> {
  const { env, logger, notice } = io;
  const lines = await knownHostsLines({
    ...args,
    env,
    notice,
    logger,
    wallNow: Date.now,
    parentPid: process.ppid,
    // Loaded when the node must be asked, which is once a day.
    commands: async () => {
      const [{ openAws }, { proxiedDial }] = await Promise.all([
        import('../../aws/context.ts'),
        import('../proxied-dial.ts'),
      ]);
      const { profile, region } = args;
      const dial = await proxiedDial(args.proxy, env);
      const aws = await openAws({ profile, region, env, logger, dial });
      return aws.commands();
    },
  });
  await writeStdout(lines);
  return 0;
}
