#!/usr/bin/env bash
# A real SLURM on loopback for the tests: controller, two nodes with fake GPUs, accounting.  As root, without systemd.
#   tests/slurm/cluster.sh up | node N | down     state in $SLURM_ROOT (a short path: it holds sockets)
# Debian: apt-get install slurm-wlm munge slurmdbd mariadb-server
set -euo pipefail
ROOT=$(realpath -m "${SLURM_ROOT:-/tmp/ncpipe-slurm}"); NODES=2; CPUS=${CPUS:-1}; GPUS=2; MEMORY=12000
export SLURM_CONF=$ROOT/etc/slurm.conf
HOST=$(hostname -s)

alive() { [ -s "$1" ] && kill -0 "$(cat "$1")" 2>/dev/null; }
wait_for() {  # seconds, command
  local end=$((SECONDS + $1)); shift
  while [ $SECONDS -le $end ]; do timeout 5 "$@" >/dev/null 2>&1 && return 0; sleep .2; done
  echo "timeout: $*" >&2; return 1
}
sql() { mariadb --no-defaults -S "$ROOT/run/mysql.sock" -e "$1"; }

configure() {
  mkdir -p "$ROOT"/{etc,run,log,state,spool/n1,spool/n2,munge,dev} /etc/slurm
  chmod 711 "$ROOT/munge"
  [ -s "$ROOT/munge/key" ] || { head -c 1024 /dev/urandom > "$ROOT/munge/key"; chmod 400 "$ROOT/munge/key"; }
  # A GPU needs a device file; a null device will do.
  for i in $(seq 0 $((GPUS - 1))); do [ -e "$ROOT/dev/gpu$i" ] || mknod "$ROOT/dev/gpu$i" c 1 3; done
  echo "NodeName=n[1-$NODES] Name=gpu File=$ROOT/dev/gpu[0-$((GPUS - 1))]" > "$ROOT/etc/gres.conf"
  echo "CgroupAutomount=no" > "$ROOT/etc/cgroup.conf"
  cat > "$SLURM_CONF" <<C
ClusterName=test
SlurmctldHost=$HOST(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$ROOT/munge/sock
CredType=cred/munge
SlurmctldPort=16817
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny,block_null_hash
SlurmctldPidFile=$ROOT/run/slurmctld.pid
SlurmdPidFile=$ROOT/run/slurmd.%n.pid
SlurmctldLogFile=$ROOT/log/slurmctld.log
SlurmdLogFile=$ROOT/log/slurmd.%n.log
StateSaveLocation=$ROOT/state
SlurmdSpoolDir=$ROOT/spool/%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
MpiDefault=none
ReturnToService=2
SchedulerParameters=bf_interval=2,sched_interval=2,sched_min_interval=200000
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=500
SlurmdParameters=config_overrides
SlurmdTimeout=20
KillWait=5
MinJobAge=300
GresTypes=gpu
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=16819
AccountingStoragePass=$ROOT/munge/sock
AccountingStorageTRES=gres/gpu
$(for i in $(seq $NODES); do
    echo "NodeName=n$i NodeHostname=$HOST NodeAddr=127.0.0.1 Port=$((17000 + i)) CPUs=$CPUS RealMemory=$MEMORY Gres=gpu:$GPUS"
  done)
PartitionName=main Nodes=n[1-$NODES] Default=YES MaxTime=1440 DefaultTime=10 State=UP
C
  cat > "$ROOT/etc/slurmdbd.conf" <<C
AuthType=auth/munge
AuthInfo=socket=$ROOT/munge/sock
DbdHost=$HOST
DbdAddr=127.0.0.1
DbdPort=16819
CommunicationParameters=NoInAddrAny
SlurmUser=root
LogFile=$ROOT/log/slurmdbd.log
PidFile=$ROOT/run/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct
C
  chmod 600 "$ROOT/etc/slurmdbd.conf"
  # The plugin's job step drops SLURM_CONF, so the configuration must also be where SLURM looks by default.
  for file in slurm.conf cgroup.conf gres.conf; do ln -sfn "$ROOT/etc/$file" "/etc/slurm/$file"; done
}

start_accounting() {
  [ -d "$ROOT/mysql/mysql" ] || mariadb-install-db --no-defaults --user=root --datadir="$ROOT/mysql" \
    --auth-root-authentication-method=socket --skip-test-db > "$ROOT/log/install-db.log" 2>&1
  alive "$ROOT/run/mariadb.pid" || mariadbd --no-defaults --user=root --datadir="$ROOT/mysql" --skip-networking \
    --socket="$ROOT/run/mysql.sock" --pid-file="$ROOT/run/mariadb.pid" --innodb-lock-wait-timeout=900 \
    --innodb-buffer-pool-size=64M --log-error="$ROOT/log/mariadb.log" < /dev/null > /dev/null 2>&1 &
  wait_for 60 mariadb-admin --no-defaults -S "$ROOT/run/mysql.sock" ping
  sql "create database if not exists slurm_acct; create user if not exists slurm@localhost identified by 'slurm';
       grant all on slurm_acct.* to slurm@localhost"
  alive "$ROOT/run/slurmdbd.pid" || MYSQL_UNIX_PORT=$ROOT/run/mysql.sock slurmdbd < /dev/null > /dev/null 2>&1
  wait_for 60 sacctmgr -n -i show cluster
  [ -n "$(sacctmgr -nP show cluster test format=cluster)" ] || sacctmgr -i add cluster test > /dev/null
  [ -n "$(sacctmgr -nP show account lab format=account)" ] ||
    sacctmgr -i add account lab Cluster=test Description=lab Organization=lab > /dev/null
  sacctmgr -nP show user root WithAssoc format=user,account | grep -q '|lab$' ||
    sacctmgr -i add user root Account=lab DefaultAccount=lab > /dev/null
}

start_controller() {
  alive "$ROOT/run/slurmctld.pid" || slurmctld < /dev/null > /dev/null 2>&1
  wait_for 30 scontrol ping
}

start_node() {
  alive "$ROOT/run/slurmd.n$1.pid" || slurmd -N "n$1" < /dev/null > /dev/null 2>&1
  wait_for 60 bash -c "sinfo -hN -n n$1 -o %T | grep -qE '^(idle|mixed|allocated)$'"
}

stop() {
  [ -s "$1" ] || return 0
  local pid; pid=$(cat "$1")
  kill "$pid" 2>/dev/null || true
  for _ in $(seq 50); do kill -0 "$pid" 2>/dev/null || break; sleep .1; done
  kill -9 "$pid" 2>/dev/null || true
  rm -f "$1"
}

case ${1:-} in
  up)
    configure
    alive "$ROOT/munge/pid" || munged --force --key-file="$ROOT/munge/key" --socket="$ROOT/munge/sock" \
      --pid-file="$ROOT/munge/pid" --log-file="$ROOT/munge/log" --seed-file="$ROOT/munge/seed" 2> "$ROOT/log/munged.err"
    wait_for 20 munge -n -S "$ROOT/munge/sock"
    start_accounting
    start_controller
    for i in $(seq $NODES); do start_node "$i"; done
    ;;
  controller) start_controller ;;
  node) start_node "$2" ;;
  down)
    if alive "$ROOT/run/slurmctld.pid"; then  # nothing of a job outlives the cluster
      timeout 10 scancel --user=root || true
      wait_for 30 bash -c '[ -z "$(squeue -h)" ]' || true
    fi
    for file in "$ROOT"/run/slurmd.*.pid "$ROOT"/run/{slurmctld,slurmdbd,mariadb}.pid "$ROOT/munge/pid"; do stop "$file"; done
    for file in slurm.conf cgroup.conf gres.conf; do
      [ "$(readlink "/etc/slurm/$file")" != "$ROOT/etc/$file" ] || rm -f "/etc/slurm/$file"
    done
    rm -rf "$ROOT"
    ;;
  *) sed -n 2,4p "$0" | cut -c3- >&2; exit 2 ;;
esac
