import { createPublicKey, generateKeyPairSync, sign, type KeyObject } from 'node:crypto';
import { concat, encodeString } from './wire.ts';

const TYPE = 'ssh-ed25519';
/** The comment ssh shows for the key, and the one that stands in authorized_keys. */
export const KEY_COMMENT = 'ssm-bridge';

/** A fresh ed25519 key. Its private half exists as a KeyObject in this process's memory and nowhere else. */
export interface EphemeralKey {
  /** The public half as SSH encodes it (RFC 8709, section 4). */
  readonly blob: Uint8Array;
  /** The public half as a line of authorized_keys. */
  readonly publicKey: string;
  /** A signature as SSH encodes it (RFC 8709, section 6). */
  sign(data: Uint8Array): Uint8Array;
}

export function makeEphemeralKey(): EphemeralKey {
  const { privateKey } = generateKeyPairSync('ed25519');
  const blob = concat(encodeString(TYPE), encodeString(rawPublicKey(privateKey)));
  return {
    blob,
    publicKey: `${TYPE} ${Buffer.from(blob).toString('base64')} ${KEY_COMMENT}`,
    sign: (data) => concat(encodeString(TYPE), encodeString(sign(null, data, privateKey))),
  };
}

function rawPublicKey(privateKey: KeyObject): Uint8Array {
  // RFC 8410, section 4: the raw key is the last 32 bytes of its SubjectPublicKeyInfo.
  return createPublicKey(privateKey).export({ type: 'spki', format: 'der' }).subarray(-32);
}
