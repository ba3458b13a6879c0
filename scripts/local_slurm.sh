#!/usr/bin/env bash
# A throw-away Slurm of two nodes on this machine's loopback, for tests: no systemd, no cgroups, no accounting.
#   local_slurm.sh install      install Debian's packages where they are missing (root)
#   local_slurm.sh start        start it; nothing to do where it runs
#   local_slurm.sh env          print what a client needs: eval "$(local_slurm.sh env)"
#   local_slurm.sh run COMMAND  run a command on one of its own, in a folder that stays where the command fails
#   local_slurm.sh stop         cancel its jobs and end its daemons
#   local_slurm.sh purge        stop it and delete its folder
# Variables: LOCAL_SLURM (its folder, but for run), LOCAL_SLURM_GRACE (seconds that a preempted job has left),
# LOCAL_SLURM_KILL_WAIT (seconds from SIGTERM to SIGKILL).
set -euo pipefail
umask 022
PATH=$PATH:/usr/sbin:/sbin
# Not below TMPDIR: the path of munge's socket has to be short.
FOLDER=${LOCAL_SLURM:-/tmp/local-slurm-$UID}
if [ "${1:-}" = run ]; then FOLDER=$(mktemp -d /tmp/local-slurm-XXXXXX); fi
GRACE=${LOCAL_SLURM_GRACE:-0}
KILL_WAIT=${LOCAL_SLURM_KILL_WAIT:-5}
PROGRAMS=(munged slurmctld slurmd sbatch)
export SLURM_CONF=$FOLDER/slurm.conf

fail() {
    printf 'error: local_slurm.sh: %s\nhint: %s\n' "$1" "$2" >&2
    exit 1
}

install() {
    type "${PROGRAMS[@]}" >/dev/null 2>&1 && return
    type apt-get >/dev/null 2>&1 || fail "no Slurm, and no apt-get to install it" "install Slurm and munge: ${PROGRAMS[*]}"
    [ "$UID" = 0 ] || fail "no Slurm, and no right to install it" "as root: apt-get install slurmctld slurmd slurm-client munge"
    local log
    log=$(mktemp)
    if ! { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        slurmctld slurmd slurm-client munge; } >"$log" 2>&1; then
        fail "apt-get could not install Slurm: $(grep -m1 '^E:' "$log" || tail -n1 "$log")" "see $log"
    fi
    rm "$log"
}

# Whether the process of a pid file lives, and is still the program that the file is named after.
lives() {
    local pid name=${1##*/}
    name=${name%%[-.]*}
    pid=$(cat "$1" 2>/dev/null) && [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "$name" ]
}

listens() { (: <"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# The first of three neighbouring ports on which nothing listens, below those that clients get.
free_port() {
    local port
    while port=$((20000 + RANDOM % 12000)); do
        listens "$port" || listens $((port + 1)) || listens $((port + 2)) || break
    done
    echo "$port"
}

configure() {
    local port host=${HOSTNAME%%.*}
    port=$(free_port)
    mkdir -p "$FOLDER"/{state,spool,log,run}
    [ -s "$FOLDER/key" ] || (umask 077 && head -c 1024 /dev/urandom >"$FOLDER/key")
    # Nothing may listen beyond loopback; the intervals make a scheduler of minutes one of seconds.
    cat >"$SLURM_CONF" <<CONF
ClusterName=local_slurm
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthInfo=socket=$FOLDER/run/munge
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation=$FOLDER/state
SlurmdSpoolDir=$FOLDER/spool/%n
SlurmctldPidFile=$FOLDER/run/slurmctld.pid
SlurmdPidFile=$FOLDER/run/slurmd-%n.pid
SlurmctldLogFile=$FOLDER/log/slurmctld.log
SlurmdLogFile=$FOLDER/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1,sched_min_interval=0
KillWait=$KILL_WAIT
MinJobAge=3600
ReturnToService=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=n[1-2] NodeHostname=$host NodeAddr=127.0.0.1 Port=[$((port + 1))-$((port + 2))] CPUs=2 RealMemory=4000
PartitionName=main Nodes=ALL Default=YES DefaultTime=5 PriorityTier=1 GraceTime=$GRACE
PartitionName=kept Nodes=ALL DefaultTime=5 PriorityTier=1 PreemptMode=OFF
PartitionName=urgent Nodes=ALL DefaultTime=5 PriorityTier=10 PreemptMode=OFF
CONF
    printf 'CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n' >"$FOLDER/cgroup.conf"
}

start() {
    lives "$FOLDER/run/slurmctld.pid" && return
    type "${PROGRAMS[@]}" >/dev/null 2>&1 || fail "no Slurm here" "scripts/local_slurm.sh install"
    configure
    rm -f "$FOLDER"/run/munge*
    munged --force --key-file="$FOLDER/key" --socket="$FOLDER/run/munge" --pid-file="$FOLDER/run/munged.pid" \
        --log-file="$FOLDER/log/munged.log" --seed-file="$FOLDER/run/munge.seed" 2>>"$FOLDER/log/munged.log"
    slurmctld
    slurmd -N n1
    slurmd -N n2
    for _ in {1..100}; do
        [ "$(sinfo -h -N -p main -t idle,mix,alloc -o %N 2>/dev/null | wc -l)" = 2 ] && return
        sleep 0.1
    done
    fail "its nodes did not come up within 10 s" "see $FOLDER/log"
}

stop() {
    if lives "$FOLDER/run/slurmctld.pid"; then
        scancel --full --user="$(id -un)" || true
        for ((i = 0; i < 10 * (KILL_WAIT + 5); i++)); do
            [ -z "$(squeue -h)" ] && break
            sleep 0.1
        done
    fi
    local file pid
    for file in "$FOLDER"/run/{slurmd-n1,slurmd-n2,slurmctld,munged}.pid; do
        if lives "$file"; then
            pid=$(cat "$file")
            kill "$pid"
            for _ in {1..100}; do [ -e "/proc/$pid" ] && sleep 0.1; done
            lives "$file" && kill -KILL "$pid"
        fi
        rm -f "$file"
    done
}

purge() {
    stop
    rm -rf "$FOLDER"/{state,spool,log,run,key,slurm.conf,cgroup.conf}  # and nothing else that lies there
    [ ! -d "$FOLDER" ] || rmdir "$FOLDER"
}

case ${1:-} in
    install | start | stop | purge) "$1" ;;
    env) printf 'export SLURM_CONF=%q\n' "$SLURM_CONF" ;;
    run)
        trap stop EXIT
        start
        "${@:2}"
        purge
        ;;
    *) sed -n '2,10s/^# //p' "$0" >&2 && exit 2 ;;
esac
