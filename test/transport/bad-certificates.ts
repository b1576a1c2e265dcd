import { execFile } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';

const run = promisify(execFile);

/** A key and a self-signed certificate for localhost that expired in 2020; trusting it is up to the test. */
export async function expiredCertificate(): Promise<{ key: string; cert: string }> {
  const directory = await mkdtemp(join(tmpdir(), 'ssm-expired-'));
  const file = (name: string): string => join(directory, name);
  const configuration = `[req]
distinguished_name = name
prompt = no
[name]
CN = localhost
[ca]
default_ca = own
[own]
dir = ${directory}
database = ${file('index')}
new_certs_dir = ${directory}
serial = ${file('serial')}
default_md = sha256
policy = any
x509_extensions = extensions
[any]
commonName = supplied
[extensions]
subjectAltName = DNS:localhost, IP:127.0.0.1
`;
  const openssl = (...args: string[]): Promise<unknown> =>
    run('openssl', args, { env: { PATH: process.env['PATH'], OPENSSL_CONF: file('conf') } });
  try {
    await writeFile(file('conf'), configuration);
    await writeFile(file('index'), '');
    await writeFile(file('serial'), '01');
    await openssl(
      ...['req', '-new', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes'],
      ...['-keyout', file('key'), '-out', file('csr')],
    );
    await openssl(
      ...['ca', '-batch', '-selfsign', '-notext', '-keyfile', file('key'), '-in', file('csr')],
      ...['-startdate', '20200101000000Z', '-enddate', '20200102000000Z', '-out', file('cert')],
    );
    const [key, cert] = await Promise.all(['key', 'cert'].map((n) => readFile(file(n), 'utf8')));
    return { key: key!, cert: cert! };
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}
