import { mkdirSync } from 'node:fs';
import { resolve } from 'node:path';
import type { SectionSettings } from './rows.ts';

/** What a bridge needs in its environment to write a profile as it ends, if one was asked for. */
export function profileEnvironment(
  profile: SectionSettings['profile'],
): Readonly<Record<string, string>> {
  if (profile === undefined) return {};
  const directory = resolve('build/profiles');
  mkdirSync(directory, { recursive: true });
  const flag = profile === 'heap' ? '--heap-prof' : '--cpu-prof';
  return { NODE_OPTIONS: `${flag} ${flag}-dir=${directory}` };
}
