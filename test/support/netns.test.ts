import { once } from 'node:events';
import { createServer, type AddressInfo } from 'node:net';
import { existsSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { matching } from './matching.ts';
import { link, makeNamespace, netnsMissing, type Namespace } from './netns.ts';
import { baseEnv, must, start } from './process.ts';

const missing = netnsMissing();

describe.skipIf(missing !== undefined)(`network namespaces ${missing ?? ''}`, () => {
  let near: Namespace;
  let far: Namespace;
  beforeAll(async () => {
    near = await makeNamespace({ users: ['alice'], hosts: { 'far.internal': '10.77.1.2' } });
    far = await makeNamespace();
    link(near, '10.77.1.1/24', far, '10.77.1.2/24');
  });
  afterAll(async () => {
    await near.close();
    await far.close();
  });

  it('reach their neighbour, by names of their own', async () => {
    const script =
      "require('net').createServer((s) => s.end('far')).listen(8080, () => console.log('up'))";
    const server = start([...far.prefix, process.execPath, '-e', script], { env: baseEnv() });
    await server.waitForStdout(/up/);
    const socket = await near.dial('far.internal', 8080);
    expect(String((await once(socket, 'data'))[0])).toBe('far');
    await expect(far.dial('far.internal', 8080)).rejects.toMatchObject({
      code: matching(/^(ENOTFOUND|EAI_AGAIN)$/),
    });
    server.signal('SIGKILL');
    await server.exited;
  });

  it('report a refused connection by its code', async () => {
    await expect(near.dial('10.77.1.2', 9)).rejects.toMatchObject({ code: 'ECONNREFUSED' });
  });

  it('do not reach the outside, but for what is exposed', async () => {
    const server = createServer((socket) => socket.end('outside'));
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    // It listens on TCP.
    const { port } = server.address() as AddressInfo;
    await expect(near.dial('127.0.0.1', port)).rejects.toMatchObject({ code: 'ECONNREFUSED' });
    await near.expose(port);
    const socket = await near.dial('127.0.0.1', port);
    expect(String((await once(socket, 'data'))[0])).toBe('outside');
    server.close();
  });

  it('have users of their own', async () => {
    const done = await must([...near.prefix, 'id', '-un', '54000'], { env: baseEnv() });
    expect(done.stdout.toString().trim()).toBe('alice');
  });

  it('leave nothing behind', async () => {
    const gone = await makeNamespace();
    await gone.close();
    expect(
      [gone.dir, `/etc/netns/${gone.name}`, `/run/netns/${gone.name}`].filter(existsSync),
    ).toEqual([]);
  });
});
