import { mkdirSync } from 'node:fs';
import { resolve } from 'node:path';
import type { SectionSettings } from './rows.ts';

/** What Node needs as arguments to write a profile as it ends, if one was asked for. */
export function profileArguments(profile: SectionSettings['profile']): readonly string[] {
  if (profile === undefined) return [];
  const directory = resolve('build/profiles');
  mkdirSync(directory, { recursive: true });
  const flag = profile === 'heap' ? '--heap-prof' : '--cpu-prof';
  return [flag, `${flag}-dir=${directory}`];
}
