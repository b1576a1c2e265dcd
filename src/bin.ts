import { main } from './cli/main.ts';
import { report } from './cli/report.ts';

/** What the loader (scripts/loader.cjs) hands over. */
export interface LoaderHooks {
  /** Writes the V8 code cache, when there is reason to. */
  readonly saveCodeCache: () => void;
}

/** When, after the session is up, the code cache is written: not in the way of the login. */
const saveAfterMs = 1000;

/**
 * How long work that was left behind may keep the process alive after a failure, or when a command says so.
 * The longest that is meant to: the answer to a StartSession that was given up is awaited for 5 s, and the
 * session it may bring is then ended.
 */
const lingerMs = 7000;

/** The same after all else: what is still there then is nobody's, such as a name that is being resolved. */
const shortLingerMs = 500;

export function start(hooks: LoaderHooks): void {
  const fatal = new AbortController();
  let isUnfinished = false;
  let saveTimer: NodeJS.Timeout | undefined;
  const save = (): void => {
    if (saveTimer === undefined) return;
    clearTimeout(saveTimer);
    saveTimer = undefined;
    hooks.saveCodeCache();
  };
  const settle = (status: number): void => {
    process.exitCode = status;
    // For sessions shorter than the timer.
    save();
    // The one forced exit there is. Every stream has been drained by now; what can still hold the event
    // loop is a socket or a timer that somebody forgot, and ssh's caller must not wait for that.
    const hasFailed = status > 0 && status < 128;
    setTimeout(() => process.exit(), hasFailed || isUnfinished ? lingerMs : shortLingerMs).unref();
  };
  const onFault = (error: unknown): void => {
    if (fatal.signal.aborted) return;
    settle(report(error, undefined, process.env));
    fatal.abort(error);
  };
  process.on('uncaughtException', onFault);
  process.on('unhandledRejection', onFault);
  void main(process.argv.slice(2), process.env, {
    started: () => {
      saveTimer ??= setTimeout(save, saveAfterMs).unref();
    },
    unfinished: () => {
      isUnfinished = true;
    },
    fatal: fatal.signal,
  }).then((status) => {
    if (!fatal.signal.aborted) settle(status);
  });
}
