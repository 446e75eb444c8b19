# Installs the packages "$@" without letting them start servers of their own.
set -eu
# One at a time: programs that start together would find each other's locks, and remove each other's files.
mkdir -p /run/lock
exec 9>/run/lock/headrace-install
flock 9
installed=$(dpkg-query --show --showformat='${db:Status-Status}\n' "$@" 2>/dev/null | grep -cx installed) || true
if [ "$installed" -eq "$#" ]; then exit 0; fi

policy=/usr/sbin/policy-rc.d
cluster=/etc/postgresql-common/createcluster.d/no-main-cluster.conf
made_policy= made_cluster=

restore() {
    if [ -n "$made_policy" ]; then rm -f "$policy"; fi
    if [ -n "$made_cluster" ]; then rm -f "$cluster"; fi
}
trap restore EXIT
trap 'exit 130' HUP INT TERM

if [ ! -e "$policy" ]; then
    made_policy=1
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi
if [ ! -e "$cluster" ]; then
    made_cluster=1
    mkdir -p "${cluster%/*}"
    printf 'create_main_cluster = false\n' >"$cluster"
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update
apt-get install -o DPkg::Lock::Timeout=300 --yes --no-install-recommends "$@"
