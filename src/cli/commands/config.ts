import type { ConfigArgs } from '../args.ts';
import type { CommandIo } from '../io.ts';
import { configBlock } from '../ssh-config.ts';
import { writeStdout } from '../stdout.ts';

export async function run(args: ConfigArgs, io: CommandIo): Promise<number> {
  const settled = await withSavedAgentKey(args, io.env);
  await writeStdout(configBlock(settled, program(args)));
  return 0;
}

/** The words that start this program from a shell. */
function program(args: ConfigArgs): readonly string[] {
  const script = process.argv[1];
  // Node by its absolute path too: programs with a short PATH do not find it through the script's env line.
  return args.absolute && script !== undefined ? [process.execPath, script] : ['ssm-bridge'];
}

/**
 * A key of the agent that is named by its comment must be named to ssh by a file, or ssh offers the agent's
 * keys in their own order and the server stops listening after the sixth. Only the public half is saved.
 */
async function withSavedAgentKey(args: ConfigArgs, env: NodeJS.ProcessEnv): Promise<ConfigArgs> {
  if (args.pushKey === 'off' || args.key.kind !== 'agent' || args.key.comment === undefined) {
    return args;
  }
  const { saveAgentKey } = await import('../../ssh/public-key.ts');
  const path = await saveAgentKey(args.key.comment, env);
  return {
    ...args,
    key: { kind: 'public', path },
    passed: args.passed.map((option) =>
      option.name === 'key' ? { name: 'key', value: path } : option,
    ),
  };
}
