/** Small files that only the user may read, written whole, and locks that die with their holder. */
import { randomBytes } from 'node:crypto';
import { watch } from 'node:fs';
import { lstat, mkdir, open, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { BridgeError, systemCode, systemReason } from '../errors.ts';

/** Waiters look again this often, besides being told by the directory. */
const LOOK_AGAIN_MS = 250;

/** Makes the directory, 0700, if it is missing. Rejects local.io unless it is ours and closed to others. */
export async function preparePrivateDirectory(directory: string): Promise<void> {
  try {
    await mkdir(directory, { recursive: true, mode: 0o700 });
    const stats = await lstat(directory);
    const isOurs = process.getuid === undefined || stats.uid === process.getuid();
    const isClosed = process.platform === 'win32' || (stats.mode & 0o077) === 0;
    if (stats.isDirectory() && isOurs && isClosed) return;
  } catch (error) {
    throw new BridgeError('local.io', `cannot use ${directory}: ${systemReason(error)}`, {
      cause: error,
    });
  }
  throw new BridgeError('local.io', `${directory} must be a directory of yours alone`, {
    hint: `chmod 700 ${directory}, or remove it`,
  });
}

/** Undefined when there is no such file. */
export async function readPrivateFile(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return undefined;
    throw error;
  }
}

/** Readers see the old text or the new, never a part. */
export async function writePrivateFile(path: string, text: string): Promise<void> {
  const scratch = `${path}.${randomBytes(6).toString('hex')}`;
  try {
    await writeFile(scratch, text, { mode: 0o600, flag: 'wx' });
    await rename(scratch, path);
  } catch (error) {
    await rm(scratch, { force: true });
    throw error;
  }
}

/**
 * Runs `work` while no other process does under the same lock. A lock whose holder is gone is broken.
 * After `limitMs` of waiting the work is done anyway: the lock spares calls, it guards nothing.
 */
export async function withLock<T>(
  path: string,
  limitMs: number,
  work: () => Promise<T>,
): Promise<T> {
  const giveUpAt = performance.now() + limitMs;
  let isHeld = false;
  while (!(isHeld = await tryLock(path)) && performance.now() < giveUpAt) {
    await change(dirname(path), LOOK_AGAIN_MS);
  }
  try {
    return await work();
  } finally {
    if (isHeld) await rm(path, { force: true });
  }
}

async function tryLock(path: string): Promise<boolean> {
  try {
    const file = await open(path, 'wx', 0o600);
    await file.writeFile(String(process.pid));
    await file.close();
    return true;
  } catch (error) {
    if (systemCode(error) !== 'EEXIST') throw error;
  }
  const holder = Number(await readPrivateFile(path));
  // Empty: its holder is between the two steps above.
  if (Number.isInteger(holder) && holder > 0 && !isAlive(holder)) await rm(path, { force: true });
  return false;
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return systemCode(error) === 'EPERM';
  }
}

function change(directory: string, limitMs: number): Promise<void> {
  return new Promise((resolve) => {
    const finish = (): void => {
      clearTimeout(timer);
      watcher?.close();
      resolve();
    };
    const timer = setTimeout(finish, limitMs);
    let watcher: ReturnType<typeof watch> | undefined;
    try {
      watcher = watch(directory, finish);
      watcher.on('error', finish);
    } catch {
      // The timer alone will do.
    }
  });
}
