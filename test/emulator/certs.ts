import { execFile } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';

export interface Certificates {
  readonly ca: string;
  readonly key: string;
  readonly cert: string;
}

const run = promisify(execFile);

let made: Promise<Certificates> | undefined;

/** A CA and a leaf for localhost, 127.0.0.1 and ::1; made once per process. */
export function certificates(): Promise<Certificates> {
  made ??= make();
  return made;
}

async function make(): Promise<Certificates> {
  const directory = await mkdtemp(join(tmpdir(), 'ssm-emulator-ca-'));
  const file = (name: string): string => join(directory, name);
  // An explicit configuration: the system's may be absent, or add extensions of its own.
  const configuration = `[req]
distinguished_name = name
prompt = no
[name]
CN = ssm-bridge emulator
[ca]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[leaf]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectAltName = DNS:localhost, IP:127.0.0.1, IP:::1
authorityKeyIdentifier = keyid
`;
  const openssl = (...args: string[]): Promise<unknown> =>
    run('openssl', args, { env: { PATH: process.env['PATH'], OPENSSL_CONF: file('conf') } });
  const newKey = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes'];
  try {
    await writeFile(file('conf'), configuration);
    await openssl(
      ...['req', '-x509', ...newKey, '-days', '30', '-config', file('conf'), '-extensions', 'ca'],
      ...['-keyout', file('ca.key'), '-out', file('ca.pem'), '-subj', '/CN=ssm-bridge emulator CA'],
    );
    await openssl(
      ...['req', '-new', ...newKey, '-config', file('conf'), '-subj', '/CN=localhost'],
      ...['-keyout', file('leaf.key'), '-out', file('leaf.csr')],
    );
    await openssl(
      ...['x509', '-req', '-in', file('leaf.csr'), '-CA', file('ca.pem'), '-CAkey', file('ca.key')],
      ...['-set_serial', '2', '-days', '30', '-extfile', file('conf'), '-extensions', 'leaf'],
      ...['-out', file('leaf.pem')],
    );
    const [ca, key, cert] = await Promise.all(
      ['ca.pem', 'leaf.key', 'leaf.pem'].map((name) => readFile(file(name), 'utf8')),
    );
    return { ca: ca!, key: key!, cert: cert! };
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}
