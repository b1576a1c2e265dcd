import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** Every variable that the SDK or this program looks at; none may leak in from the machine. */
const awsVariables = /^(?:AWS_|NODE_EXTRA_CA_CERTS$|SSL_CERT_|HTTPS?_PROXY$|NO_PROXY$|ALL_PROXY$)/i;

export interface Surroundings {
  /** A fresh, empty home directory. */
  readonly home: string;
  /** Writes the shared config file. */
  config(text: string): void;
  /** Writes the shared credentials file. */
  credentials(text: string): void;
  /** Writes another file and gives its path. */
  file(name: string, text: string): string;
  set(variables: Readonly<Record<string, string>>): void;
  restore(): void;
}

/**
 * Puts `process.env` into a known state, because the SDK's chain reads nothing else: a temporary home, the
 * instance metadata service off, nothing of AWS set.
 */
export function enterSurroundings(): Surroundings {
  const before = { ...process.env };
  const home = mkdtempSync(join(tmpdir(), 'ssm-bridge-aws-'));
  for (const name of Object.keys(process.env)) {
    if (awsVariables.test(name)) Reflect.deleteProperty(process.env, name);
  }
  const file = (name: string, text: string): string => {
    const path = join(home, name);
    writeFileSync(path, text);
    return path;
  };
  Object.assign(process.env, {
    HOME: home,
    AWS_CONFIG_FILE: join(home, 'config'),
    AWS_SHARED_CREDENTIALS_FILE: join(home, 'credentials'),
    AWS_EC2_METADATA_DISABLED: 'true',
  });
  return {
    home,
    config: (text) => void file('config', text),
    credentials: (text) => void file('credentials', text),
    file,
    set: (variables) => void Object.assign(process.env, variables),
    restore: () => {
      for (const name of Object.keys(process.env)) Reflect.deleteProperty(process.env, name);
      Object.assign(process.env, before);
      rmSync(home, { recursive: true, force: true });
    },
  };
}

export const keysInEnvironment = {
  AWS_ACCESS_KEY_ID: 'AKIDEXAMPLE',
  AWS_SECRET_ACCESS_KEY: 'wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY',
  AWS_SESSION_TOKEN: 'session-token-of-the-test',
} as const;
