import type { HostKey } from './host-keys.ts';

export interface KnownNode {
  readonly keys: readonly HostKey[];
  /** Unix time in milliseconds. */
  readonly fetchedAt: number;
}

export interface RecentFailure {
  /** Unix time in milliseconds. */
  readonly at: number;
  readonly text: string;
  /** The ssh that was told. */
  readonly toldPid: number;
}

/** Undefined for anything but a record of this node. A damaged file is like none: the node is asked again. */
export function parseStored(text: string | undefined, node: string): KnownNode | undefined {
  const record = parseObject(text);
  const { version, fetchedAt, keys } = record;
  if (version !== 1 || record['node'] !== node || typeof fetchedAt !== 'number') return undefined;
  if (!Array.isArray(keys) || keys.length === 0) return undefined;
  const lines = keys.filter(
    (key): key is string => typeof key === 'string' && /^[\w@.-]+ [A-Za-z0-9+/=]+$/.test(key),
  );
  return lines.length === keys.length ? { keys: lines, fetchedAt } : undefined;
}

export function parseFailure(text: string | undefined): RecentFailure | undefined {
  const { at, text: what, toldPid } = parseObject(text);
  return typeof at === 'number' && typeof what === 'string' && typeof toldPid === 'number'
    ? { at, text: what, toldPid }
    : undefined;
}

function parseObject(text: string | undefined): Readonly<Record<string, unknown>> {
  if (text === undefined) return {};
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === 'object' && value !== null ? { ...value } : {};
  } catch {
    return {}; // Damaged, and replaced by the next fetch.
  }
}
