/**
 * Versions of agents and clients: dotted numbers, usually four, compared number by number. They are
 * not semver, and the two sides choose a session's mode from them independently.
 */
import {
  FIRST_AGENT_ACKNOWLEDGING_DUPLICATES,
  AGENT_WITHOUT_SMUX_KEEP_ALIVE,
  FIRST_AGENT_KEEPING_EARLY_DATA,
  FIRST_CLIENT_WITH_MUX,
  LAST_AGENT_WITHOUT_MUX,
  LAST_AGENT_WITH_SMUX_KEEP_ALIVE,
  LAST_CLIENT_WITH_SMUX_KEEP_ALIVE,
} from './constants.ts';

const DOTTED = /^\d{1,9}(\.\d{1,9}){0,7}$/;

/** Whether the text can be compared at all. */
export function isVersion(text: string): boolean {
  return DOTTED.test(text);
}

/** Negative, zero or positive as `left` is older, the same or newer; a missing number counts as 0. */
export function compareVersions(left: string, right: string): number {
  const a = left.split('.');
  const b = right.split('.');
  for (let i = 0; i < Math.max(a.length, b.length); i += 1) {
    const difference = Number(a[i] ?? 0) - Number(b[i] ?? 0);
    if (difference !== 0) return difference;
  }
  return 0;
}

/** Whether agent and client, given the same announcement, both choose smux. */
export function usesMux(agentVersion: string, announcedVersion: string): boolean {
  return (
    compareVersions(agentVersion, LAST_AGENT_WITHOUT_MUX) > 0 &&
    compareVersions(announcedVersion, FIRST_CLIENT_WITH_MUX) >= 0
  );
}

/** Whether the agent ends a smux session that hears nothing for 30 s. */
export function needsSmuxKeepAlive(agentVersion: string, announcedVersion: string): boolean {
  if (compareVersions(announcedVersion, LAST_CLIENT_WITH_SMUX_KEEP_ALIVE) <= 0) return true;
  return (
    compareVersions(agentVersion, LAST_AGENT_WITH_SMUX_KEEP_ALIVE) <= 0 &&
    compareVersions(agentVersion, AGENT_WITHOUT_SMUX_KEEP_ALIVE) !== 0
  );
}

/** Whether the agent acknowledges and drops data that arrives before its port is connected. */
export function dropsEarlyData(agentVersion: string): boolean {
  return compareVersions(agentVersion, FIRST_AGENT_KEEPING_EARLY_DATA) < 0;
}

/** Whether the agent stays silent when a message arrives again that it has processed. */
export function ignoresDuplicates(agentVersion: string): boolean {
  return compareVersions(agentVersion, FIRST_AGENT_ACKNOWLEDGING_DUPLICATES) < 0;
}
