#!/bin/bash
# Asks this container's own admin port: probe.sh /readyz. Ends with 0 when the answer is 200. Without curl, so that the
# image needs none.
set -euo pipefail
path=${1:-/readyz}
exec 3<>"/dev/tcp/127.0.0.1/${2:-8083}"
printf 'GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n' "$path" >&3
IFS=' ' read -r -t 3 -u 3 _ status _
if [ "$status" != 200 ]; then
  # The body says why; Docker keeps it with the container's health.
  timeout 1 cat <&3 | tail -n +2 | head -c 500 >&2 || true
  exit 1
fi
