import { execFileSync } from 'node:child_process';
import { accessSync, constants, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';

export function onPath(name: string): string | undefined {
  for (const directory of (process.env['PATH'] ?? '').split(delimiter)) {
    const file = join(directory, name);
    try {
      accessSync(file, constants.X_OK);
      return file;
    } catch {
      // Not here.
    }
  }
  return undefined;
}

/** The AWS CLI itself; a pyenv shim in front of it would add its own start-up. */
export function findAws(): string | undefined {
  const found = onPath('aws');
  if (found === undefined || !found.includes('/.pyenv/shims/')) return found;
  try {
    return execFileSync('pyenv', ['which', 'aws'], { encoding: 'utf8' }).trim();
  } catch {
    return found;
  }
}

/**
 * The AWS CLI asks the plugin for its version before it calls StartSession. Where there is none, a
 * shell script answers; what the plugin does afterwards is not measured here.
 */
export function pathWithPlugin(): { readonly path: string; readonly remove: () => void } {
  const path = process.env['PATH'] ?? '';
  if (onPath('session-manager-plugin') !== undefined) return { path, remove: () => undefined };
  const directory = mkdtempSync(join(tmpdir(), 'ssm-bridge-bench-'));
  const script = '#!/bin/sh\n[ "$1" = --version ] && echo 1.2.764.0\n';
  writeFileSync(join(directory, 'session-manager-plugin'), script, { mode: 0o755 });
  return {
    path: `${directory}${delimiter}${path}`,
    remove: () => {
      rmSync(directory, { recursive: true });
    },
  };
}
