import { MiB, type Cost } from './process.ts';
import { median, type Row } from './stats.ts';

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

/** Memory while relaying. */
export function memoryRows(section: string, when: string, cost: Cost): Row[] {
  const [rss, pss] = [cost.rssBytes / MiB, cost.pssBytes / MiB];
  return [
    row(section, `RSS, ${when}`, rss, `${format(rss)} MiB`, atMost(58, rss, ' MiB')),
    row(section, `PSS, ${when}`, pss, `${format(pss)} MiB`, atMost(16, pss, ' MiB')),
  ];
}

/** What a loop of `ws` and nothing else takes: the least that this runtime can do. */
export function floorRows(
  section: string,
  loops: readonly { readonly rssBytes: number; readonly pssBytes: number }[],
): Row[] {
  const rss = median(loops.map(({ rssBytes }) => rssBytes)) / MiB;
  const pss = median(loops.map(({ pssBytes }) => pssBytes)) / MiB;
  return [
    row(section, 'RSS of the bare loop', rss, `${format(rss)} MiB`),
    row(section, 'PSS of the bare loop', pss, `${format(pss)} MiB`),
  ];
}

/** Whether it stays what it is. */
export function growthRow(section: string, bytes: number, early: Cost, late: Cost): Row {
  const grown = (late.rssBytes - early.rssBytes) / MiB;
  const what = `RSS growth from 5% to the end of ${bytes / MiB} MiB`;
  return row(section, what, grown, `${format(grown)} MiB`);
}
