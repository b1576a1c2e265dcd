import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { readerOf } from '../../src/relay/reader.ts';

describe.runIf(process.platform === 'linux')('the reader of a pipe', () => {
  it('is present while a process holds the other end, and gone when none does', async () => {
    const dir = mkdtempSync(join(tmpdir(), 'sb-'));
    const path = join(dir, 'pipe');
    execFileSync('mkfifo', [path]);
    const cat = spawn('cat', [path], { stdio: 'ignore' });
    // Opening waits for the reader.
    const pipe = await open(path, 'w');
    try {
      const reader = readerOf(pipe.fd);
      expect([reader(), reader()]).toEqual(['present', 'present']);
      cat.kill('SIGKILL');
      await once(cat, 'exit');
      expect([reader(), reader()]).toEqual(['gone', 'gone']);
    } finally {
      await pipe.close();
      rmSync(dir, { recursive: true });
    }
  });

  it('is not needed by a file, and not known of a closed descriptor', async () => {
    const dir = mkdtempSync(join(tmpdir(), 'sb-'));
    const file = await open(join(dir, 'file'), 'w');
    const reader = readerOf(file.fd);
    expect(reader()).toBe('present');
    await file.close();
    expect(readerOf(1 << 20)()).toBe('unknown');
    rmSync(dir, { recursive: true });
  });
});
