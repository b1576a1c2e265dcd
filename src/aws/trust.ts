import { readFileSync } from 'node:fs';
import { BridgeError, systemReason } from '../errors.ts';

const certificate = /-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g;

/**
 * The certificates of a bundle, which replace the default roots as they do in the AWS CLI. Rejects a
 * file that cannot be read or has none with usage.config, so that a typing error never means "trust the
 * default roots instead".
 */
export function loadTrust(file: string): readonly string[] {
  let text: string;
  try {
    text = readFileSync(file, 'latin1');
  } catch (error) {
    throw new BridgeError(
      'usage.config',
      `cannot read the CA bundle ${file}: ${systemReason(error)}`,
      {
        hint: 'check AWS_CA_BUNDLE, or ca_bundle in the AWS config file',
        cause: error,
      },
    );
  }
  const found = text.match(certificate);
  if (found === null) {
    throw new BridgeError('usage.config', `the CA bundle ${file} has no PEM certificates`, {
      hint: 'AWS_CA_BUNDLE or ca_bundle must name a PEM file',
    });
  }
  return found;
}
