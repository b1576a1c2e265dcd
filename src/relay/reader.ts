import { closeSync, constants, fstatSync, openSync } from 'node:fs';
import { systemCode } from '../transport/network-error.ts';

/**
 * Whether somebody still reads the pipe behind a descriptor that we write to.
 *
 * A writer with nothing to write never hears that its reader left. On Linux a pipe can be opened
 * again by its /proc name, and opening it for writing without blocking fails with ENXIO exactly when
 * it has no reader (fifo(7)). Elsewhere, and for other kinds of files, the answer is 'unknown'.
 */
export function pipeReader(fd: number): 'present' | 'gone' | 'unknown' {
  if (process.platform !== 'linux') return 'unknown';
  try {
    if (!fstatSync(fd).isFIFO()) return 'unknown';
    closeSync(openSync(`/proc/self/fd/${fd}`, constants.O_WRONLY | constants.O_NONBLOCK));
    return 'present';
  } catch (error) {
    return systemCode(error) === 'ENXIO' ? 'gone' : 'unknown';
  }
}
