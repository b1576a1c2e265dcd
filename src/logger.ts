/** The little that inner layers need of a logger. pino satisfies it; `silentLogger` is the default. */
export interface Logger {
  readonly trace: LogFunction;
  readonly debug: LogFunction;
  readonly info: LogFunction;
  readonly warn: LogFunction;
}

/** Fields are for machines, the text for people. Never pass tokens, headers, keys or payload bytes. */
export type LogFunction = (fields: Readonly<Record<string, unknown>>, text: string) => void;

function ignore(): void {
  // Logging is off.
}

export const silentLogger: Logger = { trace: ignore, debug: ignore, info: ignore, warn: ignore };
