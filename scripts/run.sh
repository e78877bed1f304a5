#!/usr/bin/env bash
# Starts Barrage with a data directory of its own, plays a live evening (or FILE) against it, and shows the numbers.
# Afterwards it keeps serving until Ctrl-C; with ONCE=1 it stops at the end.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

barrage=$target_dir/release/barrage
[ -x "$barrage" ] || die "there is no $barrage; run make build first"

data=${DATA:-$root/data/run-$(date +%Y%m%d-%H%M%S)-$$}
mkdir -p "$data"
ready=$data/ready.json
rm -f "$ready"

# The usual ports when they are free, else any: a second `make run` must not fail.
listen=()
for flag in callback:8080 query:8081 admin:8083; do
  port=${flag#*:}
  if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
    note "port $port is taken; another one is used"
    listen+=("--${flag%:*}-listen" "127.0.0.1:0")
  fi
done

server=
player=
stop() {
  trap '' INT TERM
  if [ -n "$player" ]; then
    kill -TERM "$player" 2>/dev/null || true
    wait "$player" 2>/dev/null || true
  fi
  if [ -n "$server" ]; then
    kill -TERM "$server" 2>/dev/null || true
    wait "$server" 2>/dev/null || true
  fi
  echo
  say "stopped; the data is in $data"
  note "look into it: $barrage log --data-dir $data"
  exit "${1:-0}"
}
trap 'stop 0' INT TERM

say "starting barrage run; its log lines are in $data/server.log"
"$barrage" run --data-dir "$data" --ready-file "$ready" "${listen[@]}" >"$data/server.out" 2>"$data/server.log" &
server=$!
for _ in $(seq 600); do
  [ ! -s "$ready" ] || break
  if ! kill -0 "$server" 2>/dev/null; then
    cat "$data/server.log" >&2
    die "barrage run did not start"
  fi
  sleep 0.1
done
[ -s "$ready" ] || die "barrage run is not ready after a minute; see $data/server.log"
cat "$data/server.out"

url() { sed -n "s/.*\"$1\":\"\([^\"]*\)\".*/\1/p" "$ready"; }
callback=$(url callback)
query=$(url query)
common=(--to "$callback" --query "$query" --data-dir "$data" --speed "${SPEED:-20}")
if [ -n "${FILE:-}" ]; then
  # Several files are separated by spaces.
  # shellcheck disable=SC2206
  files=($FILE)
  "$barrage" replay "${files[@]}" "${common[@]}" </dev/null &
else
  "$barrage" simulate --seed "${SEED:-1}" --preset "${PRESET:-default}" "${common[@]}" </dev/null &
fi
player=$!
status=0
wait "$player" || status=$?
player=
if [ -n "${ONCE:-}" ] || [ "$status" -eq 1 ] || [ "$status" -eq 2 ]; then stop "$status"; fi

say "played; the server goes on until Ctrl-C"
note "rooms    $query/v1/rooms"
note "status   $query/v1/status"
note "metrics  $(url admin)/metrics"
wait "$server" || status=$?
server=
stop "$status"
