#!/usr/bin/env bash
# A throw-away SLURM of two nodes, n0 and n1, on this machine, for as long as a command runs:
#   tests/e2e/slurm/cluster.sh COMMAND [ARGUMENT ...]            for example bash, to try sbatch and scancel by hand
# The command finds the cluster through SLURM_CONF. As root. Everything lies in a temporary folder, the sockets and
# ports are its own, and all of it goes when the command ends. The nodes have one CPU and no GPU each.
# Exit code: the command's; 2 where something is missing.
set -euo pipefail

if ((EUID != 0)); then
  echo "error: cluster.sh starts slurmd, which must be root; this is $(id -un)" >&2
  exit 2
fi
for program in munged slurmctld slurmd sbatch; do
  if ! PATH=$PATH:/usr/sbin command -v "$program" > /dev/null; then
    echo "error: $program is missing; on Debian: apt-get install munge slurmctld slurmd slurm-client" >&2
    exit 2
  fi
done
PATH=$PATH:/usr/sbin

folder=$(mktemp -d)
chmod 755 "$folder" # munged wants its socket within everyone's reach
daemons=()
# shellcheck disable=SC2317,SC2329  # called by the trap
tear_down() {
  scancel --user "$(id -un)" 2> /dev/null || true
  for _ in {1..60}; do # jobs end within KillWait
    if [[ -z $(squeue --noheader 2> /dev/null) ]]; then break; fi
    sleep 0.5
  done
  # In this order: the nodes still have to reach the controller, and both of them munge.
  for daemon in "${daemons[@]}"; do
    kill "$daemon" 2> /dev/null || true
    wait "$daemon" || true
  done
  rm -rf "$folder"
}
trap tear_down EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

base=$((10000 + $$ % 20000)) # below the ports that Linux gives to clients
export SLURM_CONF=$folder/slurm.conf
cat > "$SLURM_CONF" << END
ClusterName=throwaway
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmUser=root
SlurmctldPort=$base
# A requeued job waits for as long as its old credential would be good: 120 s otherwise.
AuthInfo=socket=$folder/munge.socket,cred_expire=5
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool-%n
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd-%n.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
MessageTimeout=60
ReturnToService=2
NodeName=n0 NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 Port=$((base + 1)) CPUs=1
NodeName=n1 NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 Port=$((base + 2)) CPUs=1
PartitionName=main Nodes=n0,n1 Default=YES MaxTime=INFINITE State=UP
END
mkdir "$folder"/{state,spool-n0,spool-n1}
(umask 077 && head -c 1024 /dev/urandom > "$folder/munge.key")

munged --foreground --key-file "$folder/munge.key" --socket "$folder/munge.socket" --pid-file "$folder/munged.pid" \
  --log-file "$folder/munged.log" --seed-file "$folder/munge.seed" 2> "$folder/munged.err" &
daemons=($!)
for _ in {1..50}; do
  if [[ -S $folder/munge.socket ]]; then break; fi
  sleep 0.1
done
slurmctld -D -c 2> "$folder/slurmctld.err" &
daemons=($! "${daemons[@]}")
for node in n0 n1; do
  slurmd -D -N "$node" 2> "$folder/slurmd-$node.err" &
  daemons=($! "${daemons[@]}")
done
for _ in {1..60}; do
  if [[ $(sinfo --noheader --format %T 2> /dev/null) == idle ]]; then ready=true && break; fi
  sleep 0.5
done
if [[ -z ${ready:-} ]]; then
  echo "error: the nodes were not idle after 30 s; the daemons' messages:" >&2
  tail -n 20 "$folder"/*.err "$folder"/*.log >&2
  exit 1
fi

code=0
"$@" || code=$?
exit "$code"
