/** From the test to the driver. */
export type Command =
  | { readonly do: 'open' | 'refuse' | 'fail' | 'end' | 'release' }
  | { readonly do: 'deliver' | 'drip' | 'finish'; readonly bytes: number }
  | { readonly do: 'pull'; readonly isPulling: boolean };

/** From the driver to the test. */
export interface Reports {
  /** The relay wants its endpoint. */
  readonly ready: object;
  readonly started: object;
  readonly probed: object;
  /** Everything that was to be delivered has been. */
  readonly delivered: object;
  /** What the endpoint has pulled in all. */
  readonly received: { readonly bytes: number; readonly sha256: string };
  readonly paused: { readonly delivered: number };
  readonly resumed: { readonly delivered: number };
  readonly terminated: { readonly received: number };
  readonly memory: { readonly residentBytes: number };
  /** The relay has given its status; `resources` would keep the process alive. */
  readonly done: { readonly resources: readonly string[] };
}

export type Event = keyof Reports;
export type Report = { [E in Event]: { readonly event: E } & Reports[E] }[Event];
