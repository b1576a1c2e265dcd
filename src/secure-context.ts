import { createSecureContext, type SecureContext } from 'node:tls';

const contexts = new Map<readonly string[] | undefined, SecureContext>();

/**
 * What TLS connections trust: the given PEM certificates, or the default roots. Made once for each array,
 * because parsing certificates costs Node 20 tens of milliseconds, and a start makes two connections.
 */
export function secureContextFor(ca: readonly string[] | undefined): SecureContext {
  let context = contexts.get(ca);
  if (context === undefined) {
    context = createSecureContext(ca === undefined ? {} : { ca: [...ca] });
    contexts.set(ca, context);
  }
  return context;
}
