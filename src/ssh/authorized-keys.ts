/**
 * The shell scripts that put a line into an account's authorized_keys and take it out again. They run as
 * root on the node (AWS-RunShellScript), so the account's files are touched with the account's own rights:
 * a symlink there cannot lead root anywhere. Other lines are never changed: a line is added by appending,
 * and taken out by renaming a filtered copy into place if nobody else wrote meanwhile. Parallel scripts
 * wait for each other. The line expires by sshd's own clock, whatever becomes of this program.
 *
 * POSIX sh, with what BusyBox has. No double braces: Run Command would read them as parameters.
 */
import { BridgeError } from '../errors.ts';

export interface AuthorizedKeyEdit {
  readonly action: 'add' | 'remove';
  readonly osUser: string;
  /** Type and key, without options and comment. */
  readonly publicKey: string;
  /** Hexadecimal; marks the line as one login's own. */
  readonly id: string;
  readonly lifeSeconds: number;
}

/** A login name that is safe in a script and on a command line. */
export function isOsUser(name: string): boolean {
  return /^[A-Za-z_][A-Za-z0-9_.@-]{0,62}\$?$/.test(name);
}

/** Exit statuses of the scripts; everything else is an accident. */
const EXIT = {
  noUser: 3,
  noHome: 4,
  keysOff: 5,
  notAFile: 6,
  noClock: 7,
  tooOld: 8,
  locked: 9,
  contended: 10,
  noRights: 11,
} as const;

export function authorizedKeysScript(edit: AuthorizedKeyEdit): readonly string[] {
  const { action, osUser, publicKey, id, lifeSeconds } = edit;
  if (!isOsUser(osUser) || !/^[\w@.-]+ [A-Za-z0-9+/=]+$/.test(publicKey) || !/^\w+$/.test(id)) {
    throw new BridgeError('internal', 'unsafe text for a script');
  }
  return [
    `user='${osUser}'`,
    `SB_ACTION=${action}`,
    `SB_KEY='${publicKey}'`,
    `SB_ID=${id}`,
    `SB_LIFE=${lifeSeconds}`,
    ...SCRIPT,
  ];
}

/** What a script's exit status means; undefined for 0. */
export function editFault(
  exitCode: number,
  osUser: string,
  node: string,
  stderr: string,
): BridgeError | undefined {
  const refused = (message: string, hint?: string): BridgeError =>
    new BridgeError('key.refused', message, hint === undefined ? {} : { hint });
  switch (exitCode) {
    case 0:
      return undefined;
    case EXIT.noUser:
      return refused(`there is no user ${osUser} on ${node}`, 'check the login name (--user, %r)');
    case EXIT.noHome:
      return refused(`user ${osUser} on ${node} has no home directory`);
    case EXIT.keysOff:
      return refused(`sshd on ${node} is set to read no authorized_keys file for ${osUser}`);
    case EXIT.notAFile:
      return refused(`the authorized_keys of ${osUser} on ${node} is not a regular file`);
    case EXIT.tooOld:
      return refused(
        `OpenSSH on ${node} is older than 7.7 and knows no keys that expire`,
        'upgrade it, or put a key there by other means',
      );
    case EXIT.noRights:
      return refused(`cannot act as ${osUser} on ${node}: no setpriv, runuser or su there`);
    default: {
      const [reason = ''] = stderr.trim().split('\n');
      return new BridgeError(
        'key.failed',
        `cannot write the authorized_keys of ${osUser} on ${node}: ${reason === '' ? `status ${exitCode}` : reason.slice(0, 200)}`,
      );
    }
  }
}

/** Run with the account's rights; its input comes in variables, so that any of su's relatives will do. */
const EDIT = String.raw`
umask "$SB_MASK"
[ -d "$SB_HOME" ] || exit ${EXIT.noHome}
file=$SB_FILE
if [ ! -d "$(dirname "$file")" ]; then
  [ "$SB_ACTION" = add ] || exit 0
  mkdir -p "$(dirname "$file")" || exit 1
  SB_NEW=1
fi
target=$(readlink -f "$file" 2>/dev/null) && [ -n "$target" ] && file=$target
dir=$(dirname "$file")
if [ -e "$file" ] && [ ! -f "$file" ]; then exit ${EXIT.notAFile}; fi
[ -e "$file" ] || [ "$SB_ACTION" = add ] || exit 0

# One at a time. The kernel drops a lock on the directory with its holder; without flock, a directory that
# has been there for a minute belongs to a script that was killed.
temporary=
lock=
trap 'rm -f "$temporary"; [ -z "$lock" ] || rmdir "$lock"' EXIT
trap 'exit 1' HUP INT TERM
if command -v flock >/dev/null 2>&1; then
  exec 9<"$dir" || exit 1
  flock 9 || exit ${EXIT.locked}
else
  tries=0
  until mkdir "$dir/.ssm-bridge.lock" 2>/dev/null; do
    [ -w "$dir" ] || exit 1
    tries=$((tries + 1))
    [ "$tries" -le 200 ] || exit ${EXIT.locked}
    [ -z "$(find "$dir/.ssm-bridge.lock" -prune -mmin +1 2>/dev/null)" ] || rmdir "$dir/.ssm-bridge.lock" 2>/dev/null
    sleep 0.1 2>/dev/null || sleep 1
  done
  lock=$dir/.ssm-bridge.lock
fi
rm -f "$dir"/.ssm-bridge.??????

now=$(date +%s)
[ "$SB_ACTION" = add ] && SB_ID_OUT=- || SB_ID_OUT=$SB_ID
keep='{
  n = split($NF, mark, ":")
  own = n == 3 && mark[1] == "ssm-bridge" && mark[2] ~ /^[0-9a-f]+$/ && mark[3] ~ /^[0-9]+$/
  if (own && (mark[3] + 0 < now + 0 || mark[2] == id)) { dropped = 1; next }
  print
}
END { exit dropped ? 0 : 100 }'

tries=0
while [ -e "$file" ]; do
  before=$(cksum <"$file") || exit 1
  awk -v now="$now" -v id="$SB_ID_OUT" "$keep" "$file" >/dev/null
  found=$?
  [ "$found" -ne 100 ] || break
  [ "$found" -eq 0 ] || exit 1
  temporary=$(mktemp "$dir/.ssm-bridge.XXXXXX") || exit 1
  cp -p "$file" "$temporary" || exit 1
  awk -v now="$now" -v id="$SB_ID_OUT" "$keep" "$file" >"$temporary" || exit 1
  if [ "$(cksum <"$file")" = "$before" ]; then
    mv -f "$temporary" "$file" || exit 1
    temporary=
    break
  fi
  rm -f "$temporary"
  tries=$((tries + 1))
  [ "$tries" -le 5 ] || exit ${EXIT.contended}
done

if [ "$SB_ACTION" = add ]; then
  newline=
  if [ -s "$file" ] && [ -n "$(tail -c 1 "$file")" ]; then newline='
'; fi
  printf '%s%s\n' "$newline" "expiry-time=\"$SB_STAMP\" $SB_KEY ssm-bridge:$SB_ID:$SB_EXPIRY" >>"$file" || exit 1
fi
if command -v restorecon >/dev/null 2>&1; then
  [ -z "$SB_NEW" ] || restorecon "$dir" 2>/dev/null
  restorecon "$file" 2>/dev/null
fi
exit 0
`;

const SCRIPT: readonly string[] = String.raw`
PATH=$PATH:/usr/sbin:/usr/bin:/sbin:/bin
unset TZ
cd /
entry=$(getent passwd "$user" 2>/dev/null) || entry=$(awk -F: -v user="$user" '$1 == user' /etc/passwd)
[ -n "$entry" ] || exit ${EXIT.noUser}
uid=$(printf '%s\n' "$entry" | cut -d: -f3)
gid=$(printf '%s\n' "$entry" | cut -d: -f4)
SB_HOME=$(printf '%s\n' "$entry" | cut -d: -f6)
SB_NEW=

# Which file sshd reads for this user, if it will say.
pattern=$(sshd -T -C "user=$user,host=localhost,addr=127.0.0.1" 2>/dev/null | awk '$1 == "authorizedkeysfile" { print $2; exit }')
[ "$pattern" != none ] || exit ${EXIT.keysOff}
[ -n "$pattern" ] || pattern=.ssh/authorized_keys
SB_FILE=
while [ "$pattern" != "\${pattern#*%}" ]; do
  SB_FILE=$SB_FILE\${pattern%%\%*}
  pattern=\${pattern#*%}
  case $pattern in
    (h*) SB_FILE=$SB_FILE$SB_HOME ;;
    (u*) SB_FILE=$SB_FILE$user ;;
    (U*) SB_FILE=$SB_FILE$uid ;;
    (%*) SB_FILE=$SB_FILE% ;;
  esac
  pattern=\${pattern#?}
done
SB_FILE=$SB_FILE$pattern
case $SB_FILE in
  (/*) ;;
  (*) SB_FILE=$SB_HOME/$SB_FILE ;;
esac

# When the line ends, by this node's clock. sshd reads a time without Z in its own time zone, in which an
# hour of autumn comes twice; Z is understood since 9.1.
set -- $({ sshd -V; ssh -V; } 2>&1 </dev/null | sed -n 's/.*OpenSSH_\([0-9][0-9]*\)\.\([0-9][0-9]*\).*/\1 \2/p' | head -n 1)
release=$((\${1:-8} * 100 + \${2:-0}))
[ "$release" -ge 707 ] || exit ${EXIT.tooOld}
SB_EXPIRY=$(($(date +%s) + SB_LIFE))
utc=
[ "$release" -lt 901 ] || utc=-u
SB_STAMP=$(date $utc -d "@$SB_EXPIRY" +%Y%m%d%H%M%S 2>/dev/null || date $utc -r "$SB_EXPIRY" +%Y%m%d%H%M%S 2>/dev/null)
[ -n "$SB_STAMP" ] || exit ${EXIT.noClock}
[ -z "$utc" ] || SB_STAMP=\${SB_STAMP}Z

SB_EDIT=$(cat <<'SB_END'
${EDIT}SB_END
)
SB_MASK=077
case $SB_FILE in
  ("$SB_HOME"/*) ;;
  (*)
    # A file of the administrator's, which sshd reads with the user's rights.
    uid=$(id -u)
    SB_MASK=022
    ;;
esac
export SB_ACTION SB_KEY SB_ID SB_HOME SB_FILE SB_STAMP SB_EXPIRY SB_NEW SB_MASK SB_EDIT
if [ "$(id -u)" = "$uid" ]; then
  sh -c 'eval "$SB_EDIT"'
elif setpriv --reuid "$uid" --regid "$gid" --init-groups true 2>/dev/null; then
  setpriv --reuid "$uid" --regid "$gid" --init-groups sh -c 'eval "$SB_EDIT"'
elif command -v runuser >/dev/null 2>&1; then
  runuser -u "$user" -- sh -c 'eval "$SB_EDIT"'
elif command -v su >/dev/null 2>&1; then
  su -s /bin/sh "$user" -c 'eval "$SB_EDIT"'
else
  exit ${EXIT.noRights}
fi
`
  .replaceAll('\\$', '$')
  .split('\n')
  .slice(1, -1);
