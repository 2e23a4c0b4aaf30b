#!/usr/bin/env bash
# Two hosts on this machine, for as long as a command runs: network namespaces with a cable between them.
#   tests/e2e/slurm/two_hosts.sh COMMAND [ARGUMENT ...]          for example bash
# In it, "$ON_HOST" a COMMAND runs a command on host a, 10.77.0.1, and "$ON_HOST" b COMMAND on host b, 10.77.0.2.
# Each has its own host name, loopback and ports, knows both names, and reaches nothing else. They share the files
# and the processes. As root. Exit code: the command's; 2 where something is missing.
set -euo pipefail

if ((EUID != 0)); then
  echo "error: two_hosts.sh makes network namespaces, which only root may; this is $(id -un)" >&2
  exit 2
fi
if ! command -v ip > /dev/null; then
  echo "error: ip is missing; on Debian: apt-get install iproute2" >&2
  exit 2
fi
prefix=coreward-$$
if ! message=$(ip netns add "$prefix-a" 2>&1); then
  echo "error: this system lets root make no network namespace: $message" >&2
  exit 2
fi

folder=$(mktemp -d)
# shellcheck disable=SC2317,SC2329  # called by the trap
tear_down() {
  for host in a b; do
    ip netns pids "$prefix-$host" 2> /dev/null | xargs --no-run-if-empty kill -KILL || true
    ip netns delete "$prefix-$host" 2> /dev/null || true # and its end of the cable
    rm -rf "/etc/netns/$prefix-$host"
  done
  rm -rf "$folder"
}
trap tear_down EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

ip netns add "$prefix-b"
ip -netns "$prefix-a" link add cable type veth peer name cable netns "$prefix-b"
address=1
for host in a b; do
  ip -netns "$prefix-$host" address add "10.77.0.$address/24" dev cable
  ip -netns "$prefix-$host" link set lo up
  ip -netns "$prefix-$host" link set cable up
  # ip netns exec shows this to its command as /etc/hosts.
  mkdir -p "/etc/netns/$prefix-$host"
  printf '127.0.0.1 localhost\n10.77.0.1 host-a\n10.77.0.2 host-b\n' > "/etc/netns/$prefix-$host/hosts"
  address=$((address + 1))
done

export ON_HOST=$folder/on_host
cat > "$ON_HOST" << END
#!/bin/sh
host=\$1
shift
exec ip netns exec "$prefix-\$host" unshare --uts sh -c 'hostname "\$0" && exec "\$@"' "host-\$host" "\$@"
END
chmod +x "$ON_HOST"

code=0
"$@" || code=$?
exit "$code"
