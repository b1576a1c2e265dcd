import { makeDial, type Dial } from '../transport/dial.ts';

const proxyVariables = ['HTTPS_PROXY', 'https_proxy', 'ALL_PROXY', 'all_proxy'];

/**
 * How connections to AWS are made when `--proxy` or the environment asks for a proxy; undefined when
 * neither does, and then nothing about proxies is loaded. Rejects with usage.arguments.
 */
export async function proxiedDial(
  given: string | undefined,
  env: NodeJS.ProcessEnv,
): Promise<Dial | undefined> {
  const fromEnv = proxyVariables.map((name) => env[name]).find((value) => (value ?? '') !== '');
  const url = given ?? fromEnv;
  if (url === undefined) return undefined;
  const { dialTcpThrough, parseProxy } = await import('../transport/proxy.ts');
  // What is given on the command line is meant; only the environment knows exceptions.
  return makeDial(dialTcpThrough(parseProxy(url), given === undefined ? env : undefined));
}
