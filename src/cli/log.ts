import { openSync, writeSync } from 'node:fs';
import { pino } from 'pino';
import { BridgeError } from '../errors.ts';
import type { Logger } from '../logger.ts';
import type { LogArgs } from './args.ts';
import { redact, redactText } from './redact.ts';
import { writeStderr } from './stderr.ts';

/**
 * The log, to a file or to stderr and never to stdout. Loaded only when logging is on. Lines are written
 * at once, so that the last ones before a crash are there.
 */
export function openLog(args: LogArgs, fields: Readonly<Record<string, unknown>>): Logger {
  const append = args.logFile === undefined ? toStderr : toFile(args.logFile);
  const write = (line: string): void => {
    append(withoutC1(line));
  };
  const log = pino(
    {
      level: args.logLevel === 'off' ? 'silent' : args.logLevel,
      base: { pid: process.pid, ...fields },
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: {
        level: (label) => ({ level: label }),
        log: (object) => redactedFields(object),
      },
      // pino's own serializer of errors would run first and keep what redact() takes out.
      serializers: { err: (error: unknown) => error },
    },
    { write },
  );
  return {
    trace: (more, text) => {
      log.trace(more, redactText(text));
    },
    debug: (more, text) => {
      log.debug(more, redactText(text));
    },
    info: (more, text) => {
      log.info(more, redactText(text));
    },
    warn: (more, text) => {
      log.warn(more, redactText(text));
    },
  };
}

function redactedFields(object: object): Record<string, unknown> {
  const fields = redact(object);
  // redact() gives an object for an object that is neither bytes nor a collection.
  return typeof fields === 'object' && fields !== null
    ? (fields as Record<string, unknown>)
    : { value: fields };
}

/** JSON leaves DEL and the C1 controls as they are, and terminals obey some of them. */
function withoutC1(line: string): string {
  return line.replace(/[\x7f-\x9f]/g, (control) => `\\u00${control.charCodeAt(0).toString(16)}`);
}

function toStderr(line: string): void {
  writeStderr(line.trimEnd());
}

function toFile(path: string): (line: string) => void {
  let fd: number;
  try {
    fd = openSync(path, 'a', 0o600);
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new BridgeError('usage.config', `cannot open the log file: ${why}`, { cause });
  }
  return (line) => {
    try {
      writeSync(fd, line);
    } catch {
      // A full disk must not end the session.
    }
  };
}
