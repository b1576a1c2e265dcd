/** Component-wise comparison of dotted versions, as the agent compares those that are not semver. */
export function compareVersions(left: string, right: string): number {
  const a = left.split('.');
  const b = right.split('.');
  for (let at = 0; at < Math.min(a.length, b.length); at++) {
    const order = compareParts(a[at]!, b[at]!);
    if (order !== 0) return order;
  }
  return a.length - b.length;
}

export function atLeast(version: string, bound: string): boolean {
  return compareVersions(version, bound) >= 0;
}

function compareParts(left: string, right: string): number {
  if (/^\d+$/.test(left) && /^\d+$/.test(right)) return Number(left) - Number(right);
  return left < right ? -1 : left > right ? 1 : 0;
}

/** Agent versions at which behaviour that a client can see changed (amazon-ssm-agent RELEASENOTES). */
export const since = {
  mux: '3.0.222.0',
  holdsEarlyData: '3.0.655.0',
  drains: '3.0.732.0',
  remoteHost: '3.1.1188.0',
  denyList: '3.1.1374.0',
  reacksDuplicates: '3.2.1041.0',
  disconnectFlag: '2.3.714.0',
  terminateFlag: '2.3.756.0',
  kmsChallenge: '3.3.808.0',
} as const;

/** Whether the agent's smux keeps itself alive, and dies when the client does not. */
export function usesSmuxKeepAlive(agentVersion: string, clientVersion: string): boolean {
  if (compareVersions(agentVersion, '3.1.1511.0') <= 0) return agentVersion !== '3.1.1446.0';
  return compareVersions(clientVersion, '1.2.331.0') <= 0;
}
