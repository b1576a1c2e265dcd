import { execFile } from 'node:child_process';
import { mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import {
  ensureKeyFile,
  fingerprint,
  parsePublicKey,
  readAgentKey,
  readPublicKeyFile,
  saveAgentKey,
} from '../../src/ssh/public-key.ts';
import { generateKey } from '../support/openssh.ts';

const execFileAsync = promisify(execFile);
let dir: string;
const agents: number[] = [];

beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'pk-'));
});

afterEach(async () => {
  for (const pid of agents.splice(0)) process.kill(pid);
  await rm(dir, { recursive: true, force: true });
});

async function agentWith(...comments: string[]): Promise<{ env: NodeJS.ProcessEnv; list: string }> {
  const socket = join(dir, 'agent');
  const { stdout } = await execFileAsync('ssh-agent', ['-a', socket]);
  agents.push(Number(/SSH_AGENT_PID=(\d+)/.exec(stdout)?.[1]));
  const env = { PATH: process.env['PATH'], SSH_AUTH_SOCK: socket };
  for (const [index, comment] of comments.entries()) {
    const file = join(dir, `k${index}`);
    await execFileAsync('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-C', comment, '-f', file]);
    await execFileAsync('ssh-add', ['-q', file], { env });
  }
  const { stdout: list } = await execFileAsync('ssh-add', ['-L'], { env }).catch(() => ({
    stdout: '',
  }));
  return { env, list };
}

describe('a public key file', () => {
  it.each(['ed25519', 'ecdsa', 'rsa'])('of type %s is read without its comment', async (type) => {
    const file = join(dir, 'k');
    await generateKey(file, type);
    const text = await readFile(`${file}.pub`, 'utf8');
    const key = await readPublicKeyFile(`${file}.pub`);
    expect(key.line).toBe(text.split(' ', 2).join(' '));
    const { stdout } = await execFileAsync('ssh-keygen', ['-l', '-f', `${file}.pub`]);
    expect(stdout).toContain(fingerprint(Buffer.from(key.line.split(' ')[1]!, 'base64')));
  });

  it('that holds the private half is refused, and nothing of it is repeated', async () => {
    const file = join(dir, 'k');
    await generateKey(file);
    const text = await readFile(file, 'utf8');
    const error: unknown = await readPublicKeyFile(file).catch((thrown: unknown) => thrown);
    expect(error).toMatchObject({
      code: 'key.refused',
      message: expect.stringContaining('private key') as string,
    });
    expect(String(error)).not.toContain(text.split('\n')[1]);
  });

  it.each([
    ['nothing', ''],
    ['prose', 'hello world'],
    ['a broken encoding', 'ssh-ed25519 AAAA*'],
    [
      'a key of another type than it says',
      'ssh-rsa AAAAC3NzaC1lZDI1NTE5AAAAIGb9cyLY3QXrYxY9vQ0Jm7sMZ0G0cZ0eN8M4G1u0Y0aB',
    ],
    ['a certificate', 'ssh-ed25519-cert-v01@openssh.com AAAA'],
    ['an authorized_keys line with options', 'restrict ssh-ed25519 AAAA'],
  ])('with %s is refused', (_what, text) => {
    expect(() => parsePublicKey(text, 'x.pub')).toThrow(
      expect.objectContaining({ code: 'key.refused' }) as Error,
    );
  });

  it('that is missing is named', async () => {
    await expect(readPublicKeyFile(join(dir, 'no.pub'))).rejects.toMatchObject({
      code: 'key.refused',
      hint: 'check the path given as --key',
      message: expect.stringMatching(/no\.pub: no such file or directory \(ENOENT\)$/) as string,
    });
  });
});

describe('a key of the user’s agent', () => {
  it('is the first one when no comment is given', async () => {
    const { env, list } = await agentWith('one', 'two');
    expect((await readAgentKey(undefined, env)).line).toBe(list.split(' ', 2).join(' '));
  });

  it('is the one with the comment', async () => {
    const { env, list } = await agentWith('one', 'two words', 'three');
    const line = list.split('\n').find((each) => each.endsWith(' two words'))!;
    expect((await readAgentKey('two words', env)).line).toBe(line.split(' ', 2).join(' '));
  });

  it.each([
    ['no agent', {}, /no ssh agent/],
    ['a dead one', { SSH_AUTH_SOCK: '/nonexistent/agent' }, /absent/],
  ])('is an error by name with %s', async (_what, env, message) => {
    await expect(readAgentKey(undefined, env)).rejects.toMatchObject({
      code: 'key.agent',
      message: expect.stringMatching(message) as string,
    });
  });

  it('is an error by name when the agent is empty or has no such key', async () => {
    const { env } = await agentWith();
    await expect(readAgentKey(undefined, env)).rejects.toMatchObject({ code: 'key.agent' });
    await expect(readAgentKey('x', env)).rejects.toMatchObject({ code: 'key.agent' });
  });

  it('is saved once, its public half only', async () => {
    const { env } = await agentWith('one', 'two');
    const folder = join(dir, 'saved');
    const path = await saveAgentKey('two', env, folder);
    expect(await saveAgentKey('two', env, folder)).toBe(path);
    expect(await readdir(folder)).toHaveLength(1);
    expect(await readPublicKeyFile(path)).toEqual(await readAgentKey('two', env));
  });
});

describe('a key file', () => {
  it('is made once for all who come at the same time', async () => {
    const file = join(dir, 'sub', 'key');
    const keys = await Promise.all(Array.from({ length: 8 }, () => ensureKeyFile(file)));
    expect(new Set(keys.map(({ line }) => line)).size).toBe(1);
    expect((await readdir(join(dir, 'sub'))).sort()).toEqual(['key', 'key.pub']);
    expect((await stat(file)).mode & 0o777).toBe(0o600);
    expect(await readFile(`${file}.pub`, 'utf8')).toContain(keys[0]!.line);
  });

  it('is never written again', async () => {
    const file = join(dir, 'key');
    await generateKey(file);
    const before = await readFile(file, 'utf8');
    const key = await ensureKeyFile(file);
    expect(await readFile(file, 'utf8')).toBe(before);
    expect(await readFile(`${file}.pub`, 'utf8')).toContain(key.line);
  });

  it('with a passphrase gives its public half from the .pub file', async () => {
    const file = join(dir, 'key');
    await execFileAsync('ssh-keygen', ['-q', '-t', 'ed25519', '-N', 'secret', '-f', file]);
    const key = await ensureKeyFile(file);
    expect(await readFile(`${file}.pub`, 'utf8')).toContain(key.line);
  });

  it('that is no key is an error by name and stays what it is', async () => {
    const file = join(dir, 'key');
    await writeFile(file, 'precious', { mode: 0o600 });
    await expect(ensureKeyFile(file)).rejects.toMatchObject({ code: 'key.failed' });
    expect(await readFile(file, 'utf8')).toBe('precious');
  });
});
