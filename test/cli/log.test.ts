import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { openLog } from '../../src/cli/log.ts';
import { redact } from '../../src/cli/redact.ts';
import { BridgeError } from '../../src/errors.ts';

// Each of these is searched for in the whole log, so none may be a substring of anything harmless.
const secret = 's3cr3tT0k3n';
const pem = `-----BEGIN OPENSSH PRIVATE KEY-----\n${secret}\n-----END OPENSSH PRIVATE KEY-----`;

/** Everything a careless caller could pass, each holding the secret. */
const careless: Readonly<Record<string, unknown>> = {
  token: secret,
  tokenValue: secret,
  TokenValue: secret,
  sessionToken: secret,
  streamUrl: `wss://host/v1/data-channel/x?role=${secret}`,
  StreamUrl: `wss://host/x/${secret}`,
  headers: { authorization: secret },
  requestHeaders: { 'x-amz-security-token': secret },
  Authorization: `AWS4-HMAC-SHA256 Credential=x, Signature=${secret}`,
  key: secret,
  privateKey: secret,
  credentials: { accessKeyId: 'x', secretAccessKey: secret },
  password: secret,
  passphrase: secret,
  cookie: secret,
  signature: secret,
  payload: secret,
  data: secret,
  body: `{"TokenValue":"${secret}"}`,
  nested: { deeper: { token: secret, list: [{ secretAccessKey: secret }] } },
  bytes: Buffer.from(secret),
  view: new Uint8Array(Buffer.from(secret)),
  url: new URL(`https://host/path?X-Amz-Signature=${secret}`),
  link: `see wss://host/v1/x?X-Amz-Security-Token=${secret}&a=b now`,
  proxy: `no tunnel through http://user:${secret}@proxy:3128`,
  text: `Authorization: AWS4-HMAC-SHA256 Credential=a/b, SignedHeaders=c, Signature=${secret}`,
  json: `{"SessionId":"x","TokenValue":"${secret}","StreamUrl":"wss://h/p?q=${secret}"}`,
  pem,
  map: new Map([['token', secret]]),
  err: new Error(`GET wss://host/x?token=${secret} failed`, { cause: { token: secret } }),
  bridge: new BridgeError('network.tls', 'x', { cause: new Error(`https://h/?s=${secret}`) }),
};

describe('the log', () => {
  let directory: string;
  let file: string;
  beforeEach(() => {
    directory = mkdtempSync(path.join(tmpdir(), 'log-'));
    file = path.join(directory, 'log');
  });
  afterEach(() => {
    rmSync(directory, { recursive: true });
  });

  test('holds no secret at any level, whatever is passed', () => {
    const log = openLog({ logLevel: 'trace', logFile: file }, { target: 'i-0' });
    for (const [name, value] of Object.entries(careless)) {
      log.trace({ [name]: value }, `field ${name}`);
      log.debug({ wrapped: { [name]: value } }, `wrapped ${name}`);
      // As the text of a message only what has the shape of a secret can be told from other text.
      if (typeof value === 'string' && /[?=:-]/.test(value) && name !== 'StreamUrl') {
        log.info({}, value);
      }
    }
    log.warn({ ...careless }, 'all');
    const text = readFileSync(file, 'utf8');
    expect(text.split('\n').length).toBeGreaterThan(Object.keys(careless).length * 2);
    expect(text).not.toContain(secret);
    expect(text).not.toContain(Buffer.from(secret).toString('hex'));
    expect(text).not.toContain(Buffer.from(secret).toString('base64').slice(0, 12));
    expect(text).not.toContain([...Buffer.from(secret)].slice(0, 5).join(','));
  });

  test('holds no control character that a terminal obeys', () => {
    const log = openLog({ logLevel: 'info', logFile: file }, {});
    log.info({ agentVersion: '\x1b[2J\x9b2J\x7f' }, 'open');
    const text = readFileSync(file, 'utf8');
    expect(text.trimEnd()).not.toMatch(/\p{Cc}/u);
    expect(JSON.parse(text)).toMatchObject({ agentVersion: '\x1b[2J\x9b2J\x7f' });
  });

  test('keeps what is harmless', () => {
    const log = openLog({ logLevel: 'trace', logFile: file }, { target: 'i-0' });
    log.debug({ seq: 7, kind: 'output', payloadBytes: 1024, payload: 1024, from: 'open' }, 'sent');
    const line: unknown = JSON.parse(readFileSync(file, 'utf8'));
    expect(line).toMatchObject({
      level: 'debug',
      target: 'i-0',
      seq: 7,
      kind: 'output',
      payloadBytes: 1024,
      payload: 1024,
      from: 'open',
      msg: 'sent',
    });
  });

  test('leaves out what is below its level', () => {
    const log = openLog({ logLevel: 'info', logFile: file }, {});
    log.trace({}, 'no');
    log.debug({}, 'no');
    log.info({}, 'yes');
    log.warn({}, 'yes');
    expect(readFileSync(file, 'utf8').trim().split('\n')).toHaveLength(2);
  });

  test('is readable by the owner alone, and appended to', () => {
    openLog({ logLevel: 'info', logFile: file }, {}).info({}, 'one');
    openLog({ logLevel: 'info', logFile: file }, {}).info({}, 'two');
    expect(statSync(file).mode & 0o777).toBe(0o600);
    expect(readFileSync(file, 'utf8')).toMatch(/one[\s\S]*two/);
  });

  test('that cannot be opened is a usage error', () => {
    writeFileSync(file, '');
    const open = (): unknown => openLog({ logLevel: 'info', logFile: path.join(file, 'x') }, {});
    expect(open).toThrow(expect.objectContaining({ code: 'usage.config' }));
  });

  test('survives values that JSON cannot hold', () => {
    const log = openLog({ logLevel: 'trace', logFile: file }, {});
    const loop: Record<string, unknown> = {};
    loop['loop'] = loop;
    log.info({ loop, big: 1n, fn: () => 1, symbol: Symbol('x'), none: undefined, nan: NaN }, 'odd');
    expect(readFileSync(file, 'utf8')).toContain('"msg":"odd"');
  });
});

test('bytes are logged as their length', () => {
  expect(redact({ frame: new Uint8Array(120) })).toEqual({ frame: '[120 bytes]' });
});
