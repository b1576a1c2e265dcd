import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { startSshd } from '../support/openssh.ts';
import { startEmulated } from './emulated.ts';
import { cleanEnvironment, exited, ignore, nowMs, pause, within } from './process.ts';
import { onPath } from './programs.ts';
import { format, row, type SectionSettings } from './rows.ts';
import { ownKey, proxyCommand, sshCommand } from './ssh.ts';
import { median, type Row } from './stats.ts';

const name = 'keystroke';

/** One byte there and back through a shared ssh connection, alone and beside a copy in the same one. */
export async function keystrokes({ isQuick }: SectionSettings): Promise<Row[]> {
  if (onPath('sshd') === undefined) return [];
  const count = isQuick ? 10 : 40;
  const directory = mkdtempSync(join(tmpdir(), 'ssm-bridge-bench-'));
  const control = join(directory, 'control');
  const sshd = await startSshd();
  const emulated = await startEmulated({ agent: { readPauseMs: 0 } }, sshd.port);
  const children: ChildProcess[] = [];
  const ssh = (options: readonly string[], command: readonly string[]): ChildProcess => {
    const [file = '', ...args] = sshCommand(sshd, [...options, ...ownKey(sshd)], command);
    const env = cleanEnvironment(emulated.env);
    const child = spawn(file, args, { env, stdio: ['pipe', 'pipe', 'inherit'] });
    child.stdin.on('error', ignore);
    children.push(child);
    return child;
  };
  const share = `ControlPath=${control}`;
  try {
    ssh(['ControlMaster=yes', share, proxyCommand()], ['cat']);
    while (!existsSync(control)) await pause(20);
    const typing = ssh(['ControlMaster=no', share], ['cat']);
    await echoMs(typing);
    const alone = await echoes(typing, count);
    const bulk = ssh(['ControlMaster=no', share], ['cat >/dev/null']);
    feed(bulk);
    await pause(1_500);
    const beside = await echoes(typing, count);
    return [
      row(name, 'one byte there and back by ssh, alone', alone, `${format(alone)} ms`),
      row(name, '… beside an upload in the same ssh connection', beside, `${format(beside)} ms`),
    ];
  } finally {
    for (const child of children) child.kill();
    await Promise.all(children.map(exited));
    emulated.close();
    await sshd.stop();
    rmSync(directory, { recursive: true, force: true });
  }
}

async function echoes(child: ChildProcess, count: number): Promise<number> {
  const measured: number[] = [];
  for (let index = 0; index < count; index += 1) {
    measured.push(await echoMs(child));
    await pause(25);
  }
  return median(measured);
}

async function echoMs({ stdin, stdout }: ChildProcess): Promise<number> {
  if (stdin === null || stdout === null) throw new Error('ssh was started without pipes');
  const startedAt = nowMs();
  stdin.write('k');
  await within(once(stdout, 'data'), 30_000, 'an echo');
  return nowMs() - startedAt;
}

function feed({ stdin }: ChildProcess): void {
  const chunk = Buffer.alloc(64 * 1024, 'b');
  const more = (): void => {
    while (stdin?.writable === true && stdin.write(chunk));
  };
  stdin?.on('drain', more);
  more();
}
