import { readFile, readdir } from 'node:fs/promises';
import path from 'node:path';

/** The licences of the packages whose files are bundled, in one text. Fails when one has none. */
export async function licenseNotices(root, inputs) {
  const directories = new Set();
  for (const input of inputs) {
    const match = /^(.*node_modules\/(?:@[^/]+\/)?[^/]+)\//.exec(input);
    if (match) directories.add(match[1]);
  }
  const parts = [];
  for (const directory of [...directories].sort()) {
    const { name, version, license } = JSON.parse(
      await readFile(path.join(root, directory, 'package.json'), 'utf8'),
    );
    const files = await readdir(path.join(root, directory));
    const file = files.find((candidate) => /^(?:licen[cs]e|copying)/i.test(candidate));
    if (!license) throw new Error(`${name} states no licence`);
    const text = file ? await readFile(path.join(root, directory, file), 'utf8') : '';
    parts.push({ heading: `${name} ${version} (${license})`, text: text.trim() });
  }
  const byText = new Map();
  for (const { heading, text } of parts) {
    byText.set(text, [...(byText.get(text) ?? []), heading]);
  }
  const sections = [...byText].map(([text, headings]) => [...headings, '', text].join('\n'));
  return ['ssm-bridge contains code of the packages below, under their licences.', ...sections]
    .join(`\n\n${'-'.repeat(78)}\n\n`)
    .concat('\n');
}
