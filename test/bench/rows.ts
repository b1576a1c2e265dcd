import { MiB, type Cost } from './process.ts';
import type { Row } from './stats.ts';

export interface SectionSettings {
  readonly rounds: number;
  readonly isQuick: boolean;
  readonly profile: 'cpu' | 'heap' | undefined;
}

export const format = (value: number, digits = 1): string => value.toFixed(digits);
export const mibPerSecond = (bytesPerMs: number): string =>
  `${format((bytesPerMs * 1000) / MiB)} MiB/s`;

export function row(
  section: string,
  what: string,
  number: number,
  value: string,
  target?: Row['target'],
): Row {
  return { section, what, number, value, ...(target === undefined ? {} : { target }) };
}

export function atMost(limit: number, number: number, unit = ''): NonNullable<Row['target']> {
  return { text: `<= ${limit}${unit}`, isMet: number <= limit };
}

export function atLeast(limit: number, number: number, unit = ''): NonNullable<Row['target']> {
  return { text: `>= ${limit}${unit}`, isMet: number >= limit };
}

/** A ratio with its target. */
export function times(
  section: string,
  what: string,
  ratio: number,
  target: NonNullable<Row['target']>,
): Row {
  return row(section, what, ratio, `${format(ratio, 2)}x`, target);
}

/** Memory while relaying, and whether it stays what it is. */
export function memoryRows(name: string, bytes: number, early: Cost, late: Cost): Row[] {
  const rss = late.rssBytes / MiB;
  const pss = late.pssBytes / MiB;
  const grown = (late.rssBytes - early.rssBytes) / MiB;
  const mib = (value: number): string => `${format(value)} MiB`;
  const after = `after ${bytes / MiB} MiB`;
  return [
    row(name, `resident memory (RSS) ${after}`, rss, mib(rss), atMost(58, rss, ' MiB')),
    row(name, `proportional share (PSS) ${after}`, pss, mib(pss), atMost(16, pss, ' MiB')),
    row(name, 'RSS growth since the first 5%', grown, mib(grown)),
  ];
}
