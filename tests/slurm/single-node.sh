#!/usr/bin/env bash
# A real single-node SLURM with accounting on this machine, to test what submits jobs where there is no cluster.
# Needs root and Debian's packages: apt-get install -y slurm-wlm slurmdbd munge mariadb-server
# (without slurmdbd there is no sacct, and without sacct submitit, hence Dora, never learns that a job was killed).
# usage: single-node.sh up DIR [GPUS [CPUS]]   start munged, MariaDB, slurmdbd, slurmctld and slurmd, with all that is
#                                              theirs in DIR; then SLURM_CONF=DIR/slurm.conf reaches them
#        single-node.sh down DIR               stop what was started in DIR
# GPUs (2) and CPUs (8) are only declared: SLURM hands them out, whether or not the machine has them.
set -euo pipefail
action=${1:?up or down} root=$(realpath -m "${2:?a folder for the state}") gpus=${3:-2} cpus=${4:-8}
export SLURM_CONF=$root/slurm.conf

down() {
  timeout 10 scancel --user="$(id -un)" 2>/dev/null || true
  local pids; pids=$(cat "$root"/{slurmd,slurmctld,slurmdbd,mariadbd,munged}.pid 2>/dev/null || true)
  for signal in TERM KILL; do  # what has not ended after 3 s is killed: nothing here is kept
    for pid in $pids; do kill -$signal "$pid" 2>/dev/null || true; done
    for ((i = 0; i < 30; i++)); do
      for pid in $pids; do [ -d "/proc/$pid" ] && { sleep 0.1; continue 2; }; done
      break 2
    done
  done
  rm -rf "$root/db"
}

wait_for() {  # wait_for SECONDS COMMAND...: until the command succeeds
  local tries=$(($1 * 5)); shift
  for ((i = 0; i < tries; i++)); do "$@" >/dev/null 2>&1 && return; sleep 0.2; done
  echo "gave up waiting for: $* (logs in $root/log)" >&2; exit 1
}

free_ports() {  # as many as asked for, each free now
  python3 -c "import socket; s = [socket.create_server(('127.0.0.1', 0)) for _ in range($1)]; print(*(x.getsockname()[1] for x in s))"
}

configure() {
  local host db dbd ctld d; host=$(hostname -s); read -r db dbd ctld d < <(free_ports 4)
  echo "$db" > "$root/db.port"
  for ((i = 0; i < gpus; i++)); do touch "$root/gpu$i"; done
  echo "NodeName=$host Name=gpu File=$root/gpu[0-$((gpus - 1))]" > "$root/gres.conf"
  install -m 600 /dev/stdin "$root/slurmdbd.conf" <<CONF
AuthType=auth/munge
AuthInfo=socket=$root/munge.socket
DbdHost=localhost
DbdPort=$dbd
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=$db
StorageUser=slurm
StoragePass=slurm
LogFile=$root/log/slurmdbd.log
PidFile=$root/slurmdbd.pid
CONF
  cat > "$SLURM_CONF" <<CONF
ClusterName=single
SlurmctldHost=$host(127.0.0.1)
AuthType=auth/munge
# cred_expire: seconds that a requeued job waits before it starts again (120 otherwise)
AuthInfo=socket=$root/munge.socket,cred_expire=5
SlurmUser=root
SlurmctldPort=$ctld
SlurmdPort=$d
StateSaveLocation=$root/state
SlurmdSpoolDir=$root/spool
SlurmctldLogFile=$root/log/slurmctld.log
SlurmdLogFile=$root/log/slurmd.log
SlurmctldPidFile=$root/slurmctld.pid
SlurmdPidFile=$root/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=bf_interval=1
SlurmdParameters=config_overrides
KillWait=3
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStoragePort=$dbd
AccountingStoragePass=$root/munge.socket
MpiDefault=none
ReturnToService=2
GresTypes=gpu
NodeName=$host NodeAddr=127.0.0.1 CPUs=$cpus RealMemory=$(free -m | awk '/^Mem/{print int($2 * 0.9)}') Gres=gpu:$gpus State=UNKNOWN
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
}

start_munge() {
  head -c 1024 /dev/urandom | install -m 600 /dev/stdin "$root/munge.key"
  munged --force --key-file="$root/munge.key" --socket="$root/munge.socket" --seed-file="$root/munge.seed" \
    --pid-file="$root/munged.pid" --log-file="$root/log/munged.log" 2>>"$root/log/munged.log"
}

start_mariadb() {
  local sql=(mariadb --no-defaults --socket="$root/db.socket")
  mariadb-install-db --no-defaults --user=root --datadir="$root/db" --auth-root-authentication-method=socket \
    --skip-test-db --innodb-log-file-size=16M >"$root/log/mariadb-install.log" 2>&1
  mariadbd --no-defaults --user=root --datadir="$root/db" --socket="$root/db.socket" --port="$(cat "$root/db.port")" \
    --bind-address=127.0.0.1 --skip-name-resolve --innodb-log-file-size=16M >"$root/log/mariadb.log" 2>&1 &
  echo $! > "$root/mariadbd.pid"
  wait_for 30 "${sql[@]}" -e "select 1"
  "${sql[@]}" -e "grant all on *.* to slurm@'127.0.0.1' identified by 'slurm'"
}

up() {
  mkdir -p "$root"/{state,spool,log,db}
  configure
  start_munge
  start_mariadb
  slurmdbd  # reads slurmdbd.conf beside SLURM_CONF
  wait_for 60 sacctmgr -n show cluster
  slurmctld -f "$SLURM_CONF"
  slurmd -f "$SLURM_CONF"
  wait_for 30 sh -c "sinfo -h -o %T | grep -q idle"
  wait_for 30 sh -c "sacctmgr -n show cluster | grep -q single"
}

"$action"
