import { createHash } from 'node:crypto';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { silentLogger } from '../../src/logger.ts';
import { CredentialStore, type Credentials } from '../../src/aws/credentials.ts';
import { type Aws, openAws } from '../../src/aws/context.ts';
import { apiError, type ApiRequest, type ApiServer, startApiServer } from './api-server.ts';
import { failureOf, secrets, shown } from './failures.ts';
import { enterSurroundings, keysInEnvironment, type Surroundings } from './surroundings.ts';

const answerOk = { body: { SessionId: 's-1', TokenValue: 'token-1' } };

let around: Surroundings;
let api: ApiServer;

beforeEach(async () => {
  around = enterSurroundings();
  api = await startApiServer(() => answerOk);
  around.set({ AWS_REGION: 'eu-central-1', AWS_ENDPOINT_URL: api.url, AWS_MAX_ATTEMPTS: '1' });
});
afterEach(async () => {
  await api.close();
  around.restore();
});

function open(profile?: string): Promise<Aws> {
  return openAws({ profile, env: process.env, logger: silentLogger });
}

/** ResumeSession stands for every call: it is the one made with credentials that have aged. */
async function call(profile?: string): Promise<unknown> {
  const { controlPlane } = await open(profile);
  return await controlPlane.resumeSession('s-1', new AbortController().signal);
}

const keyOf = ({ headers }: ApiRequest): string | undefined =>
  /Credential=([^/]+)/.exec(headers.authorization ?? '')?.[1];
const keysSeen = (): (string | undefined)[] => api.requests.map(keyOf);

const staticKeys = (section: string, id: string): string =>
  `[${section}]\naws_access_key_id = ${id}\naws_secret_access_key = wJalrXUtnFEMI\n`;

describe('the credential chain', () => {
  it('takes keys from the environment', async () => {
    around.set(keysInEnvironment);
    await call();
    expect(keysSeen()).toEqual(['AKIDEXAMPLE']);
  });

  it('takes keys from the default profile', async () => {
    around.credentials(staticKeys('default', 'AKIDDEFAULT'));
    await call();
    expect(keysSeen()).toEqual(['AKIDDEFAULT']);
  });

  it('prefers a profile that is named to keys in the environment', async () => {
    around.set(keysInEnvironment);
    around.credentials(staticKeys('work', 'AKIDWORK'));
    await call('work');
    around.set({ AWS_PROFILE: 'work' });
    await call();
    expect(keysSeen()).toEqual(['AKIDWORK', 'AKIDWORK']);
  });

  it('takes AWS_DEFAULT_PROFILE for the profile', async () => {
    around.set({ AWS_DEFAULT_PROFILE: 'work' });
    around.credentials(staticKeys('work', 'AKIDWORK'));
    await call();
    expect(keysSeen()).toEqual(['AKIDWORK']);
  });

  it('runs a credential process', async () => {
    const answer = { Version: 1, AccessKeyId: 'AKIDPROC', SecretAccessKey: 'wJalrXUtnFEMI' };
    const file = around.file('keys.json', JSON.stringify(answer));
    around.config(`[profile proc]\ncredential_process = cat ${file}\n`);
    await call('proc');
    expect(keysSeen()).toEqual(['AKIDPROC']);
  });

  it('assumes a role with the keys of another profile', async () => {
    around.credentials(staticKeys('base', 'AKIDBASE'));
    around.config(
      '[profile role]\nrole_arn = arn:aws:iam::123456789012:role/r\nsource_profile = base\n',
    );
    api.answer = ({ operation }) =>
      operation === '' ? { headers: { 'content-type': 'text/xml' }, body: assumed } : answerOk;
    await call('role');
    expect(keysSeen()).toEqual(['AKIDBASE', 'AKIDROLE']);
  });

  it('uses a login to Identity Center', async () => {
    around.config(ssoProfile);
    const cache = join(around.home, '.aws', 'sso', 'cache');
    mkdirSync(cache, { recursive: true });
    writeFileSync(
      join(cache, `${createHash('sha1').update('corp').digest('hex')}.json`),
      JSON.stringify({ accessToken: 'sso-access', expiresAt: '2099-01-01T00:00:00Z' }),
    );
    const roleCredentials = {
      accessKeyId: 'AKIDSSO',
      secretAccessKey: 'wJalrXUtnFEMI',
      sessionToken: 'session-token-of-the-test',
      expiration: Date.parse('2099-01-01T00:00:00Z'),
    };
    api.answer = ({ operation }) => (operation === '' ? { body: { roleCredentials } } : answerOk);
    await call('sso');
    expect(keysSeen()).toEqual([undefined, 'AKIDSSO']);
  });

  it('uses a web identity token', async () => {
    around.set({
      AWS_ROLE_ARN: 'arn:aws:iam::123456789012:role/r',
      AWS_WEB_IDENTITY_TOKEN_FILE: around.file('token', 'jwt'),
    });
    api.answer = ({ operation }) =>
      operation === ''
        ? {
            headers: { 'content-type': 'text/xml' },
            body: assumed.replaceAll('AssumeRoleRe', 'AssumeRoleWithWebIdentityRe'),
          }
        : answerOk;
    await call();
    expect(keysSeen()).toEqual([undefined, 'AKIDROLE']);
  });

  it('asks the endpoint of a container', async () => {
    around.set({ AWS_CONTAINER_CREDENTIALS_FULL_URI: `http://127.0.0.1:${api.port}/keys` });
    const keys = { AccessKeyId: 'AKIDBOX', SecretAccessKey: 'wJalrXUtnFEMI', Token: 't' };
    const body = { ...keys, Expiration: '2099-01-01T00:00:00Z' };
    api.answer = ({ operation }) => (operation === '' ? { body } : answerOk);
    await call();
    expect(keysSeen()).toEqual([undefined, 'AKIDBOX']);
  });
});

const ssoProfile = [
  '[profile sso]',
  'sso_session = corp',
  'sso_account_id = 123456789012',
  'sso_role_name = admin',
  '[sso-session corp]',
  'sso_region = eu-central-1',
  'sso_start_url = https://corp.awsapps.example/start',
].join('\n');

const assumed = `<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult>
  <AssumedRoleUser><Arn>arn:aws:sts::123456789012:assumed-role/r/s</Arn><AssumedRoleId>i:s</AssumedRoleId></AssumedRoleUser>
  <Credentials><AccessKeyId>AKIDROLE</AccessKeyId><SecretAccessKey>wJalrXUtnFEMI</SecretAccessKey>
  <SessionToken>session-token-of-the-test</SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration></Credentials>
</AssumeRoleResult></AssumeRoleResponse>`;

describe('failures of the chain', () => {
  it('says that there are no credentials, and what to set', async () => {
    const error = await failureOf(call());
    expect(error.code).toBe('credentials.missing');
    expect(error.hint).toContain('AWS_PROFILE');
    expect(api.requests).toHaveLength(0);
  });

  it('asks for a login when Identity Center has no valid token', async () => {
    around.config(ssoProfile);
    const error = await failureOf(call('sso'));
    expect(error.code).toBe('credentials.expired');
    expect(error.message).toBe(
      'IAM Identity Center gives no credentials for profile sso: The SSO session token associated with profile=sso was not found or is invalid',
    );
    expect(error.hint).toBe('log in with: aws sso login --profile sso');
  });

  it('asks for a login when a role is assumed from Identity Center', async () => {
    around.config(
      [
        '[profile role]',
        'role_arn = arn:aws:iam::123456789012:role/r',
        'source_profile = sso',
        '[profile sso]',
        'sso_start_url = https://corp.awsapps.example/start',
        'sso_region = eu-central-1',
        'sso_account_id = 123456789012',
        'sso_role_name = admin',
      ].join('\n'),
    );
    const error = await failureOf(call('role'));
    expect(error.code).toBe('credentials.expired');
    expect(error.hint).toContain('aws sso login --profile role');
  });

  it('explains that an MFA code cannot be asked for', async () => {
    around.credentials(staticKeys('base', 'AKIDBASE'));
    around.config(
      [
        '[profile mfa]',
        'role_arn = arn:aws:iam::123456789012:role/r',
        'source_profile = base',
        'mfa_serial = arn:aws:iam::123456789012:mfa/me',
      ].join('\n'),
    );
    const error = await failureOf(call('mfa'));
    expect(error.code).toBe('credentials.failed');
    expect(error.message).toContain('MFA');
  });

  it('names a credential process that fails without repeating what it said', async () => {
    around.config('[profile proc]\ncredential_process = sh -c "echo wJalrXUtnFEMI >&2; exit 3"\n');
    const error = await failureOf(call('proc'));
    expect(error.code).toBe('credentials.failed');
    expect(error.message).toBe('the credential_process of profile proc failed');
    expect(shown(error)).not.toMatch(secrets);
    expect(error.cause).toBeUndefined();
  });

  it('names the role that may not be assumed', async () => {
    around.credentials(staticKeys('base', 'AKIDBASE'));
    around.config(
      '[profile role]\nrole_arn = arn:aws:iam::123456789012:role/r\nsource_profile = base\n',
    );
    api.answer = () => ({
      status: 403,
      headers: { 'content-type': 'text/xml' },
      body: '<ErrorResponse><Error><Type>Sender</Type><Code>AccessDenied</Code><Message>no</Message></Error></ErrorResponse>',
    });
    const error = await failureOf(call('role'));
    expect(error.code).toBe('access.denied');
    expect(error.message).toBe('sts:AssumeRole on arn:aws:iam::123456789012:role/r was denied: no');
  });

  it('names a token service that cannot be reached', async () => {
    around.credentials(staticKeys('base', 'AKIDBASE'));
    around.config(
      '[profile role]\nrole_arn = arn:aws:iam::123456789012:role/r\nsource_profile = base\n',
    );
    api.answer = () => 'reset';
    expect((await failureOf(call('role'))).code).toBe('network.unreachable');
  });

  it('does not wait for a chain that hangs', async () => {
    around.config('[profile proc]\ncredential_process = sleep 60\n');
    const { controlPlane } = await open('proc');
    const error = await failureOf(controlPlane.resumeSession('s-1', AbortSignal.abort()));
    expect(error.code).toBe('network.timeout');
  });
});

describe('credentials of a long session', () => {
  it('are read again for a resume when they do not say when they end', async () => {
    around.credentials(staticKeys('default', 'AKIDONE'));
    const { controlPlane } = await open();
    const { signal } = new AbortController();
    await controlPlane.resumeSession('s-1', signal);
    around.credentials(staticKeys('default', 'AKIDTWO'));
    await controlPlane.resumeSession('s-1', signal);
    const headers = await controlPlane.signUpgrade('wss://localhost/x', signal);
    expect(keysSeen()).toEqual(['AKIDONE', 'AKIDTWO']);
    expect(headers['authorization']).toContain('Credential=AKIDTWO/');
  });

  it('are resolved anew, once, when the service calls them expired', async () => {
    around.credentials(staticKeys('default', 'AKIDONE'));
    api.answer = (request) => {
      around.credentials(staticKeys('default', 'AKIDTWO'));
      return keyOf(request) === 'AKIDONE' ? apiError('ExpiredTokenException') : answerOk;
    };
    await call();
    expect(keysSeen()).toEqual(['AKIDONE', 'AKIDTWO']);
  });

  it('are called expired when new ones are no better', async () => {
    around.credentials(staticKeys('default', 'AKIDONE'));
    api.answer = () => apiError('ExpiredTokenException');
    expect((await failureOf(call())).code).toBe('credentials.expired');
    expect(keysSeen()).toEqual(['AKIDONE', 'AKIDONE']);
  });

  it('are not asked for twice when they come from the environment', async () => {
    around.set(keysInEnvironment);
    api.answer = () => apiError('ExpiredTokenException');
    expect((await failureOf(call())).code).toBe('credentials.expired');
    expect(keysSeen()).toEqual(['AKIDEXAMPLE']);
  });
});

describe('CredentialStore', () => {
  const keys = (accessKeyId: string, lifeMs?: number): Credentials => ({
    accessKeyId,
    secretAccessKey: 'x',
    ...(lifeMs === undefined ? {} : { expiration: new Date(Date.now() + lifeMs) }),
  });
  const hour = 3_600_000;

  function store(...answers: (Credentials | Error)[]): CredentialStore {
    const load = (): Promise<Credentials> => {
      const next = answers.shift();
      if (next === undefined) return Promise.reject(new Error('asked once too often'));
      return next instanceof Error ? Promise.reject(next) : Promise.resolve(next);
    };
    return new CredentialStore(load, true, silentLogger);
  }

  it('resolves once for concurrent callers', async () => {
    const one = store(keys('A'));
    const got = await Promise.all([one.resolve(), one.resolve()]);
    expect(got.map(({ accessKeyId }) => accessKeyId)).toEqual(['A', 'A']);
  });

  it('keeps credentials that are good for long', async () => {
    const one = store(keys('A', hour));
    await one.resolve();
    one.freshen();
    expect((await one.resolve()).accessKeyId).toBe('A');
  });

  it('renews credentials that are about to end', async () => {
    const one = store(keys('A', 60_000), keys('B', hour));
    await one.resolve();
    expect((await one.resolve()).accessKeyId).toBe('B');
  });

  it('goes on with credentials that still hold when renewing fails', async () => {
    const one = store(keys('A', 60_000), new Error('no network'), keys('B', hour));
    await one.resolve();
    expect((await one.resolve()).accessKeyId).toBe('A');
    expect((await one.resolve()).accessKeyId).toBe('B');
  });

  it('fails when renewing fails and nothing holds', async () => {
    const one = store(keys('A', -1), new Error('no network'));
    await one.resolve();
    await expect(one.resolve()).rejects.toThrow('no network');
  });

  it('tries again after a failure', async () => {
    const one = store(new Error('no network'), keys('A'));
    await expect(one.resolve()).rejects.toThrow('no network');
    expect((await one.resolve()).accessKeyId).toBe('A');
  });
});
