import { mkdirSync, renameSync, writeFileSync } from 'node:fs';
import path from 'node:path';

/**
 * Keeps the last failure where it can be read later. With ControlPath and ControlPersist ssh gives the
 * bridge the null device as stderr, and the user sees nothing but ssh's "Connection closed".
 */
export function rememberFailure(line: string, env: NodeJS.ProcessEnv): void {
  const file = lastErrorFile(env);
  if (file === undefined) return;
  try {
    mkdirSync(path.dirname(file), { recursive: true, mode: 0o700 });
    const draft = `${file}.${process.pid}`;
    writeFileSync(draft, `${new Date().toISOString()} ${line}\n`, { mode: 0o600 });
    renameSync(draft, file);
  } catch {
    // Best effort: there is nowhere left to complain to.
  }
}

export function lastErrorFile(env: NodeJS.ProcessEnv): string | undefined {
  const state = env['XDG_STATE_HOME'] ?? path.join(env['HOME'] ?? '', '.local', 'state');
  return path.isAbsolute(state) ? path.join(state, 'ssm-bridge', 'last-error') : undefined;
}
