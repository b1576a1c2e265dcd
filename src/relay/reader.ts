import { closeSync, constants, fstatSync, openSync } from 'node:fs';
import { isatty } from 'node:tty';
import { systemCode } from '../transport/network-error.ts';

/**
 * Whether somebody still reads what is written to a descriptor of ours.
 *
 * A writer with nothing to write never hears that its reader left. On Linux a pipe can be opened
 * again by its /proc name, and opening it for writing without blocking fails with ENXIO exactly when
 * it has no reader (fifo(7)). A file needs no reader. Otherwise the answer is 'unknown'.
 */
export function outputReader(fd: number): 'present' | 'gone' | 'unknown' {
  try {
    const stat = fstatSync(fd);
    if (stat.isFile() || (stat.isCharacterDevice() && !isatty(fd))) return 'present';
    if (!stat.isFIFO() || process.platform !== 'linux') return 'unknown';
    closeSync(openSync(`/proc/self/fd/${fd}`, constants.O_WRONLY | constants.O_NONBLOCK));
    return 'present';
  } catch (error) {
    return systemCode(error) === 'ENXIO' ? 'gone' : 'unknown';
  }
}
