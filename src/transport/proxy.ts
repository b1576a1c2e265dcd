import { isIP, type Socket } from 'node:net';
import { BridgeError } from '../errors.ts';
import { dialDirectly, type DialTcp } from './dial.ts';
import { connectThroughHttp } from './http-connect.ts';
import { networkError } from '../network-error.ts';
import { connectThroughSocks } from './socks.ts';

export interface Proxy {
  readonly kind: 'http' | 'https' | 'socks5';
  readonly host: string;
  readonly port: number;
  /** From the URL. Secret. */
  readonly credentials: { readonly user: string; readonly password: string } | undefined;
}

const defaultPorts = { http: 80, https: 443, socks5: 1080 } as const;

/** Throws usage.arguments. The URL may hold a password: it is in no message. */
export function parseProxy(text: string): Proxy {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  const kind = kindOf(url?.protocol);
  if (url === undefined || url.hostname === '' || kind === undefined) {
    throw new BridgeError(
      'usage.arguments',
      'the proxy is not a URL such as socks5://127.0.0.1:1080',
      { hint: 'write http://, https:// or socks5:// and host:port, with --proxy or HTTPS_PROXY' },
    );
  }
  const user = decoded(url.username);
  return {
    kind,
    host: url.hostname.replace(/^\[|\]$/g, ''),
    port: url.port === '' ? defaultPorts[kind] : Number(url.port),
    credentials: user === '' ? undefined : { user, password: decoded(url.password) },
  };
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    // A stray percent sign: then it is meant as it stands.
    return text;
  }
}

function kindOf(protocol: string | undefined): Proxy['kind'] | undefined {
  switch (protocol) {
    case 'http:':
      return 'http';
    case 'https:':
      return 'https';
    case 'socks5:':
    case 'socks5h:':
      return 'socks5';
    default:
      return undefined;
  }
}

/**
 * Dials through a proxy, which resolves names itself. Without `--proxy` the environment decides as it
 * does for AWS's own tools: HTTPS_PROXY and NO_PROXY, never for loopback.
 */
export function dialTcpThrough(proxy: Proxy, env: NodeJS.ProcessEnv | undefined): DialTcp {
  const exempt = env === undefined ? [] : exemptions(env);
  return async (host, port, signal) => {
    if (env !== undefined && isExempt(host, port, exempt)) {
      return await dialDirectly(host, port, signal);
    }
    return await dialProxy(proxy, host, port, signal);
  };
}

async function dialProxy(
  proxy: Proxy,
  host: string,
  port: number,
  signal: AbortSignal,
): Promise<Socket> {
  const name = `${proxy.host}:${proxy.port}`;
  let socket: Socket;
  try {
    socket = await dialDirectly(proxy.host, proxy.port, signal);
  } catch (error) {
    throw throughProxy(name, networkError(name, error));
  }
  const abort = (): void => {
    socket.destroy(signal.reason instanceof Error ? signal.reason : undefined);
  };
  signal.addEventListener('abort', abort);
  try {
    return proxy.kind === 'socks5'
      ? await connectThroughSocks(socket, proxy, host, port)
      : await connectThroughHttp(socket, proxy, host, port);
  } catch (error) {
    // A destroyed socket may still report; nobody is interested any more.
    socket.on('error', ignore);
    socket.destroy();
    throw throughProxy(name, error);
  } finally {
    signal.removeEventListener('abort', abort);
  }
}

function throughProxy(name: string, error: unknown): BridgeError {
  const known = error instanceof BridgeError ? error : networkError(name, error);
  return new BridgeError(known.code, `proxy ${name}: ${known.message}`, {
    hint: known.hint ?? 'check that the proxy runs and lets this host pass',
    cause: error,
  });
}

function exemptions(env: NodeJS.ProcessEnv): readonly string[] {
  const text = env['NO_PROXY'] ?? env['no_proxy'] ?? '';
  return text.split(/[\s,]+/).filter((entry) => entry !== '');
}

/** `*`, a host, a domain with or without its leading dot, each with or without a port. */
function isExempt(host: string, port: number, exempt: readonly string[]): boolean {
  const name = host.toLowerCase();
  if (name === 'localhost' || /^127\.|^::1$/.test(name)) return true;
  return exempt.some((entry) => {
    if (entry === '*') return true;
    const [, domain = '', only] = /^(.*?)(?::(\d+))?$/.exec(entry.toLowerCase()) ?? [];
    if (only !== undefined && Number(only) !== port) return false;
    const bare = domain.replace(/^\*?\./, '');
    if (bare === '') return false;
    return name === bare || (isIP(name) === 0 && name.endsWith(`.${bare}`));
  });
}

function ignore(): void {
  // See the caller.
}
