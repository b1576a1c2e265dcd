import { BridgeError } from '../../errors.ts';
import type { ForwardArgs } from '../args.ts';

export function run(args: ForwardArgs): Promise<number> {
  return Promise.reject(new BridgeError('internal', `${args.command} is not built yet`));
}
