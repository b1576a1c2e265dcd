/** What a forwarding session is asked to reach, and how StartSession is told. */
export interface Destination {
  /** Undefined: the node itself. */
  readonly host: string | undefined;
  readonly port: number;
}

export interface SessionDocument {
  readonly documentName: string;
  readonly parameters: Readonly<Record<string, readonly string[]>>;
}

/** The names a node has for itself need no remote-host document, which older agents do not know. */
const loopbackNames: ReadonlySet<string> = new Set(['', 'localhost', '127.0.0.1', '::1', '::']);

/** The destination with `host` left out when it only names the node itself. */
export function normalised(destination: Destination): Destination {
  const { host, port } = destination;
  if (host === undefined || loopbackNames.has(host.toLowerCase())) return { host: undefined, port };
  return { host, port };
}

/**
 * The AWS document for a destination. `localPort` only ever told AWS's own client where to listen; it is
 * sent because the documents define it. Every value is a list of strings (SSM API, StartSession).
 */
export function forwardingDocument(destination: Destination, localPort: number): SessionDocument {
  const ports = {
    portNumber: [String(destination.port)],
    localPortNumber: [String(localPort)],
  };
  return destination.host === undefined
    ? { documentName: 'AWS-StartPortForwardingSession', parameters: ports }
    : {
        documentName: 'AWS-StartPortForwardingSessionToRemoteHost',
        parameters: { host: [destination.host], ...ports },
      };
}

export function destinationText(destination: Destination): string {
  return hostPort(destination.host ?? 'localhost', destination.port);
}

export function hostPort(host: string, port: number): string {
  return host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`;
}
