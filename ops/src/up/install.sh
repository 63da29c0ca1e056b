# Installs the packages $@ without letting any of their services start, now or at the next boot: Boxoffice runs private
# servers of its own and wants the programs only. A policy-rc.d that is already there is left as it is; ours goes away
# again, also one that a killed run left.
set -eu
policy=/usr/sbin/policy-rc.d
mark='# put here by cargo ops while it installs packages'
if [ -e "$policy" ] && grep -qF "$mark" "$policy"; then
    rm -f "$policy"
fi
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    trap 'exit 1' HUP INT TERM
    printf '#!/bin/sh\n%s\nexit 101\n' "$mark" > "$policy"
    chmod 755 "$policy"
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -q
apt-get install -y -q --no-install-recommends "$@"
if command -v systemctl > /dev/null; then
    for package in "$@"; do
        case $package in
        redis-server) systemctl disable --quiet redis-server.service || true ;;
        postgresql-15) systemctl disable --quiet postgresql.service || true ;;
        gdnsd | haproxy | keepalived | knot) systemctl disable --quiet "$package.service" || true ;;
        esac
    done
fi
