import { BridgeError } from '../../errors.ts';
import type { KnownHostsArgs } from '../args.ts';
import type { CommandIo } from '../io.ts';

export function run(args: KnownHostsArgs, io: CommandIo): Promise<number> {
  io.logger.debug({ command: args.command }, 'not built yet');
  return Promise.reject(new BridgeError('internal', `${args.command} is not built yet`));
}
