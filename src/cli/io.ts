import type { Logger } from '../logger.ts';

/** What main gives to a command besides its arguments. */
export interface CommandIo {
  readonly env: NodeJS.ProcessEnv;
  /** Silent unless logging was asked for. */
  readonly logger: Logger;
  /**
   * One line on stderr, prefixed with the program and the target, for what the user must know while the
   * command goes on. Never throws, never blocks for long.
   */
  readonly notice: (text: string) => void;
  /**
   * Reports a failure the way main does, one line on stderr, and gives the exit status for it. For
   * commands that have to say it before they tidy up.
   */
  readonly fail: (error: unknown) => number;
  /**
   * To be called once, when the command has reached its steady state (the relay runs, the listener
   * listens). Work that would slow the start is done then: the compiled code is cached.
   */
  readonly started: () => void;
  /**
   * To be called by a command that returns although a session it has begun may still have to be ended, for
   * which the process then lives on for a while.
   */
  readonly unfinished: () => void;
  /** Aborted, with the error as its reason, when an internal error means that the command must end now. */
  readonly fatal: AbortSignal;
}
