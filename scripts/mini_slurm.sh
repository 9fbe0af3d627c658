#!/usr/bin/env bash
# A real SLURM on this one machine, for tests: a controller and two virtual nodes, no accounting, no systemd.
#
#   scripts/mini_slurm.sh install          Debian packages (root)
#   scripts/mini_slurm.sh start DIR        everything it needs and writes lies in DIR
#   eval "$(scripts/mini_slurm.sh env DIR)"  SLURM_CONF and the client commands for this shell
#   scripts/mini_slurm.sh stop DIR
#
# Needs neither root nor cgroups; jobs run as whoever starts it. Memory is policed by polling (OverMemoryKill).
set -euo pipefail
export PATH=$PATH:/usr/sbin:/sbin

NODES=2
CPUS_PER_NODE=4       # virtual: may exceed the machine
MEMORY_PER_NODE=12000 # MB, virtual too
PORT=${MINI_SLURM_PORT:-17817}

say() { echo "mini_slurm: $*" >&2; }
fail() { say "$*"; exit 1; }

# wait_for SECONDS WHAT COMMAND...: until the command succeeds
wait_for() {
    local deadline=$((SECONDS + $1)) what=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$deadline" ] || fail "$what did not come up; logs are in $DIR/log"
        sleep 0.2
    done
}

install_packages() {
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends munge slurmctld slurmd slurm-client slurm-wlm-basic-plugins
}

# The daemons bind to the address that the host name resolves to, so that address is used everywhere.
host_address() { getent ahostsv4 "$(hostname -s)" | awk 'NR == 1 {print $1}'; }

write_config() {
    local host address node
    host=$(hostname -s)
    address=$(host_address)
    [ -n "$address" ] || fail "the host name $host does not resolve; add '127.0.0.1 $host' to /etc/hosts"
    mkdir -p "$DIR"/{bin,log,run,state,munge}
    chmod 711 "$DIR/munge"
    [ -s "$DIR/munge/key" ] || (umask 077 && head -c 128 /dev/urandom >"$DIR/munge/key")
    cat >"$DIR/slurm.conf" <<CONF
ClusterName=mini
SlurmctldHost=$host($address)
SlurmctldPort=$PORT
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$DIR/munge/socket
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation=$DIR/state
SlurmdSpoolDir=$DIR/spool/%n
SlurmctldPidFile=$DIR/run/slurmctld.pid
SlurmdPidFile=$DIR/run/slurmd.%n.pid
SlurmctldLogFile=$DIR/log/slurmctld.log
SlurmdLogFile=$DIR/log/slurmd.%n.log
SlurmdParameters=config_overrides
MailProg=/bin/true
MpiDefault=none
SwitchType=switch/none
TaskPlugin=task/none
ProctrackType=proctrack/linuxproc
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherParams=OverMemoryKill
JobAcctGatherFrequency=task=1
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=sched_interval=1,batch_sched_delay=0
DefMemPerCPU=500
KillWait=2
ReturnToService=2
MinJobAge=3600
CONF
    for node in $(seq "$NODES"); do
        echo "NodeName=n$node NodeHostname=$host NodeAddr=$address Port=$((PORT + node))" \
            "CPUs=$CPUS_PER_NODE RealMemory=$MEMORY_PER_NODE State=UNKNOWN" >>"$DIR/slurm.conf"
    done
    echo "PartitionName=cpu Nodes=n[1-$NODES] Default=YES MaxTime=720 DefaultTime=5 State=UP" >>"$DIR/slurm.conf"
}

# Snakemake's job step drops every SLURM_* variable before it calls srun, SLURM_CONF too; these wrappers set it again.
write_clients() {
    local client
    for client in srun sbatch squeue scancel sinfo scontrol; do
        printf '#!/bin/sh\nSLURM_CONF=%q exec /usr/bin/%s "$@"\n' "$DIR/slurm.conf" "$client" >"$DIR/bin/$client"
        chmod 755 "$DIR/bin/$client"
    done
}

idle_nodes() { [ "$(sinfo --noheader --Node --states idle --format %N | sort -u | wc -l)" -eq "$NODES" ]; }
munge_answers() { munge -S "$DIR/munge/socket" -n | unmunge -S "$DIR/munge/socket"; }
controller_answers() { scontrol ping | grep -q UP; }

start() {
    command -v munged slurmctld slurmd >/dev/null || fail "SLURM is not installed: scripts/mini_slurm.sh install"
    write_config
    write_clients
    export SLURM_CONF=$DIR/slurm.conf
    munged --force --key-file="$DIR/munge/key" --socket="$DIR/munge/socket" --pid-file="$DIR/run/munged.pid" \
        --log-file="$DIR/log/munged.log" --seed-file="$DIR/munge/seed" 2>>"$DIR/log/start.log"
    wait_for 20 munged munge_answers
    (cd "$DIR/run" && slurmctld -f "$SLURM_CONF" >>"$DIR/log/start.log" 2>&1)
    wait_for 30 slurmctld controller_answers
    local node
    for node in $(seq "$NODES"); do
        mkdir -p "$DIR/spool/n$node"
        (cd "$DIR/run" && slurmd -f "$SLURM_CONF" -N "n$node" >>"$DIR/log/start.log" 2>&1)
    done
    wait_for 30 "idle nodes" idle_nodes
    say "up, $NODES virtual nodes"
}

stop() {
    local file pid
    SLURM_CONF=$DIR/slurm.conf timeout 10 scancel --user "$(id -un)" 2>/dev/null || true
    for file in "$DIR"/run/slurmd.*.pid "$DIR"/run/slurmctld.pid "$DIR"/run/munged.pid; do
        [ -s "$file" ] || continue
        pid=$(cat "$file")
        kill "$pid" 2>/dev/null || continue
        for _ in $(seq 50); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
        kill -9 "$pid" 2>/dev/null || true
    done
    say stopped
}

[ $# -ge 1 ] || { sed -n '2,9p' "$0"; exit 2; }
if [ "$1" = install ]; then install_packages; exit; fi
[ $# -eq 2 ] || fail "say where: $0 $1 DIR"
mkdir -p "$2"
DIR=$(cd "$2" && pwd)
case $1 in
    start) start ;;
    stop) stop ;;
    env) echo "export SLURM_CONF='$DIR/slurm.conf' PATH='$DIR/bin':\"\$PATH\"" ;;
    *) fail "unknown word '$1'; the words are install, start, env, stop" ;;
esac
