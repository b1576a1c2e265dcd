import { main } from './cli/main.ts';
import { report } from './cli/report.ts';

/** What the loader (scripts/loader.cjs) hands over. */
export interface LoaderHooks {
  /** Writes the V8 code cache, when there is reason to. */
  readonly saveCodeCache: () => void;
}

/** How long work that was left behind may keep the process alive once everything is said and done. */
const lingerMs = 2000;

export function start(hooks: LoaderHooks): void {
  const fatal = new AbortController();
  const settle = (status: number): void => {
    process.exitCode = status;
    // The one forced exit there is. Every stream has been drained by now; what can still hold the event
    // loop is a socket or a timer that somebody forgot, and ssh's caller must not wait for that.
    setTimeout(() => process.exit(), lingerMs).unref();
  };
  const onFault = (error: unknown): void => {
    if (fatal.signal.aborted) return;
    settle(report(error, undefined, process.env));
    fatal.abort(error);
  };
  process.on('uncaughtException', onFault);
  process.on('unhandledRejection', onFault);
  void main(process.argv.slice(2), process.env, {
    started: hooks.saveCodeCache,
    fatal: fatal.signal,
  }).then((status) => {
    if (!fatal.signal.aborted) settle(status);
  });
}
