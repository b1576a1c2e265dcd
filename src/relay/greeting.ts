/**
 * Looks at the first bytes from the remote side, without touching them: an sshd introduces itself
 * with a line that begins "SSH-" (RFC 4253, 4.2). Anything else is shown to nobody by ssh, and is
 * usually the reason why the connection is about to fail.
 */
export interface Greeting {
  /** Feed it the bytes in order until it has a verdict; it keeps at most 1 KiB. */
  observe(bytes: Uint8Array): Finding | undefined;
}

export type Finding =
  | { readonly kind: 'ssh' }
  /** Lines that sshd or something before it sent ahead of the banner: ssh hides them. */
  | { readonly kind: 'said'; readonly text: string }
  | { readonly kind: 'not-ssh'; readonly text: string; readonly cause: string };

const maxObservedBytes = 1024;

export function greeting(): Greeting {
  let seen = '';
  let isDecided = false;
  return {
    observe(bytes) {
      if (isDecided) return undefined;
      seen += latin1(bytes.subarray(0, maxObservedBytes - seen.length));
      const finding = judge(seen);
      isDecided = finding !== undefined;
      return finding;
    },
  };
}

function judge(seen: string): Finding | undefined {
  if (seen.startsWith('SSH-')) return { kind: 'ssh' };
  if ('SSH-'.startsWith(seen)) return undefined;
  const cause = likelyCause(seen);
  if (cause !== undefined) return { kind: 'not-ssh', text: printable(seen), cause };
  const [, line] = /^\s*(\S[^\n]*)\n/.exec(seen) ?? [];
  if (line?.startsWith('SSH-') === true) return { kind: 'ssh' };
  if (line !== undefined) return { kind: 'said', text: printable(line) };
  if (seen.length < maxObservedBytes) return undefined;
  return { kind: 'not-ssh', text: printable(seen), cause: 'the port is not an sshd' };
}

/** `sh-4.2$ `, `[ssm-user@ip-10-0-0-1 ~]$ ` and the like, perhaps after escape sequences. */
const shellPrompt =
  /^(?:\x1b\[[0-9;?]*[a-zA-Z]|\r|\n)*(?:sh-[0-9.]+|bash-[0-9.]+|\[?[\w.-]+@[^\n]*|)[$#%] $/;

function likelyCause(seen: string): string | undefined {
  if (shellPrompt.test(seen)) {
    return 'a shell prompt: SSM Agent is older than 2.3.672, which cannot forward ports; update it';
  }
  if (seen.startsWith('HTTP/')) return 'a web server listens on this port';
  if (/^220[ -]/.test(seen)) return 'a mail or FTP server listens on this port';
  const first = seen.charCodeAt(0);
  if (first === 0x15 || first === 0x16) return 'a TLS server listens on this port';
  return undefined;
}

function latin1(bytes: Uint8Array): string {
  let text = '';
  for (const byte of bytes) text += String.fromCharCode(byte);
  return text;
}

/** One line of at most 120 plain ASCII characters: remote text must not drive the terminal. */
function printable(text: string): string {
  const plain = text.replace(/[^\x20-\x7e]+/g, ' ').trim();
  return plain.length > 120 ? `${plain.slice(0, 119)}…` : plain;
}
