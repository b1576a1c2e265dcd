import { createServer, type AddressInfo } from 'node:net';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { BridgeError } from '../../src/errors.ts';
import { silentLogger } from '../../src/logger.ts';
import { type Aws, type AwsOptions, openAws } from '../../src/aws/context.ts';
import { apiError, type ApiServer, startApiServer } from './api-server.ts';
import { failureOf, printed, secrets, shown } from './failures.ts';
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

async function start(): Promise<unknown> {
  const { controlPlane } = await open();
  return await controlPlane.startSession(request, forever());
}

describe('StartSession', () => {
  it('sends target, document, parameters and reason, and gives the grant', async () => {
    expect(await start()).toEqual({ sessionId: 's-1', tokenValue: 'token-1', streamUrl });
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
    expect(api.requests[0]!.headers['x-amz-security-token']).toBe('session-token-of-the-test');
  });

  it('leaves the reason out when there is none', async () => {
    const { controlPlane } = await open();
    await controlPlane.startSession({ ...request, reason: undefined }, forever());
    expect(JSON.parse(api.requests[0]!.body)).not.toHaveProperty('Reason');
  });

  it.each([
    ['SessionId', { ...grant, SessionId: undefined }],
    ['TokenValue', { ...grant, TokenValue: '' }],
    ['StreamUrl', { ...grant, StreamUrl: undefined }],
  ])('refuses an answer without %s', async (_name, body) => {
    api.answer = () => ({ body });
    expect((await failureOf(start())).code).toBe('protocol.malformed');
  });

  it('refuses a stream URL in the clear to another host', async () => {
    api.answer = () => ({ body: { ...grant, StreamUrl: 'ws://gateway.example/v1' } });
    const error = await failureOf(start());
    expect(error.code).toBe('protocol.malformed');
    expect(shown(error)).not.toMatch(secrets);
  });

  it.each([
    ['TargetNotConnected', 400, 'target.not-connected'],
    ['AccessDeniedException', 400, 'access.denied'],
    ['ExpiredTokenException', 400, 'credentials.expired'],
    ['UnrecognizedClientException', 400, 'credentials.failed'],
    ['InvalidSignatureException', 400, 'credentials.failed'],
    ['InvalidDocument', 400, 'target.unsuitable'],
    ['ValidationException', 400, 'api.failed'],
    ['NeverHeardOfException', 400, 'api.failed'],
  ])('names %s', async (name, status, code) => {
    api.answer = () => apiError(name, status);
    const error = await failureOf(start());
    expect(error.code).toBe(code);
    expect(shown(error)).not.toMatch(secrets);
    expect(printed(error)).not.toMatch(/\n/);
  });

  it('says which node is not connected in which region, and how to check', async () => {
    api.answer = () => apiError('TargetNotConnected');
    const error = await failureOf(start());
    expect(error.message).toBe(`${node} is not connected to Session Manager in eu-central-1`);
    expect(error.hint).toContain(
      `aws ssm describe-instance-information --filters Key=InstanceIds,Values=${node} --region eu-central-1`,
    );
  });

  it('names the denied action and the resources a policy must allow', async () => {
    const words = 'User: arn:aws:iam::1:user/me is not authorized to perform: ssm:StartSession';
    api.answer = () => apiError('AccessDeniedException', 400, words);
    const error = await failureOf(start());
    expect(error.message).toBe(`ssm:StartSession on ${node} was denied: ${words}`);
    expect(error.hint).toContain('ssm:StartSession');
    expect(error.hint).toContain('AWS-StartSSHSession');
  });

  it('keeps control characters of a service out of the terminal', async () => {
    api.answer = () => apiError('AccessDeniedException', 400, 'a\u001b[31m\nred\u009b1m\u202eb');
    const { message } = await failureOf(start());
    expect(message).toBe(`ssm:StartSession on ${node} was denied: a [31m red 1m b`);
  });

  it('tries again when throttled, and succeeds', async () => {
    let calls = 0;
    api.answer = () => (++calls < 3 ? apiError('ThrottlingException') : { body: grant });
    await start();
    expect(calls).toBe(3);
  });

  it('gives up after AWS_MAX_ATTEMPTS and says that it was throttled', async () => {
    around.set({ AWS_MAX_ATTEMPTS: '1' });
    api.answer = () => apiError('ThrottlingException');
    expect((await failureOf(start())).code).toBe('api.throttled');
    expect(api.requests).toHaveLength(1);
  });

  it('names a failing service with status and request id', async () => {
    around.set({ AWS_MAX_ATTEMPTS: '1' });
    api.answer = () => apiError('InternalServerError', 500);
    const error = await failureOf(start());
    expect(error.code).toBe('api.failed');
    expect(error.message).toContain('HTTP 500');
    expect(error.message).toContain('00000000-0000-4000-8000-000000000001');
  });

  it('takes a web page for what stands in between', async () => {
    api.answer = () => ({
      status: 200,
      headers: { 'content-type': 'text/html' },
      body: '<html><body>Log in to the hotel network</body></html>',
    });
    const error = await failureOf(start());
    expect(error.code).toBe('network.refused');
    expect(error.message).not.toContain('hotel');
  });

  it('does not repeat what it could not read of an answer', async () => {
    api.answer = () => ({ body: '{"SessionId":"s-1","TokenValue":"token-1' });
    const error = await failureOf(start());
    expect(error.code).toBe('network.refused');
    expect(shown(error)).not.toMatch(secrets);
  });

  it('takes a web page with an error status for what stands in between', async () => {
    api.answer = () => ({
      status: 403,
      headers: { 'content-type': 'text/html' },
      body: '<html><body>Blocked by policy</body></html>',
    });
    expect((await failureOf(start())).code).toBe('network.refused');
  });

  it('names a refused connection', async () => {
    await api.close();
    around.set({ AWS_MAX_ATTEMPTS: '1' });
    const error = await failureOf(start());
    expect(error.code).toBe('network.unreachable');
    expect(error.message).toContain(`localhost:${api.port}`);
    expect(error.message).toContain('ECONNREFUSED');
  });

  it('names a connection that is reset', async () => {
    around.set({ AWS_MAX_ATTEMPTS: '1' });
    api.answer = () => 'reset';
    expect((await failureOf(start())).code).toBe('network.unreachable');
  });

  it('ends with the reason of its signal', async () => {
    const giveUp = new AbortController();
    api.answer = () => {
      giveUp.abort(new BridgeError('session.lost', 'given up'));
      return 'hang';
    };
    const { controlPlane } = await open();
    const error = await failureOf(controlPlane.startSession(request, giveUp.signal));
    expect(error.message).toBe('given up');
    expect(api.requests).toHaveLength(1);
  });

  it('calls a signal without a reason of ours a timeout', async () => {
    const giveUp = new AbortController();
    api.answer = () => {
      giveUp.abort();
      return 'hang';
    };
    const { controlPlane } = await open();
    const error = await failureOf(controlPlane.startSession(request, giveUp.signal));
    expect(error.code).toBe('network.timeout');
    expect(error.message).toContain('ssm:StartSession');
  });

  it('ends a session that starts after its caller has given up', async () => {
    const giveUp = new AbortController();
    const ended = new Promise<string>((resolve) => {
      api.answer = ({ operation, body }) => {
        if (operation === 'AmazonSSM.StartSession') giveUp.abort();
        else resolve(`${operation} ${body}`);
        return { body: grant };
      };
    });
    const { controlPlane } = await open();
    await failureOf(controlPlane.startSession(request, giveUp.signal));
    expect(await ended).toBe('AmazonSSM.TerminateSession {"SessionId":"s-1"}');
  });

  it('ends at once when nobody wants it any more and nothing has been sent', async () => {
    const silent = createServer();
    await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve));
    const { port } = silent.address() as AddressInfo; // a listening TCP server has one
    const left = new AbortController();
    const hungUp = new Promise((resolve) => {
      silent.once('connection', (socket) => {
        socket.once('data', () => {
          left.abort(new BridgeError('session.lost', 'ssh has left'));
        });
        socket.once('error', resolve).once('close', resolve);
      });
    });
    try {
      around.set({ AWS_ENDPOINT_URL_SSM: `https://localhost:${port}` });
      const { controlPlane } = await open();
      const error = await failureOf(controlPlane.startSession(request, forever(), left.signal));
      expect(error.message).toBe('ssh has left');
      await hungUp;
    } finally {
      silent.close();
    }
  });

  it('goes on although nobody wants it any more once the request is on its way', async () => {
    const left = new AbortController();
    api.answer = () => {
      left.abort();
      return { body: grant };
    };
    const { controlPlane } = await open();
    const started = await controlPlane.startSession(request, forever(), left.signal);
    expect(started.sessionId).toBe('s-1');
  });

  it('does not begin when nobody wants it any more', async () => {
    const { controlPlane } = await open();
    await failureOf(controlPlane.startSession(request, forever(), AbortSignal.abort()));
    expect(api.requests).toHaveLength(0);
  });

  it('does not begin when its signal has fired', async () => {
    const { controlPlane } = await open();
    await failureOf(controlPlane.startSession(request, AbortSignal.abort()));
    expect(api.requests).toHaveLength(0);
  });
});

describe('ResumeSession', () => {
  const resume = async (): Promise<unknown> => {
    const { controlPlane } = await open();
    return await controlPlane.resumeSession('s-1', forever());
  };

  it('gives the new token and the new URL', async () => {
    const url = 'wss://localhost:9/v1/data-channel/s-1?again=1';
    api.answer = () => ({ body: { SessionId: 's-1', TokenValue: 'token-2', StreamUrl: url } });
    expect(await resume()).toEqual({ tokenValue: 'token-2', streamUrl: url });
    expect(api.requests[0]!.operation).toBe('AmazonSSM.ResumeSession');
    expect(JSON.parse(api.requests[0]!.body)).toEqual({ SessionId: 's-1' });
  });

  it.each([undefined, ''])('keeps the URL when the service gives %j', async (StreamUrl) => {
    api.answer = () => ({ body: { TokenValue: 'token-2', StreamUrl } });
    expect(await resume()).toEqual({ tokenValue: 'token-2', streamUrl: undefined });
  });

  it.each([undefined, ''])('takes the token %j for the end of the session', async (TokenValue) => {
    api.answer = () => ({ body: { SessionId: 's-1', TokenValue, StreamUrl: streamUrl } });
    expect(await resume()).toBeUndefined();
  });

  it('takes DoesNotExistException for the end of the session', async () => {
    api.answer = () => apiError('DoesNotExistException');
    expect(await resume()).toBeUndefined();
  });

  it('names ssm:ResumeSession when it is denied', async () => {
    api.answer = () => apiError('AccessDeniedException');
    const error = await failureOf(resume());
    expect(error.code).toBe('access.denied');
    expect(error.message).toContain('ssm:ResumeSession on s-1');
  });

  it('refuses a new URL that leads elsewhere in the clear', async () => {
    api.answer = () => ({ body: { TokenValue: 'token-2', StreamUrl: 'ws://gateway.example/' } });
    expect((await failureOf(resume())).code).toBe('protocol.malformed');
  });
});

describe('TerminateSession', () => {
  it('names the session', async () => {
    const { controlPlane } = await open();
    await controlPlane.terminateSession('s-1', forever());
    expect(api.requests[0]!.operation).toBe('AmazonSSM.TerminateSession');
    expect(JSON.parse(api.requests[0]!.body)).toEqual({ SessionId: 's-1' });
  });

  it('rejects with access.denied when policy refuses', async () => {
    api.answer = () => apiError('AccessDeniedException');
    const { controlPlane } = await open();
    const error = await failureOf(controlPlane.terminateSession('s-1', forever()));
    expect(error.code).toBe('access.denied');
  });
});

describe('signUpgrade', () => {
  it('signs with the session credentials and the region', async () => {
    const { controlPlane } = await open();
    const headers = await controlPlane.signUpgrade(streamUrl, forever());
    expect(headers['authorization']).toMatch(
      /Credential=AKIDEXAMPLE\/\d{8}\/eu-central-1\/ssmmessages\/aws4_request, SignedHeaders=host;x-amz-date;x-amz-security-token,/,
    );
    expect(headers['x-amz-security-token']).toBe('session-token-of-the-test');
  });

  it('adds nothing to a presigned URL', async () => {
    const { controlPlane } = await open();
    expect(await controlPlane.signUpgrade(`${streamUrl}&X-Amz-Signature=1`, forever())).toEqual({});
  });

  it('signs by the clock of the service, learnt from its answers', async () => {
    const anHour = 3_600_000;
    const serviceNow = new Date(Date.now() + anHour);
    api.answer = () => ({ body: grant, headers: { date: serviceNow.toUTCString() } });
    const { controlPlane } = await open();
    await controlPlane.startSession(request, forever());
    const { 'x-amz-date': date = '' } = await controlPlane.signUpgrade(streamUrl, forever());
    const signedAt = Date.parse(
      date.replace(/^(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z$/, '$1-$2-$3T$4:$5:$6Z'),
    );
    expect(Math.abs(signedAt - serviceNow.getTime())).toBeLessThan(60_000);
  });
});
