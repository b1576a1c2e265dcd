import { execFileSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { parseArgs } from 'node:util';
import { runBare, type BareOptions } from './bare.ts';
import { emulate, type EmulatedOptions } from './emulated.ts';
import { sections, type SectionName } from './sections.ts';
import { serve, type ServiceOptions } from './service.ts';
import { table, type Row } from './stats.ts';

const usage = `npm run bench -- [--only SECTION[,SECTION…]] [--rounds N] [--quick] [--json FILE] [--profile cpu|heap]

Sections: ${Object.keys(sections).join(', ')}.
--quick moves less data; its figures are for a look, not for a comparison.
--profile writes .cpuprofile or .heapprofile files of the bridge into build/profiles.
`;

const [part, options] = process.argv.slice(2);
if (part === '--service') {
  // Written by startService, which is typed with the same interface.
  await serve(JSON.parse(options ?? '{}') as ServiceOptions, (event) => process.send?.(event));
} else if (part === '--bare') {
  // Written by bareLoop.
  process.send?.(await runBare(JSON.parse(options ?? '{}') as BareOptions));
  process.disconnect();
} else if (part === '--emulator') {
  // Written by startEmulated.
  await emulate(JSON.parse(options ?? '{}') as EmulatedOptions);
} else {
  await main();
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      only: { type: 'string' },
      rounds: { type: 'string', default: '11' },
      quick: { type: 'boolean', default: false },
      json: { type: 'string', default: 'build/bench.json' },
      profile: { type: 'string' },
      help: { type: 'boolean', default: false },
    },
  });
  if (values.help) {
    process.stdout.write(usage);
    return;
  }
  if (process.platform !== 'linux') {
    throw new Error('the benchmark reads /proc and so runs on Linux only');
  }
  const names = Object.keys(sections).filter(isSection);
  const wanted = values.only?.split(',') ?? names;
  const machine = machineLine();
  process.stdout.write(`${machine}\n\n`);
  const rows: Row[] = [];
  for (const name of names) {
    if (!wanted.includes(name)) continue;
    process.stderr.write(`… ${name}\n`);
    const settings = {
      rounds: Number(values.rounds),
      isQuick: values.quick,
      profile: profileOf(values.profile),
    };
    try {
      rows.push(...(await sections[name](settings)));
    } catch (error) {
      // The other sections are still worth having.
      const text = error instanceof Error ? error.message : 'unknown error';
      const target = { text: 'to be measured', isMet: false };
      rows.push({ section: name, what: 'failed', value: text, number: Number.NaN, target });
    }
  }
  process.stdout.write(`${table(rows)}\n`);
  writeFileSync(
    values.json,
    `${JSON.stringify({ machine, at: new Date().toISOString(), rows }, null, 2)}\n`,
  );
  process.stdout.write(`\nwritten to ${values.json}\n`);
  process.exit(0);
}

function profileOf(text: string | undefined): 'cpu' | 'heap' | undefined {
  if (text === undefined || text === 'cpu' || text === 'heap') return text;
  throw new Error('--profile is cpu or heap');
}

function isSection(name: string): name is SectionName {
  return name in sections;
}

function machineLine(): string {
  const [cpu] = cpus();
  const kernel = execFileSync('uname', ['-sr'], { encoding: 'utf8' }).trim();
  return `${cpu?.model.trim() ?? 'unknown CPU'}, ${cpus().length} cores, ${kernel}, Node ${process.version}`;
}
