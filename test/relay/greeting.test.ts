import { describe, expect, it } from 'vitest';
import { greeting, type Finding } from '../../src/relay/greeting.ts';

/** The first finding when the text comes in pieces of `size` bytes. */
function find(text: string, size = text.length): Finding | undefined {
  const observer = greeting();
  const bytes = Buffer.from(text, 'latin1');
  for (let at = 0; at < bytes.length; at += size) {
    const finding = observer.observe(bytes.subarray(at, at + size));
    if (finding !== undefined) return finding;
  }
  return undefined;
}

describe.each([1, 3, 4096])('in pieces of %i bytes', (size) => {
  it('knows SSH', () => {
    expect(find('SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n', size)).toEqual({ kind: 'ssh' });
  });

  it('knows SSH after empty lines', () => {
    expect(find('\r\n\r\nSSH-2.0-OpenSSH_9.2\r\n', size)).toEqual({ kind: 'ssh' });
  });

  it('quotes the first line that comes before SSH', () => {
    expect(find('\nExceeded MaxStartups\r\nSSH-2.0-x\r\n', size)).toEqual({
      kind: 'said',
      text: 'Exceeded MaxStartups',
    });
  });

  it.each([
    ['HTTP/1.0 400 Bad Request\r\n', 'a web server listens on this port'],
    ['220 mail.example ESMTP\r\n', 'a mail or FTP server listens on this port'],
    ['220-ftp.example\r\n', 'a mail or FTP server listens on this port'],
    ['\x15\x03\x01\x00\x02\x02\x46', 'a TLS server listens on this port'],
  ])('knows %j', (text, cause) => {
    expect(find(text, size)).toMatchObject({ kind: 'not-ssh', cause });
  });

  it.each([
    'sh-4.2$ ',
    'bash-5.1# ',
    '[ssm-user@ip-10-0-0-1 bin]$ ',
    'root@host:~# ',
    '\x1b[?2004hsh-5.2$ ',
    '\r\n$ ',
  ])('takes %j for the shell of an old agent', (text) => {
    const finding = find(text, size);
    expect([finding?.kind, finding?.kind === 'not-ssh' && finding.cause]).toEqual([
      'not-ssh',
      'a shell prompt: SSM Agent is older than 2.3.672, which cannot forward ports; update it',
    ]);
  });
});

it('waits for more while it may still be SSH', () => {
  expect(find('SSH')).toBeUndefined();
});

it('gives up on a kilobyte without a line end', () => {
  const observer = greeting();
  expect(observer.observe(new Uint8Array(1023).fill(0x61))).toBeUndefined();
  expect(observer.observe(new Uint8Array(10).fill(0x61))).toMatchObject({
    kind: 'not-ssh',
    cause: 'the port is not an sshd',
  });
});

it('has one verdict and then none', () => {
  const observer = greeting();
  observer.observe(Buffer.from('SSH-2.0-x\r\n'));
  expect(observer.observe(Buffer.from('HTTP/1.1\r\n'))).toBeUndefined();
});

it('shows one printable line of bounded length', () => {
  const finding = find(`\x1b]0;title\x07${'x'.repeat(500)}\x9b31m\r\n`);
  const text = finding?.kind === 'said' ? finding.text : '';
  expect(text.length).toBe(120);
  expect(text).toMatch(/^[\x20-\x7e]+…$/);
});

it('is not slowed down by a peer that sends a kilobyte of near misses byte by byte', () => {
  for (const text of ['a@'.repeat(600), '\x1b['.repeat(600), `[${'a.'.repeat(600)}`]) {
    expect(find(text, 1)?.kind).toBe('not-ssh');
  }
});
