/**
 * The agent socket's place in the file system: who may be there, and how a listener is put there, and
 * replaced, without a moment in which a living one is missing. A socket is made under a name of its own
 * and then linked or renamed, so that no listener ever appears half made and libuv, which unlinks the
 * name it bound when it closes, never removes a successor's.
 */
import { randomBytes } from 'node:crypto';
import { type BigIntStats } from 'node:fs';
import { link, lstat, mkdir, readdir, rename, unlink } from 'node:fs/promises';
import { userInfo } from 'node:os';
import { basename, dirname, isAbsolute, join, resolve } from 'node:path';
import { BridgeError, systemCode } from '../errors.ts';

/** sun_path of macOS less its final NUL; Linux has four more. Both ssh and Node cut longer ones silently. */
const MAX_PATH_BYTES = 103;

/** A name of its own is moved or unlinked within milliseconds; what is older belongs to nobody living. */
const OWN_NAME = /^\.[0-9a-f]{12}$/;
const OWN_NAME_LIFE_MS = 60_000;

/** A leading `~/` means the home directory of the password database, as in ssh, whatever HOME says. */
export function expandHome(path: string): string {
  return path === '~' || path.startsWith('~/')
    ? join(userInfo().homedir, path.slice(2))
    : resolve(path);
}

/** What `IdentityAgent ~/.ssh/ssm-bridge/%r@%h:%p` is for this login. Rejects key.agent. */
export function defaultSocketPath(osUser: string, target: string, port: number): string {
  const name = `${osUser}@${target}:${port}`;
  if (!/^[\w.@:+=,-]+$/.test(name)) {
    throw new BridgeError('key.agent', `'${name}' cannot be the name of an agent socket`, {
      hint: 'give --agent-socket PATH, and the same path as IdentityAgent',
    });
  }
  return join(userInfo().homedir, '.ssh', 'ssm-bridge', name);
}

/** Which socket is at a path: inode numbers alone are used again soon. */
export type SocketIdentity = string;

export class SocketPlace {
  readonly path: string;
  readonly directory: string;
  readonly name: string;

  /** Throws key.agent for a path that no socket can have. */
  constructor(path: string) {
    if (process.platform === 'win32') {
      throw new BridgeError('key.agent', 'there is no private agent on Windows yet', {
        hint: 'use --key file:PATH, or the public half of a key that you have',
      });
    }
    this.path = isAbsolute(path) ? path : resolve(path);
    this.directory = dirname(this.path);
    this.name = basename(this.path);
    const length = Math.max(Buffer.byteLength(this.path), Buffer.byteLength(this.ownName()));
    if (length > MAX_PATH_BYTES) {
      throw new BridgeError(
        'key.agent',
        `the agent socket's path would be ${length} bytes long, and a socket's may be ${MAX_PATH_BYTES}: ${this.path}`,
        { hint: 'give a shorter one as --agent-socket and as IdentityAgent' },
      );
    }
  }

  /** A fresh name beside the place. */
  ownName(): string {
    return join(this.directory, `.${randomBytes(6).toString('hex')}`);
  }

  /** Makes the directory if it is missing. Rejects key.agent unless it is ours and closed to others. */
  async prepare(): Promise<void> {
    let stats;
    try {
      await mkdir(this.directory, { recursive: true, mode: 0o700 });
      stats = await lstat(this.directory);
    } catch (error) {
      throw unusable(`cannot make the directory ${this.directory}`, error);
    }
    if (!stats.isDirectory()) throw unusable(`${this.directory} is not a directory`);
    if (process.getuid !== undefined && stats.uid !== process.getuid()) {
      throw unusable(`the directory ${this.directory} belongs to another user`);
    }
    if ((stats.mode & 0o077) !== 0) {
      throw unusable(`the directory ${this.directory} is open to other users`, undefined, {
        hint: `chmod 700 ${this.directory}`,
      });
    }
    await this.#sweep();
  }

  /** Removes what bridges that were killed at the wrong moment have left. */
  async #sweep(): Promise<void> {
    const names = await readdir(this.directory).catch(() => []); // What follows will say why.
    for (const name of names.filter((each) => OWN_NAME.test(each))) {
      const path = join(this.directory, name);
      try {
        if (Date.now() - (await lstat(path)).mtimeMs > OWN_NAME_LIFE_MS) await unlink(path);
      } catch {
        // Somebody else was quicker.
      }
    }
  }

  /** What is at the place now; undefined when nothing is. Rejects key.agent for anything but a socket. */
  async occupant(): Promise<SocketIdentity | undefined> {
    return identityAt(this.path);
  }

  /** Puts the socket at `from` into the place if nothing is there. False: something is. */
  async claim(from: string): Promise<boolean> {
    try {
      await link(from, this.path);
    } catch (error) {
      if (systemCode(error) === 'EEXIST') return false;
      // File systems without hard links: nothing was there a moment ago, and owners watch their place.
      const hasNoLinks = ['EPERM', 'ENOTSUP', 'EOPNOTSUPP'].includes(systemCode(error) ?? '');
      if (!hasNoLinks) throw placeError(this, error);
      if ((await this.occupant()) !== undefined) return false;
      await this.replace(from);
      return true;
    }
    await unlink(from);
    return true;
  }

  /** Puts the socket at `from` into the place at one stroke, whatever is there. */
  async replace(from: string): Promise<void> {
    try {
      await rename(from, this.path);
    } catch (error) {
      throw placeError(this, error);
    }
  }

  /** Takes away a socket that nobody listens on, and only that one. */
  async clear(dead: SocketIdentity): Promise<void> {
    const aside = this.ownName();
    try {
      if ((await this.occupant()) !== dead) return;
      await rename(this.path, aside);
      // Between the look and the rename a living one may have come: it goes back.
      const isDead = (await identityAt(aside)) === dead;
      if (isDead || !(await this.claim(aside))) await unlink(aside);
    } catch (error) {
      if (systemCode(error) !== 'ENOENT') throw placeError(this, error);
    }
  }
}

export async function identityAt(path: string): Promise<SocketIdentity | undefined> {
  let stats: BigIntStats;
  try {
    stats = await lstat(path, { bigint: true });
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return undefined;
    throw unusable(`cannot look at ${path}`, error);
  }
  if (!stats.isSocket()) throw unusable(`${path} is there and is not a socket`);
  return `${stats.dev}:${stats.ino}:${stats.mtimeNs}`;
}

function placeError(place: SocketPlace, error: unknown): BridgeError {
  return error instanceof BridgeError
    ? error
    : unusable(`cannot put the agent socket at ${place.path}`, error);
}

function unusable(message: string, cause?: unknown, options: { hint?: string } = {}): BridgeError {
  const why = systemCode(cause);
  return new BridgeError('key.agent', why === undefined ? message : `${message}: ${why}`, {
    ...options,
    cause,
  });
}
