import { fstatSync, readFileSync, readdirSync, readlinkSync } from 'node:fs';
import { isatty } from 'node:tty';

export type Reader = 'present' | 'gone' | 'unknown';

/**
 * Whether somebody still reads what is written to a descriptor of ours.
 *
 * A writer with nothing to write never hears that its reader left: Node offers no poll for it, and an
 * unnamed pipe opened again by its /proc name never fails for want of a reader (Linux fs/pipe.c,
 * fifo_open). So on Linux the answer comes from looking who holds the pipe open for reading: our parent
 * as a rule, else anybody. A file needs no reader. Where none of this works the answer is 'unknown'.
 */
export function readerOf(fd: number): () => Reader {
  // Who was found last time is asked first: this is called again and again.
  let holder: string | undefined;
  return () => {
    try {
      const stat = fstatSync(fd);
      if (stat.isFile() || (stat.isCharacterDevice() && !isatty(fd))) return 'present';
      if (!stat.isFIFO() || process.platform !== 'linux') return 'unknown';
      const pipe = readlinkSync(`/proc/self/fd/${fd}`);
      const parent = String(process.ppid);
      if (holder !== undefined && holds(holder, pipe) === true) return 'present';
      const parentHolds = holds(parent, pipe);
      holder = parentHolds === true ? parent : someHolder(pipe);
      if (holder !== undefined) return 'present';
      return parentHolds === undefined ? 'unknown' : 'gone';
    } catch {
      // No /proc, or a descriptor that is closed.
      return 'unknown';
    }
  };
}

function someHolder(pipe: string): string | undefined {
  return readdirSync('/proc').find(
    (name) => /^\d+$/.test(name) && name !== String(process.pid) && holds(name, pipe) === true,
  );
}

/** Whether the process has the pipe open for reading; undefined when it does not let us look. */
function holds(pid: string, pipe: string): boolean | undefined {
  try {
    return readdirSync(`/proc/${pid}/fd`).some((fd) => isReadEnd(pid, fd, pipe));
  } catch {
    return undefined;
  }
}

function isReadEnd(pid: string, fd: string, pipe: string): boolean {
  try {
    if (readlinkSync(`/proc/${pid}/fd/${fd}`) !== pipe) return false;
    // The last octal digit holds the access mode; 1 is write-only (proc_pid_fdinfo(5)).
    return !/^flags:\s+\d*[15]$/m.test(readFileSync(`/proc/${pid}/fdinfo/${fd}`, 'latin1'));
  } catch {
    // Closed while we looked.
    return false;
  }
}
