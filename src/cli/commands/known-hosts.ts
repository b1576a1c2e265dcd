import { BridgeError } from '../../errors.ts';
import type { KnownHostsArgs } from '../args.ts';

export function run(args: KnownHostsArgs): Promise<number> {
  return Promise.reject(new BridgeError('internal', `${args.command} is not built yet`));
}
