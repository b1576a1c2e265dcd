# Sourced by scripts/test and scripts/demo: installs what is missing, and keeps the environment of the
# machine (AWS settings, extra certificate authorities) away from what is run.

# program:package
needed=(sshd:openssh-server ssh:openssh-client rsync:rsync git:git openssl:openssl ip:iproute2
  python3:python3)

clean=(env)
while IFS='=' read -r name _; do
  case $name in
    AWS_* | SSM_BRIDGE_* | NODE_EXTRA_CA_CERTS | NODE_OPTIONS | SSL_CERT_FILE | SSL_CERT_DIR | \
      SSH_AUTH_SOCK | [hH][tT][tT][pP]_[pP][rR][oO][xX][yY] | [hH][tT][tT][pP][sS]_[pP][rR][oO][xX][yY] | \
      [aA][lL][lL]_[pP][rR][oO][xX][yY])
      clean+=(-u "$name")
      ;;
  esac
done < <(env)

missing_packages() {
  local entry
  for entry in "${needed[@]}"; do
    # sshd is in sbin, which is not on everybody's PATH.
    PATH="$PATH:/usr/sbin:/sbin" command -v "${entry%%:*}" >/dev/null || echo "${entry#*:}"
  done
}

set_up() {
  local packages
  mapfile -t packages < <(missing_packages)
  if [ "${#packages[@]}" -gt 0 ]; then
    echo "== installing ${packages[*]}"
    if ! command -v apt-get >/dev/null; then
      echo "there is no apt-get here: please install them by hand"
      return 1
    fi
    apt-get update -qq &&
      DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        "${packages[@]}" >/dev/null || return 1
  fi
  # sshd wants its privilege separation directory, which the service would make at boot.
  if [ "$(id -u)" = 0 ]; then mkdir -p /run/sshd; fi
  if [ ! -e node_modules/.package-lock.json ] ||
    [ package-lock.json -nt node_modules/.package-lock.json ]; then
    echo '== npm ci'
    npm ci --no-audit --no-fund --loglevel=error || return 1
  fi
}
