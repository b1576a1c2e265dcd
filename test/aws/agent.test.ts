import { connect, type Socket } from 'node:net';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { BridgeError } from '../../src/errors.ts';
import { silentLogger } from '../../src/logger.ts';
import type { ApiDial } from '../../src/aws/agent.ts';
import { type Aws, openAws } from '../../src/aws/context.ts';
import { makeDial } from '../../src/transport/dial.ts';
import { certificates } from '../emulator/certs.ts';
import { type ApiServer, startApiServer } from './api-server.ts';
import { failureOf } from './failures.ts';
import { enterSurroundings, keysInEnvironment, type Surroundings } from './surroundings.ts';

const session = {
  target: 'i-0123456789abcdef0',
  documentName: 'AWS-StartSSHSession',
  parameters: { portNumber: ['22'] },
  reason: undefined,
};

let around: Surroundings;
let api: ApiServer;

beforeEach(async () => {
  const certs = await certificates();
  around = enterSurroundings();
  api = await startApiServer(() => ({ body: { TokenValue: 't' } }), certs);
  around.set({
    ...keysInEnvironment,
    AWS_REGION: 'eu-central-1',
    AWS_MAX_ATTEMPTS: '1',
    AWS_CA_BUNDLE: around.file('ca.pem', certs.ca),
  });
});
afterEach(async () => {
  await api.close();
  around.restore();
});

async function call(dial: ApiDial, signal = new AbortController().signal): Promise<unknown> {
  const aws: Aws = await openAws({ env: process.env, logger: silentLogger, dial });
  return await aws.controlPlane.resumeSession('s-1', signal);
}

describe('a dial of our own', () => {
  it('opens the connections of the API, TLS included, with the CA bundle in force', async () => {
    around.set({ AWS_ENDPOINT_URL_SSM: api.url });
    const asked: unknown[] = [];
    const dial = makeDial();
    await call(async (request, signal) => {
      asked.push({ ...request, ca: request.ca?.length });
      return await dial(request, signal);
    });
    expect(asked).toEqual([{ host: 'localhost', port: api.port, isSecure: true, ca: 1 }]);
    expect(api.requests).toHaveLength(1);
  });

  it('may lead to another place than the name says', async () => {
    around.set({ AWS_ENDPOINT_URL_SSM: `https://localhost:1` });
    const dial = makeDial(
      () =>
        new Promise<Socket>((resolve) => {
          const socket = connect(api.port, '127.0.0.1', () => {
            resolve(socket);
          });
        }),
    );
    await call(dial);
    expect(api.requests[0]!.headers.host).toBe('localhost:1');
  });

  it('fails the call with its own error', async () => {
    around.set({ AWS_ENDPOINT_URL_SSM: api.url });
    const error = await failureOf(
      call(() => Promise.reject(new BridgeError('network.refused', 'the proxy says no'))),
    );
    expect(error.message).toBe('the proxy says no');
  });

  it('does not hold up a call that is given up', async () => {
    around.set({ AWS_ENDPOINT_URL_SSM: api.url });
    const giveUp = new AbortController();
    const error = await failureOf(
      call(() => {
        giveUp.abort();
        return new Promise(() => {
          // Never connects.
        });
      }, giveUp.signal),
    );
    expect(error.code).toBe('network.timeout');
  });

  it('is given up with a StartSession that nobody wants any more', async () => {
    around.set({ AWS_ENDPOINT_URL_SSM: api.url });
    const left = new AbortController();
    let dialled: AbortSignal | undefined;
    const dial: ApiDial = (_request, signal) => {
      dialled = signal;
      setTimeout(() => {
        left.abort(new BridgeError('session.lost', 'ssh has left'));
      }, 50);
      return new Promise((_resolve, reject) => {
        signal.addEventListener('abort', () => {
          reject(new Error('given up'));
        });
      });
    };
    const { controlPlane } = await openAws({ env: process.env, logger: silentLogger, dial });
    const forever = new AbortController().signal;
    const started = controlPlane.startSession(session, forever, left.signal);
    expect((await failureOf(started)).message).toBe('ssh has left');
    expect(dialled?.aborted).toBe(true);
  });
});
