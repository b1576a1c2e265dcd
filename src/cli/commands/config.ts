import type { ConfigArgs } from '../args.ts';
import { configBlock } from '../ssh-config.ts';
import { writeStdout } from '../stdout.ts';

export async function run(args: ConfigArgs): Promise<number> {
  await writeStdout(configBlock(args, program(args)));
  return 0;
}

/** The words that start this program from a shell. */
function program(args: ConfigArgs): readonly string[] {
  const script = process.argv[1];
  // Node by its absolute path too: programs with a short PATH do not find it through the script's env line.
  return args.absolute && script !== undefined ? [process.execPath, script] : ['ssm-bridge'];
}
