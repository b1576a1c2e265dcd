import { BridgeError } from '../errors.ts';

export interface UpgradeRefusal {
  readonly statusCode: number;
  /** Response headers, names in lower case. */
  readonly headers?: Readonly<Record<string, string | readonly string[] | undefined>>;
  /** Host of the stream URL. */
  readonly host: string;
}

/** What an HTTP answer other than 101 to the WebSocket upgrade means. */
export function classifyUpgradeFailure(refusal: UpgradeRefusal): BridgeError {
  const { statusCode: status, host } = refusal;
  const answer = `the WebSocket to ${host} was refused with HTTP ${status}`;
  if (status === 407) {
    return new BridgeError('network.refused', `${answer}: a proxy wants authentication`, {
      hint: 'put user and password into the proxy URL, or let this host pass without the proxy (NO_PROXY)',
    });
  }
  if ((status === 401 || status === 403) && !isFromMiddlebox(refusal)) {
    return new BridgeError('access.websocket', `${answer}: the signed request was denied`, {
      hint: 'the IAM identity needs ssmmessages:OpenDataChannel on the session; credentials that have expired are refused the same way',
    });
  }
  if (status >= 500 && !isFromMiddlebox(refusal)) {
    return new BridgeError('network.refused', `${answer}: the service or a proxy has a problem`, {
      hint: 'try again; if it stays, check proxy and firewall',
    });
  }
  return new BridgeError('network.refused', `${answer}, which is not the service's way`, {
    hint: `a proxy or firewall may be in the way; it must let WebSockets to ${host}:443 pass`,
  });
}

/** AWS answers a refused upgrade with JSON or nothing; web pages and `Via` come from things in between. */
function isFromMiddlebox({ headers = {} }: UpgradeRefusal): boolean {
  const type = first(headers['content-type']) ?? '';
  return (
    /^\s*text\/html/i.test(type) ||
    headers['proxy-authenticate'] !== undefined ||
    headers['proxy-connection'] !== undefined ||
    headers['x-squid-error'] !== undefined ||
    (headers['via'] !== undefined && headers['x-amzn-requestid'] === undefined)
  );
}

function first(value: string | readonly string[] | undefined): string | undefined {
  return typeof value === 'string' ? value : value?.[0];
}
