/** The public half of the key that is pushed, whoever holds the private one. */
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { link, mkdir, mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { BridgeError, systemCode, systemReason } from '../errors.ts';
import { AgentFaultError, listIdentities } from './agent-client.ts';
import { expandHome } from './socket-place.ts';
import { WireError, WireReader } from './wire.ts';

/** Which key is pushed: the forms of --key. */
export type KeyChoice =
  | { readonly kind: 'ephemeral' }
  | { readonly kind: 'public'; readonly path: string }
  | { readonly kind: 'agent'; readonly comment: string | undefined }
  | { readonly kind: 'file'; readonly path: string };

/** Far more than an RSA key of 16384 bits takes. */
const MAX_KEY_LINE_LENGTH = 16 * 1024;

const PLAIN_TYPE =
  /^(?:ssh-(?:rsa|dss|ed25519)|ecdsa-sha2-nistp(?:256|384|521)|sk-(?:ssh-ed25519|ecdsa-sha2-nistp256)@openssh\.com)$/;

export interface PublicKey {
  readonly type: string;
  /** Type and key as in authorized_keys, without the comment, which is nobody else's business. */
  readonly line: string;
}

/** Reads one line of a .pub file. Throws key.refused; `origin` says where the line comes from. */
export function parsePublicKey(text: string, origin: string): PublicKey {
  if (text.includes('PRIVATE KEY')) {
    throw refused(`${origin} holds a private key`, 'name the .pub file beside it');
  }
  const line = text.split(/\r?\n/).find((each) => each.trim() !== '' && !each.startsWith('#'));
  const [type = '', encoded = ''] = (line ?? '').trim().split(/\s+/);
  if (type.includes('-cert-')) {
    throw refused(`${origin} holds a certificate`, 'name the plain public key');
  }
  const blob = Buffer.from(encoded, 'base64');
  const isWhole =
    encoded.length <= MAX_KEY_LINE_LENGTH &&
    blob.toString('base64') === encoded &&
    typeInside(blob) === type;
  if (!PLAIN_TYPE.test(type) || !isWhole) {
    throw refused(
      `${origin} does not hold an OpenSSH public key`,
      'ssh-keygen -i converts other formats',
    );
  }
  return { type, line: `${type} ${encoded}` };
}

/** The key type that a key's own encoding begins with. */
export function typeInside(blob: Uint8Array): string | undefined {
  try {
    return new WireReader(blob).text();
  } catch (error) {
    if (error instanceof WireError) return undefined;
    throw error;
  }
}

/** `SHA256:…` as ssh shows it. */
export function fingerprint(blob: Uint8Array): string {
  return `SHA256:${createHash('sha256').update(blob).digest('base64').replace(/=+$/, '')}`;
}

/** Rejects key.refused for a file that cannot be read or holds no public key. */
export async function readPublicKeyFile(path: string): Promise<PublicKey> {
  const file = expandHome(path);
  try {
    return parsePublicKey(await readFile(file, 'utf8'), file);
  } catch (error) {
    if (error instanceof BridgeError) throw error;
    const message = `cannot read ${file}: ${systemReason(error)}`;
    throw refused(message, 'check the path given as --key', error);
  }
}

/** The first key in the user's agent, or the one with this comment. Rejects key.agent. */
export async function readAgentKey(
  comment: string | undefined,
  env: NodeJS.ProcessEnv,
): Promise<PublicKey> {
  // Since OpenSSH 10.5 this is the IdentityAgent of the host, for a ProxyCommand.
  const path = env['SSH_AUTH_SOCK'];
  if (path === undefined || path === '') {
    throw new BridgeError('key.agent', 'there is no ssh agent to take a key from', {
      hint: 'start one (SSH_AUTH_SOCK is not set), or choose another --key',
    });
  }
  let identities;
  try {
    identities = await listIdentities(path);
  } catch (error) {
    const why = error instanceof AgentFaultError ? `it is ${error.fault}` : 'it sent nonsense';
    throw new BridgeError('key.agent', `cannot list the keys of the ssh agent at ${path}: ${why}`, {
      cause: error,
    });
  }
  const plain = identities.filter(({ blob }) => PLAIN_TYPE.test(typeInside(blob) ?? ''));
  const matching =
    comment === undefined ? plain : plain.filter((identity) => identity.comment === comment);
  const [chosen] = matching;
  if (chosen === undefined) {
    throw new BridgeError(
      'key.agent',
      comment === undefined
        ? 'the ssh agent holds no keys'
        : `the ssh agent holds no key with the comment '${comment}'`,
      { hint: 'ssh-add -L lists its keys and their comments' },
    );
  }
  const type = typeInside(chosen.blob) ?? '';
  return { type, line: `${type} ${Buffer.from(chosen.blob).toString('base64')}` };
}

/**
 * Saves the public half of an agent's key, so that ssh_config can name it and ssh offers it before the
 * agent's others. Returns the path, which depends on the key only. Rejects key.agent.
 */
export async function saveAgentKey(
  comment: string | undefined,
  env: NodeJS.ProcessEnv,
  directory = '~/.ssh/ssm-bridge',
): Promise<string> {
  const { line } = await readAgentKey(comment, env);
  const folder = expandHome(directory);
  const blob = Buffer.from(line.split(' ')[1] ?? '', 'base64');
  const name = createHash('sha256').update(blob).digest('hex').slice(0, 16);
  const path = join(folder, `agent-${name}.pub`);
  try {
    await mkdir(folder, { recursive: true, mode: 0o700 });
    await writeFile(path, `${line}\n`, { mode: 0o600, flag: 'wx' });
  } catch (error) {
    if (systemCode(error) !== 'EEXIST') {
      throw new BridgeError(
        'key.agent',
        `cannot write ${path}: ${systemCode(error) ?? 'it failed'}`,
        {
          cause: error,
        },
      );
    }
  }
  return path;
}

/**
 * The key of a file that is made if it is missing: 0600, put in place whole, never overwritten, so that
 * parallel first logins all end up with the same one. Rejects key.failed.
 */
export async function ensureKeyFile(path: string): Promise<PublicKey> {
  const file = expandHome(path);
  try {
    await stat(file);
  } catch (error) {
    if (systemCode(error) !== 'ENOENT') throw fileFailed(file, 'cannot read', error);
    await makeKeyFile(file);
  }
  return publicHalfOf(file);
}

const execFileAsync = promisify(execFile);

async function makeKeyFile(file: string): Promise<void> {
  const folder = dirname(file);
  let scratch: string | undefined;
  try {
    await mkdir(folder, { recursive: true, mode: 0o700 });
    // In the same directory: a link does not reach into another file system. mkdtemp makes it 0700.
    scratch = await mkdtemp(join(folder, '.ssm-bridge-'));
    const fresh = join(scratch, 'key');
    await execFileAsync(
      'ssh-keygen',
      ['-q', '-t', 'ed25519', '-N', '', '-C', 'ssm-bridge', '-f', fresh],
      { timeout: 30_000 },
    );
    // The private half first: ssh offers what the public half says, and must then find the other.
    if (await linkUnlessThere(fresh, file)) await linkUnlessThere(`${fresh}.pub`, `${file}.pub`);
  } catch (error) {
    throw fileFailed(file, 'cannot make', error);
  } finally {
    if (scratch !== undefined) await rm(scratch, { recursive: true, force: true });
  }
}

async function linkUnlessThere(from: string, to: string): Promise<boolean> {
  try {
    await link(from, to);
    return true;
  } catch (error) {
    if (systemCode(error) === 'EEXIST') return false;
    throw error;
  }
}

/** From the private file itself: a .pub beside it may belong to another key. */
async function publicHalfOf(file: string): Promise<PublicKey> {
  let text: string;
  try {
    // An empty passphrase, so that an encrypted key fails instead of asking on the terminal.
    text = (await execFileAsync('ssh-keygen', ['-y', '-P', '', '-f', file], { timeout: 30_000 }))
      .stdout;
  } catch (error) {
    try {
      return await readPublicKeyFile(`${file}.pub`);
    } catch {
      throw fileFailed(file, 'cannot read the key in', error);
    }
  }
  return parsePublicKey(text, file);
}

function fileFailed(file: string, what: string, cause: unknown): BridgeError {
  return new BridgeError('key.failed', `${what} ${file}: ${systemReason(cause)}`, {
    hint: 'check the path given as --key file:PATH; keys in it must be readable by you only',
    cause,
  });
}

function refused(message: string, hint?: string, cause?: unknown): BridgeError {
  return new BridgeError('key.refused', message, {
    ...(hint === undefined ? {} : { hint }),
    cause,
  });
}
