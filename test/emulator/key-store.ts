import { createHash } from 'node:crypto';
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { PushedKey } from './types.ts';

/**
 * Keys pushed through Instance Connect, in files that a shell script can read: one file per key, its
 * first line the Unix second from which it no longer counts, its second line the key.
 */
export class KeyStore {
  readonly keys: PushedKey[] = [];
  readonly #directory: string;

  constructor(directory: string) {
    this.#directory = directory;
    mkdirSync(directory, { recursive: true, mode: 0o700 });
    this.setClock(0);
    writeFileSync(this.#script, SCRIPT, { mode: 0o700 });
  }

  /**
   * The value of AuthorizedKeysCommand. sshd wants the program itself in directories that only root
   * can write to, so the program is the system's sh and the script its argument.
   */
  command(instanceId: string): string {
    return `/bin/sh ${this.#script} ${instanceId} %u`;
  }

  add(key: PushedKey): void {
    this.keys.push(key);
    const directory = join(this.#directory, key.instanceId, key.osUser);
    mkdirSync(directory, { recursive: true, mode: 0o700 });
    const name = createHash('sha256').update(key.publicKey).digest('hex').slice(0, 32);
    const expires = Math.floor(key.expiresAt / 1000);
    writeFileSync(join(directory, name), `${expires}\n${key.publicKey.trim()}\n`);
  }

  /** Takes back every key of an instance, as if it had expired. */
  remove(instanceId: string): void {
    rmSync(join(this.#directory, instanceId), { recursive: true, force: true });
  }

  /** How far the emulator's clock is ahead of the machine's. */
  setClock(aheadMs: number): void {
    writeFileSync(join(this.#directory, 'clock-ahead'), `${Math.round(aheadMs / 1000)}\n`);
  }

  get #script(): string {
    return join(this.#directory, 'authorized-keys.sh');
  }
}

const SCRIPT = `#!/bin/sh
# AuthorizedKeysCommand: authorized-keys.sh INSTANCE USER. Prints the keys that still count.
store=$(dirname "$0")
now=$(( $(date +%s) + $(cat "$store/clock-ahead") ))
for file in "$store/$1/$2"/*; do
  [ -f "$file" ] || continue
  { read -r expires && read -r key; } < "$file" || continue
  [ "$now" -lt "$expires" ] && printf '%s\\n' "$key"
done
exit 0
`;
