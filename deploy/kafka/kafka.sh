#!/usr/bin/env bash
# A real Kafka on this machine, without Docker: one node or several, on 127.0.0.1 only.
#
#   kafka.sh start  [--nodes N] [--dir DIR] [--port P]   starts what does not run; waits until all nodes answer
#   kafka.sh stop   [--dir DIR]                          stops exactly the nodes of that directory
#   kafka.sh status [--dir DIR]                          one line a node; fails when one does not answer
#
# Node 1 listens on P, node 2 on P + 1, and so on; controllers 100 above. `--ports A,B,…` names them all instead, those of
# the clients first. `--via LISTEN:TOLD,…` makes node 1 listen on further ports and tell clients there to come to others
# instead, where a proxy stands before it. `start --node I` starts only that one again, with the data and ports it had. The
# data outlives a stop: delete the directory to begin anew. `start --properties FILE` gives a single new node these settings
# too, which win over its own: another listener with TLS and SASL, say.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)

note() { printf '   %s\n' "$*" >&2; }
say() { if [ -t 2 ]; then printf '\033[1m== %s\033[0m\n' "$*" >&2; else printf '== %s\n' "$*" >&2; fi; }
die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}
usage() {
  sed -n '2,14s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
  exit 2
}

command=${1:-}
[ $# -gt 0 ] && shift
nodes=
port=9092
ports=
via=
only=
properties=
dir=$root/data/kafka
while [ $# -gt 0 ]; do
  [ $# -ge 2 ] || usage
  case "$1" in
    --nodes) nodes=$2 ;;
    --port) port=$2 ;;
    --ports) ports=$2 ;;
    --via) via=$2 ;;
    --node) only=$2 ;;
    --properties) properties=$2 ;;
    --dir) dir=$2 ;;
    *) usage ;;
  esac
  shift 2
done
case "$nodes$port$only" in *[!0-9]*) usage ;; esac

# The command line of a process; nothing when there is none. Slim images have no ps, and other systems than Linux no /proc.
command_line() { # pid
  if [ -r /proc/self/cmdline ]; then
    tr '\0' ' ' 2>/dev/null <"/proc/$1/cmdline"
  else
    ps -o args= -p "$1" 2>/dev/null
  fi
}

# The process of a node, if it runs. A pid file may be older than the last boot, so the command line must name the node.
running() { # node
  local pid
  pid=$(cat "$dir/node-$1/pid" 2>/dev/null) || return 1
  [ -n "$pid" ] || return 1
  case "$(command_line "$pid")" in
    *"$dir/node-$1/server.properties"*) printf '%s' "$pid" ;;
    *) return 1 ;;
  esac
}

setting() { # node, name
  # The last one wins, as it does for Kafka.
  sed -n "s/^$2=//p" "$dir/node-$1/server.properties" | tail -n 1
}

client_port() { # node
  setting "$1" advertised.listeners | sed 's/.*CLIENT:[^:]*:\([0-9]*\).*/\1/'
}

known_nodes() {
  local file
  for file in "$dir"/node-*/server.properties; do
    [ -e "$file" ] || continue
    file=${file%/server.properties}
    echo "${file##*/node-}"
  done | sort -n
}

# How many live brokers a node knows: a Metadata request (version 1, no topics), and the count at the start of its answer.
# The port listens before the node can do anything, so an open port proves nothing.
brokers_known_to() { # port
  (
    exec 3<>"/dev/tcp/127.0.0.1/$1" || exit 1
    printf '\0\0\0\016\0\003\0\001\0\0\0\001\377\377\0\0\0\0' >&3
    timeout 2 head -c 12 <&3 | od -An -tu1 | awk 'NF == 12 { print $9 * 16777216 + $10 * 65536 + $11 * 256 + $12 }'
  ) 2>/dev/null
}

version=$(sed -n 's/.*<kafka.version>\(.*\)<.*/\1/p' "$here/pom.xml")
jars=${BARRAGE_CACHE:-$HOME/.cache/barrage}/kafka/$version

resolve() {
  [ -d "$jars" ] && return
  command -v mvn >/dev/null 2>&1 || die "Maven is missing; it fetches Kafka's jars: run scripts/setup.sh"
  say "fetching Kafka $version with Maven, about 125 MB, once; it is kept in $jars"
  mkdir -p "$(dirname "$jars")"
  local fresh
  fresh=$(mktemp -d "$jars.XXXXXX")
  # -C: a checksum that does not fit is an error, not a warning.
  mvn -q -B -C -Dstyle.color=never -f "$here/pom.xml" dependency:copy-dependencies "-DoutputDirectory=$fresh" </dev/null >&2 || {
    rm -rf "$fresh"
    die "Maven could not fetch Kafka; its reason stands above"
  }
  # Whoever was faster has made the same.
  mv -T "$fresh" "$jars" 2>/dev/null || rm -rf "$fresh"
}

configure() { # node
  local home=$dir/node-$1
  mkdir -p "$home"
  sed -e "s|@NODE@|$1|" -e "s|@VOTERS@|$voters|" -e "s|@DATA@|$home/data|" \
    -e "s|@CLIENT_PORT@|${list[$(($1 - 1))]}|" -e "s|@CONTROLLER_PORT@|${list[$((nodes + $1 - 1))]}|" \
    -e "s|@REPLICATION@|$replication|" -e "s|@MIN_ISR@|$min_isr|" \
    -e "s|@BROKER_SESSION@|$broker_session|" "$here/server.properties.in" >"$home/server.properties"
  [ -z "$properties" ] || cat "$properties" >>"$home/server.properties"
  [ "$1" -eq 1 ] && [ -n "$via" ] || return 0
  local each doors=() number=0 listen='' told='' map=''
  IFS=, read -r -a doors <<<"$via"
  for each in "${doors[@]}"; do
    number=$((number + 1))
    listen+=",VIA$number://127.0.0.1:${each%:*}"
    told+=",VIA$number://127.0.0.1:${each#*:}"
    map+=",VIA$number:PLAINTEXT"
  done
  sed -i -e "s|^listeners=.*|&$listen|" -e "s|^advertised.listeners=.*|&$told|" \
    -e "s|^listener.security.protocol.map=.*|&$map|" "$home/server.properties"
}

format() { # node
  [ -e "$dir/node-$1/data/meta.properties" ] && return
  java -Xmx128m -XX:+UseSerialGC -cp "$here:$jars/*" kafka.tools.StorageTool format \
    -t "$(cat "$dir/cluster.id")" -c "$dir/node-$1/server.properties" >"$dir/node-$1/format.log" 2>&1 || {
    cat "$dir/node-$1/format.log" >&2
    die "the data directory of node $1 could not be formatted"
  }
}

launch() { # node
  local home=$dir/node-$1 detach=
  # A Ctrl-C in the terminal that started it is not meant for the broker.
  command -v setsid >/dev/null 2>&1 && detach=setsid
  $detach java -Xmx512m -Xms256m -XX:+UseSerialGC -Djava.awt.headless=true \
    "-Dlog4j2.configurationFile=$here/log4j2.yaml" -cp "$jars/*" \
    kafka.Kafka "$home/server.properties" </dev/null >>"$home/kafka.log" 2>&1 &
  echo $! >"$home/pid"
}

await() { # node, live brokers that it must know
  local known tries
  for tries in $(seq 600); do
    known=$(brokers_known_to "$(client_port "$1")" || true)
    if [ -n "$known" ] && [ "$known" -ge "$2" ]; then return; fi
    if ! running "$1" >/dev/null && [ "$tries" -gt 5 ]; then
      tail -n 20 "$dir/node-$1/kafka.log" >&2
      die "node $1 did not start; its log is $dir/node-$1/kafka.log"
    fi
    sleep 0.1
  done
  die "node $1 does not answer after a minute; its log is $dir/node-$1/kafka.log"
}

start() {
  command -v java >/dev/null 2>&1 || die "Java is missing; Kafka runs on it: run scripts/setup.sh"
  resolve
  mkdir -p "$dir"
  dir=$(cd "$dir" && pwd)
  local made node fresh=()
  made=$(known_nodes | wc -l)
  if [ "$made" -gt 0 ]; then
    [ -z "$nodes" ] || [ "$nodes" -eq "$made" ] ||
      die "$dir holds a Kafka of $made node(s), not $nodes: stop it and delete the directory, or use another (--dir)"
    nodes=$made
  else
    nodes=${nodes:-1}
    [ "$nodes" -ge 1 ] || usage
    [ -z "$properties" ] || [ "$nodes" -eq 1 ] || die "--properties is for a single node"
    replication=$((nodes < 3 ? nodes : 3))
    min_isr=$((replication > 2 ? 2 : 1))
    broker_session=$((nodes > 1 ? 3000 : 6000))
    local list=() voters='' i
    if [ -n "$ports" ]; then
      IFS=, read -r -a list <<<"$ports"
      [ "${#list[@]}" -eq $((2 * nodes)) ] || die "--ports needs $((2 * nodes)) ports: one for clients and one for the controller of each node"
    else
      for i in $(seq 0 $((nodes - 1))); do list+=($((port + i))); done
      for i in $(seq 0 $((nodes - 1))); do list+=($((port + 100 + i))); done
    fi
    for i in $(seq "$nodes"); do voters+=",$i@127.0.0.1:${list[$((nodes + i - 1))]}"; done
    voters=${voters#,}
    # Kafka's form of an id: 16 random bytes, base64 for addresses. It must not look like an option.
    echo "A$(head -c 16 /dev/urandom | base64 | tr '+/' '-_' | cut -c 2-22)" >"$dir/cluster.id"
    for node in $(seq "$nodes"); do configure "$node"; done
    local formatting=()
    for node in $(seq "$nodes"); do
      format "$node" &
      formatting+=($!)
    done
    for node in "${formatting[@]}"; do wait "$node"; done
  fi
  for node in $(known_nodes); do
    [ -z "$only" ] || [ "$node" -eq "$only" ] || continue
    if running "$node" >/dev/null; then
      note "node $node runs already on 127.0.0.1:$(client_port "$node")"
      continue
    fi
    # Something else on the port would answer in the broker's place. A node that was killed holds it a moment longer.
    for _ in $(seq 50); do
      (exec 3<>"/dev/tcp/127.0.0.1/$(client_port "$node")") 2>/dev/null || break
      sleep 0.1
    done
    if (exec 3<>"/dev/tcp/127.0.0.1/$(client_port "$node")") 2>/dev/null; then
      die "port $(client_port "$node") is taken by another program: stop that, or choose another with --port"
    fi
    launch "$node"
    fresh+=("$node")
  done
  if [ -n "$only" ]; then
    await "$only" 1
  else
    for node in $(known_nodes); do await "$node" "$nodes"; done
  fi
  local brokers=
  for node in $(known_nodes); do brokers+=",127.0.0.1:$(client_port "$node")"; done
  if [ "${#fresh[@]}" -gt 0 ]; then say "Kafka $version: started node(s) ${fresh[*]}; the data is in $dir"; fi
  note "brokers: ${brokers#,}"
}

stop() {
  dir=$(cd "$dir" 2>/dev/null && pwd) || { note "nothing runs: there is no such directory"; return; }
  local node pid stopping=()
  for node in $(known_nodes); do
    if pid=$(running "$node"); then
      # A node that was halted could not hear the request to end.
      kill -CONT "$pid" 2>/dev/null || true
      kill -TERM "$pid" 2>/dev/null || true
      stopping+=("$node:$pid")
    fi
    rm -f "$dir/node-$node/pid"
  done
  [ "${#stopping[@]}" -gt 0 ] || { note "nothing runs in $dir"; return; }
  local each tries
  for each in "${stopping[@]}"; do
    pid=${each#*:}
    for tries in $(seq 150); do
      kill -0 "$pid" 2>/dev/null || break
      # The last controllers of several wait for a majority that is gone; the log is safe without it.
      [ "$tries" -lt 150 ] || kill -KILL "$pid" 2>/dev/null || true
      sleep 0.1
    done
    say "stopped node ${each%:*}"
  done
  note "the data stays in $dir"
}

status() {
  dir=$(cd "$dir" 2>/dev/null && pwd) || die "there is no Kafka in this directory"
  local node pid known bad=0
  for node in $(known_nodes); do
    if ! pid=$(running "$node"); then
      echo "node $node: stopped"
      bad=1
    elif known=$(brokers_known_to "$(client_port "$node")") && [ -n "$known" ]; then
      echo "node $node: 127.0.0.1:$(client_port "$node"), pid $pid, knows $known live node(s)"
    else
      echo "node $node: pid $pid does not answer on 127.0.0.1:$(client_port "$node")"
      bad=1
    fi
  done
  return "$bad"
}

case "$command" in
  start) start ;;
  stop) stop ;;
  status) status ;;
  *) usage ;;
esac
