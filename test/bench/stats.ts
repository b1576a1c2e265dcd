export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = Math.floor(sorted.length / 2);
  const high = sorted[middle] ?? Number.NaN;
  return sorted.length % 2 === 1 ? high : ((sorted[middle - 1] ?? Number.NaN) + high) / 2;
}

/** Medians of paired measurements: the ratio is taken within each round, so that noise hits both. */
export function medianRatio(above: readonly number[], below: readonly number[]): number {
  return median(above.map((value, index) => value / (below[index] ?? Number.NaN)));
}

export interface Row {
  readonly section: string;
  readonly what: string;
  readonly value: string;
  /** The number behind `value`, for the JSON. */
  readonly number: number;
  /** What was asked for, and whether it was met; absent for rows that only inform. */
  readonly target?: { readonly text: string; readonly isMet: boolean };
}

export function table(rows: readonly Row[]): string {
  const cells = rows.map((row) => [
    row.section,
    row.what,
    row.value,
    row.target?.text ?? '',
    row.target === undefined ? '' : row.target.isMet ? 'met' : 'MISSED',
  ]);
  const head = ['', 'measured', 'value', 'target', ''];
  const widths = head.map((title, column) =>
    Math.max(title.length, ...cells.map((cell) => (cell[column] ?? '').length)),
  );
  const line = (cell: readonly string[]): string =>
    `| ${cell.map((text, column) => text.padEnd(widths[column] ?? 0)).join(' | ')} |`;
  const rule = `|${widths.map((width) => '-'.repeat(width + 2)).join('|')}|`;
  return [line(head), rule, ...cells.map(line)].join('\n');
}
