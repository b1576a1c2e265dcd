import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { earlyRegion, resolveSettings, type Settings } from '../../src/aws/settings.ts';
import { failureOf } from './failures.ts';
import { enterSurroundings, keysInEnvironment, type Surroundings } from './surroundings.ts';

let around: Surroundings;

beforeEach(() => {
  around = enterSurroundings();
});
afterEach(() => {
  around.restore();
});

function resolve(options: { profile?: string; region?: string } = {}): Promise<Settings> {
  return resolveSettings({ ...options, env: process.env });
}

describe('region', () => {
  it('comes from the option before anything else', async () => {
    around.set({ AWS_REGION: 'us-east-1' });
    expect((await resolve({ region: 'eu-west-1' })).region).toBe('eu-west-1');
  });

  it('comes from AWS_REGION before AWS_DEFAULT_REGION', async () => {
    around.set({ AWS_REGION: 'us-east-1', AWS_DEFAULT_REGION: 'us-east-2' });
    expect((await resolve()).region).toBe('us-east-1');
    expect(earlyRegion({ env: process.env })).toBe('us-east-1');
  });

  it('comes from AWS_DEFAULT_REGION before the profile', async () => {
    around.set({ AWS_DEFAULT_REGION: 'us-east-2' });
    around.config('[default]\nregion = eu-west-1\n');
    expect((await resolve()).region).toBe('us-east-2');
  });

  it('comes from the default profile when nothing else is there', async () => {
    around.config('[default]\nregion = eu-west-1\n');
    expect((await resolve()).region).toBe('eu-west-1');
  });

  it('comes from the named profile, the credentials file first', async () => {
    around.config('[profile a]\nregion = eu-west-1\n');
    expect((await resolve({ profile: 'a' })).region).toBe('eu-west-1');
    around.credentials('[a]\nregion = eu-west-3\n');
    expect((await resolve({ profile: 'a' })).region).toBe('eu-west-3');
  });

  it('is asked for by name when it is nowhere', async () => {
    around.config('[profile a]\noutput = json\n');
    const error = await failureOf(resolve({ profile: 'a' }));
    expect(error.code).toBe('usage.config');
    expect(error.hint).toBe('give --region, set AWS_REGION, or set region in profile a');
  });

  it('is refused when it cannot be part of a host name', async () => {
    around.set({ AWS_REGION: 'evil.example/' });
    expect((await failureOf(resolve())).code).toBe('usage.config');
  });

  it('turns FIPS on when it is a FIPS pseudo-region', async () => {
    expect(await resolve({ region: 'fips-us-gov-west-1' })).toMatchObject({
      region: 'us-gov-west-1',
      useFipsEndpoint: true,
    });
  });
});

describe('profile', () => {
  it.each([
    [{ AWS_PROFILE: 'a', AWS_DEFAULT_PROFILE: 'b' }, 'a'],
    [{ AWS_DEFAULT_PROFILE: 'b' }, 'b'],
  ])('comes from %j', async (variables, expected) => {
    around.config('[profile a]\nregion = eu-west-1\n[profile b]\nregion = eu-west-2\n');
    around.set(variables);
    expect((await resolve()).profile).toBe(expected);
  });

  it('is refused by name when no file has it, rather than passed over', async () => {
    around.set({ ...keysInEnvironment, AWS_REGION: 'us-east-1' });
    const error = await failureOf(resolve({ profile: 'tyop' }));
    expect(error.code).toBe('usage.config');
    expect(error.message).toBe('AWS profile tyop is not configured');
  });
});

describe('endpoints', () => {
  const a = 'http://localhost:1';
  const b = 'http://localhost:2';
  const ssm = async (profile?: string): Promise<string | undefined> =>
    (await resolve({ region: 'us-east-1', ...(profile === undefined ? {} : { profile }) }))
      .endpoints.SSM;

  it('are none by default', async () => {
    expect(await ssm()).toBeUndefined();
  });

  it('come from the variable of the service before the common one', async () => {
    around.set({ AWS_ENDPOINT_URL: a });
    expect(await ssm()).toBe(a);
    around.set({ AWS_ENDPOINT_URL_SSM: b });
    expect(await ssm()).toBe(b);
  });

  it('come from the environment before the files', async () => {
    around.set({ AWS_ENDPOINT_URL: a });
    around.config(`[default]\nservices = s\n[services s]\nssm =\n  endpoint_url = ${b}\n`);
    expect(await ssm()).toBe(a);
  });

  it('come from the services section before the profile itself', async () => {
    around.config(
      `[profile p]\nendpoint_url = ${a}\nservices = s\n[services s]\nssm =\n  endpoint_url = ${b}\n`,
    );
    expect(await ssm('p')).toBe(b);
    const { endpoints } = await resolve({ profile: 'p', region: 'us-east-1' });
    expect(endpoints['EC2 Instance Connect']).toBe(a);
  });

  it('come from the default profile although keys and region are in the environment', async () => {
    around.set({ ...keysInEnvironment, AWS_REGION: 'us-east-1' });
    around.config(`[default]\nendpoint_url = ${a}\n`);
    expect(await ssm()).toBe(a);
  });

  it.each(['environment', 'file'])('are ignored when the %s says so', async (where) => {
    around.set({ AWS_ENDPOINT_URL_SSM: a });
    if (where === 'environment') around.set({ AWS_IGNORE_CONFIGURED_ENDPOINT_URLS: 'true' });
    else around.config('[default]\nignore_configured_endpoint_urls = true\n');
    expect(await ssm()).toBeUndefined();
  });

  it('are refused when a section that the profile names is missing', async () => {
    around.config('[default]\nservices = nowhere\n');
    expect((await failureOf(ssm())).message).toContain('[services nowhere]');
  });

  it.each(['ftp://localhost', 'localhost:1', '://'])(
    'are refused when they are %s',
    async (url) => {
      around.set({ AWS_ENDPOINT_URL_SSM: url });
      expect((await failureOf(ssm())).code).toBe('usage.config');
    },
  );

  it.each(['AWS_USE_FIPS_ENDPOINT', 'AWS_USE_DUALSTACK_ENDPOINT'])(
    'are refused together with %s',
    async (name) => {
      around.set({ AWS_ENDPOINT_URL_SSM: a, [name]: 'true' });
      expect((await failureOf(ssm())).code).toBe('usage.config');
    },
  );
});

describe('other settings', () => {
  const all = {
    useFipsEndpoint: true,
    useDualstackEndpoint: true,
    caFile: '/ca.pem',
    maxAttempts: 7,
    retryMode: 'adaptive',
    userAgentAppId: 'app',
    disableClockSkewCorrection: true,
  };

  it('have defaults', async () => {
    expect(await resolve({ region: 'us-east-1' })).toMatchObject({
      profile: undefined,
      useFipsEndpoint: false,
      useDualstackEndpoint: false,
      caFile: undefined,
      maxAttempts: 3,
      retryMode: 'standard',
      userAgentAppId: '',
      disableClockSkewCorrection: false,
    });
  });

  it('come from the environment', async () => {
    around.set({
      AWS_USE_FIPS_ENDPOINT: 'true',
      AWS_USE_DUALSTACK_ENDPOINT: 'TRUE',
      AWS_CA_BUNDLE: '/ca.pem',
      AWS_MAX_ATTEMPTS: '7',
      AWS_RETRY_MODE: 'adaptive',
      AWS_SDK_UA_APP_ID: 'app',
      AWS_DISABLE_CLOCK_SKEW_CORRECTION: 'true',
    });
    expect(await resolve({ region: 'us-east-1' })).toMatchObject(all);
  });

  it('come from the default profile although keys and region are in the environment', async () => {
    around.set({ ...keysInEnvironment, AWS_REGION: 'us-east-1' });
    around.config(
      [
        '[default]',
        'use_fips_endpoint = true',
        'use_dualstack_endpoint = true',
        'ca_bundle = /ca.pem',
        'max_attempts = 7',
        'retry_mode = adaptive',
        'sdk_ua_app_id = app',
        'disable_clock_skew_correction = true',
      ].join('\n'),
    );
    expect(await resolve()).toMatchObject(all);
  });

  it.each([
    ['AWS_USE_FIPS_ENDPOINT', 'yes'],
    ['AWS_MAX_ATTEMPTS', '0'],
    ['AWS_MAX_ATTEMPTS', 'many'],
    ['AWS_RETRY_MODE', 'never'],
  ])('are refused by name: %s=%s', async (name, value) => {
    around.set({ [name]: value });
    const error = await failureOf(resolve({ region: 'us-east-1' }));
    expect(error.code).toBe('usage.config');
    expect(error.message).toContain(name);
  });
});
