import { existsSync, mkdirSync, renameSync, writeFileSync } from 'node:fs';
import path from 'node:path';

/**
 * Keeps the last failure where it can be read later. With ControlPath and ControlPersist ssh gives the
 * bridge the null device as stderr, and the user sees nothing but ssh's "Connection closed".
 */
export function rememberFailure(line: string, env: NodeJS.ProcessEnv): void {
  const file = lastErrorFile(env);
  if (file === undefined) return;
  try {
    makeDirectory(path.dirname(file), 3);
    const draft = `${file}.${process.pid}`;
    writeFileSync(draft, `${new Date().toISOString()} ${line}\n`, { mode: 0o600 });
    renameSync(draft, file);
  } catch {
    // Best effort: there is nowhere left to complain to.
  }
}

/** Node's own recursive mkdir never returns where the file system says ENOENT for ever, as /proc does. */
function makeDirectory(directory: string, missingParents: number): void {
  if (existsSync(directory)) return;
  if (missingParents > 0) makeDirectory(path.dirname(directory), missingParents - 1);
  mkdirSync(directory, { mode: 0o700 });
}

export function lastErrorFile(env: NodeJS.ProcessEnv): string | undefined {
  const state = env['XDG_STATE_HOME'] ?? path.join(env['HOME'] ?? '', '.local', 'state');
  return path.isAbsolute(state) ? path.join(state, 'ssm-bridge', 'last-error') : undefined;
}
