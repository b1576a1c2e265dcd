import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { silentLogger } from '../../src/logger.ts';
import { type Aws, type AwsOptions, openAws } from '../../src/aws/context.ts';
import { type ApiServer, startApiServer } from './api-server.ts';
import { enterSurroundings, keysInEnvironment, type Surroundings } from './surroundings.ts';

const node = 'i-0123456789abcdef0';
const streamUrl = 'wss://localhost:9/v1/data-channel/s-1?role=publish_subscribe';
const grant = { SessionId: 's-1', TokenValue: 'token-1', StreamUrl: streamUrl };
const request = {
  target: node,
  documentName: 'AWS-StartSSHSession',
  parameters: { portNumber: ['22'] },
  reason: 'ssm-bridge test',
};

let around: Surroundings;
let api: ApiServer;

beforeEach(async () => {
  around = enterSurroundings();
  api = await startApiServer(() => ({ body: grant }));
  around.set({ ...keysInEnvironment, AWS_REGION: 'eu-central-1', AWS_ENDPOINT_URL_SSM: api.url });
});
afterEach(async () => {
  await api.close();
  around.restore();
});

function open(options: Partial<AwsOptions> = {}): Promise<Aws> {
  return openAws({ env: process.env, logger: silentLogger, ...options });
}

function forever(): AbortSignal {
  return new AbortController().signal;
}

describe('StartSession', () => {
  it('sends target, document, parameters and reason, and gives the grant', async () => {
    const aws = await open();
    const got = await aws.controlPlane.startSession(request, forever());
    expect(got).toEqual({ sessionId: 's-1', tokenValue: 'token-1', streamUrl });
    expect(api.requests.map(({ operation }) => operation)).toEqual(['AmazonSSM.StartSession']);
    expect(JSON.parse(api.requests[0]!.body)).toEqual({
      Target: node,
      DocumentName: 'AWS-StartSSHSession',
      Parameters: { portNumber: ['22'] },
      Reason: 'ssm-bridge test',
    });
    expect(api.requests[0]!.headers.authorization).toMatch(
      /^AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE\/\d{8}\/eu-central-1\/ssm\/aws4_request, /,
    );
  });
});
