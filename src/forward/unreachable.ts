import { BridgeError } from '../errors.ts';
import type { ChannelEnd } from '../transport/channel.ts';

/** The node could not connect to the destination; the agent says that much and not why. */
export function refused(destination: string, node: string): BridgeError {
  return new BridgeError('remote.unreachable', `${node} could not connect to ${destination}`, {
    hint: 'is something listening there, and do security groups and firewalls let the node in?',
  });
}

export function silent(destination: string, node: string, seconds: number): BridgeError {
  return new BridgeError(
    'remote.unreachable',
    `${destination} did not answer ${node} within ${seconds} s`,
    { hint: 'a firewall or security group may be dropping the packets between them' },
  );
}

/**
 * The same end, with the agent's reason made a `remote.unreachable` error when it is one. The agent
 * resolves and checks the destination when the session starts, and reports failures only as the text of
 * channel_closed (amazon-ssm-agent, plugins/port: validateParameters).
 */
export function explainEnd(end: ChannelEnd, destination: string, node: string): ChannelEnd {
  if (end.kind !== 'remote-closed') return end;
  const text = end.output.replace(/^-+ERROR-+\s*/, '').trim();
  const because = (reason: string, hint: string): ChannelEnd => ({
    kind: 'failed',
    error: new BridgeError('remote.unreachable', `${node} cannot reach ${destination}: ${reason}`, {
      hint,
    }),
  });
  if (/no such host|lookup .*(?:server misbehaving|i\/o timeout|no answer)/i.test(text)) {
    return because(firstLine(text), "the name is resolved by the node's own resolver");
  }
  if (/is forbidden/i.test(text)) {
    return because(firstLine(text), 'SSM Agent refuses metadata, DNS and reserved VPC addresses');
  }
  if (/unable to connect to specified port|connection refused|no route|unreachable/i.test(text)) {
    return because(firstLine(text), 'is something listening there?');
  }
  return end;
}

function firstLine(text: string): string {
  return text.split('\n', 1)[0] ?? '';
}
