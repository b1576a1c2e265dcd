/** What never belongs in a log, whoever puts it there. The rule for callers is still not to pass it. */

const secretName =
  /token|secret|passw|passphrase|credentials?$|authorization|signature|cookie|headers?$|streamurl|privatekey|^key$|^payload$|^body$|^data$|^chunk$/i;

const secretText: readonly (readonly [RegExp, string])[] = [
  // User and password of proxies.
  [/\b([a-z][a-z0-9+.-]*:\/\/)[^\s/?#"'@]+@/gi, '$1[redacted]@'],
  // Query strings of stream URLs and presigned URLs.
  [/\b((?:wss?|https?):\/\/[^\s?"']+)\?[^\s"']*/gi, '$1?[redacted]'],
  [/\b(x-amz-(?:signature|security-token|credential))(\s*[=:]\s*)[^\s&"',}]+/gi, '$1$2[redacted]'],
  [/\bAWS4-HMAC-SHA256\s[^"'\n]*/g, 'AWS4-HMAC-SHA256 [redacted]'],
  [
    /\b(Signature|SecretAccessKey|SessionToken|TokenValue)("?\s*[=:]\s*"?)[^\s&"',}]+/gi,
    '$1$2[redacted]',
  ],
  [
    /-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)/g,
    '[redacted]',
  ],
];

const redacted = '[redacted]';
const maxDepth = 6;

/** The value as it may be logged: secrets by field name and by shape replaced, bytes as their length. */
export function redact(value: unknown, depth = 0): unknown {
  if (typeof value === 'string') return redactText(value);
  if (typeof value === 'bigint') return value.toString();
  if (typeof value !== 'object' || value === null) {
    return typeof value === 'function' || typeof value === 'symbol' ? undefined : value;
  }
  if (depth >= maxDepth) return '[deep]';
  if (ArrayBuffer.isView(value)) return `[${value.byteLength} bytes]`;
  if (value instanceof ArrayBuffer) return `[${value.byteLength} bytes]`;
  if (value instanceof Error) return redactError(value, depth);
  if (value instanceof Date) return value.toISOString();
  if (value instanceof URL) return redactText(value.href);
  if (value instanceof Map || value instanceof Set) return `[${value.size} entries]`;
  if (Array.isArray(value)) return value.map((item) => redact(item, depth + 1));
  return Object.fromEntries(
    Object.entries(value).map(([name, field]) => [
      name,
      isSecret(name, field) ? redacted : redact(field, depth + 1),
    ]),
  );
}

/** Numbers and truth values are lengths, counts and states, whatever the field is called. */
function isSecret(name: string, field: unknown): boolean {
  return (typeof field === 'string' || typeof field === 'object') && secretName.test(name);
}

export function redactText(text: string): string {
  return secretText.reduce((clean, [pattern, by]) => clean.replace(pattern, by), text);
}

function redactError(error: Error, depth: number): unknown {
  const { name, message, cause } = error;
  return {
    name,
    ...('code' in error && { code: redact(error.code, depth + 1) }),
    message: redactText(message),
    ...(cause !== undefined && { cause: redact(cause, depth + 1) }),
    stack: redactText(error.stack ?? ''),
  };
}
