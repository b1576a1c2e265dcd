import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { silentLogger } from '../../src/logger.ts';
import { type Aws, openAws } from '../../src/aws/context.ts';
import { type Certificates, certificates } from '../emulator/certs.ts';
import { type ApiServer, startApiServer } from './api-server.ts';
import { failureOf } from './failures.ts';
import { enterSurroundings, keysInEnvironment, type Surroundings } from './surroundings.ts';

let around: Surroundings;
let api: ApiServer;
let certs: Certificates;

beforeEach(async () => {
  certs = await certificates();
  around = enterSurroundings();
  api = await startApiServer(() => ({ body: { TokenValue: 't' } }), certs);
  around.set({
    ...keysInEnvironment,
    AWS_REGION: 'eu-central-1',
    AWS_ENDPOINT_URL_SSM: api.url,
    AWS_MAX_ATTEMPTS: '1',
  });
});
afterEach(async () => {
  await api.close();
  around.restore();
});

function open(): Promise<Aws> {
  return openAws({ env: process.env, logger: silentLogger });
}

async function call(): Promise<unknown> {
  const { controlPlane } = await open();
  return await controlPlane.resumeSession('s-1', new AbortController().signal);
}

describe('a CA bundle', () => {
  it('from AWS_CA_BUNDLE is trusted by the API and given to the WebSocket', async () => {
    around.set({ AWS_CA_BUNDLE: around.file('ca.pem', `# ours\n${certs.ca}`) });
    expect(await call()).toEqual({ tokenValue: 't', streamUrl: undefined });
    const { ca } = await open();
    expect(ca).toHaveLength(1);
    expect(certs.ca).toContain(ca![0]);
  });

  it('from ca_bundle is trusted', async () => {
    around.config(`[default]\nca_bundle = ${around.file('ca.pem', certs.ca)}\n`);
    expect(await call()).toBeDefined();
  });

  it('gives all its certificates', async () => {
    around.set({ AWS_CA_BUNDLE: around.file('ca.pem', `${certs.ca}\n${certs.cert}`) });
    expect((await open()).ca).toHaveLength(2);
  });

  it('that does not cover the host is named in the failure', async () => {
    const other = around.file('other.pem', certs.cert);
    around.set({ AWS_CA_BUNDLE: other });
    const error = await failureOf(call());
    expect(error.code).toBe('network.tls');
    expect(error.hint).toContain(other);
  });

  it('is suggested when the default roots do not cover the host', async () => {
    const error = await failureOf(call());
    expect(error.code).toBe('network.tls');
    expect(error.hint).toContain('AWS_CA_BUNDLE');
  });

  it.each([
    [
      'is missing',
      '/nonexistent/ca.pem',
      'cannot read the CA bundle /nonexistent/ca.pem: no such file or directory (ENOENT)',
    ],
    [
      'is a directory',
      '/',
      'cannot read the CA bundle /: illegal operation on a directory (EISDIR)',
    ],
  ])('that %s is named', async (_what, path, message) => {
    around.set({ AWS_CA_BUNDLE: path });
    const error = await failureOf(open());
    expect(error.code).toBe('usage.config');
    expect(error.message).toBe(message);
  });

  it('without certificates is named', async () => {
    const path = around.file('empty.pem', 'nothing here\n');
    around.set({ AWS_CA_BUNDLE: path });
    expect((await failureOf(open())).message).toBe(`the CA bundle ${path} has no PEM certificates`);
  });
});
