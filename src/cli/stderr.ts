import { fstatSync, writeSync } from 'node:fs';
import { isatty } from 'node:tty';
import { systemCode } from '../errors.ts';
import { replaceWithNull } from '../relay/output.ts';

// process.stderr is never touched: on a pipe it would set O_NONBLOCK on a description that is shared with
// ssh and everything around it, and another program writing there would then lose output to EAGAIN.

let isClosed = false;

/**
 * Writes a line to file descriptor 2. Never throws: a reader that is slow (EAGAIN, since ssh makes the
 * shared description non-blocking) is given a moment, one that is gone (EPIPE, EIO) loses the line.
 */
export function writeStderr(line: string): void {
  if (isClosed) return;
  // A leading carriage return, because the terminal may be in ssh's raw mode with the cursor anywhere.
  let rest = Buffer.from(isatty(2) ? `\r${line}\r\n` : `${line}\n`);
  for (let attempt = 0; attempt < 20 && rest.length > 0;) {
    try {
      rest = rest.subarray(writeSync(2, rest));
    } catch (error) {
      if (systemCode(error) !== 'EAGAIN') return;
      attempt += 1;
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 5);
    }
  }
}

/**
 * Closes file descriptor 2, so that `$(ssh … 2>&1)` returns with ssh and does not wait for a bridge that
 * still says goodbye to the service.
 */
export function closeStderr(): void {
  if (isClosed) return;
  isClosed = true;
  replaceWithNull(2);
}

/** Whether nobody can read what is written: ssh gives /dev/null under ControlPersist. */
export function isStderrUnread(): boolean {
  if (isClosed) return true;
  try {
    const stderr = fstatSync(2);
    return stderr.isCharacterDevice() && !isatty(2);
  } catch {
    return true;
  }
}
