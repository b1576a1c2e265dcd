/** Option values that people write with a unit. Undefined: not such a value. */

const durationUnits: Readonly<Record<string, number>> = {
  ms: 1,
  s: 1000,
  m: 60_000,
  h: 3_600_000,
  d: 86_400_000,
};

/** `500ms`, `30s`, `5m`, `2h`, `1d`; a bare number is seconds. */
export function parseDuration(text: string): number | undefined {
  const match = /^(\d{1,9}(?:\.\d{1,3})?)(ms|s|m|h|d)?$/.exec(text);
  if (match === null) return undefined;
  const unit = durationUnits[match[2] ?? 's'];
  return unit === undefined ? undefined : Math.round(Number(match[1]) * unit);
}

/** `16k` or `16KiB` is 16384; a bare number is bytes. */
export function parseSize(text: string): number | undefined {
  const match = /^(\d{1,9})(k|m)?(?:i?b)?$/i.exec(text);
  if (match === null) return undefined;
  const unit = match[2]?.toLowerCase();
  return Number(match[1]) * (unit === 'k' ? 1024 : unit === 'm' ? 1024 * 1024 : 1);
}

export function parsePort(text: string): number | undefined {
  if (!/^\d{1,5}$/.test(text)) return undefined;
  const port = Number(text);
  return port >= 1 && port <= 65_535 ? port : undefined;
}

/** An EC2 instance or a hybrid managed node, as the SSM API's StartSession takes them. */
export function isNodeId(text: string): boolean {
  return /^(?:i-[0-9a-f]{8,17}|mi-[0-9a-f]{17})$/.test(text);
}

/** A DNS name or an IP address; what follows goes to the node's resolver, so only its alphabet is checked. */
export function isHostName(text: string): boolean {
  return /^(?!-)[\w.-]{1,253}$/.test(text) || /^[\da-f:.]{2,45}$/i.test(text);
}

/** A POSIX login name, with the dot, at sign and plus that directory services add. */
export function isUserName(text: string): boolean {
  return /^[A-Za-z_][\w.@+-]{0,63}\$?$/.test(text);
}
