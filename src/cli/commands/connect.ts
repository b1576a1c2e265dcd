import { BridgeError } from '../../errors.ts';
import type { ConnectArgs } from '../args.ts';

export function run(args: ConnectArgs): Promise<number> {
  return Promise.reject(new BridgeError('internal', `${args.command} is not built yet`));
}
