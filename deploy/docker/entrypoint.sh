#!/bin/bash
# Starts barrage as process 1, so that it gets the stop signal itself. A variable whose name ends in _FILE names a file
# that holds the value, which is how secrets are mounted: BARRAGE_API_KEY_FILE, BARRAGE_INGEST_TOKEN_FILE,
# BARRAGE_INGEST_PREVIOUS_TOKEN_FILE.
set -euo pipefail

for variable in BARRAGE_API_KEY BARRAGE_INGEST_TOKEN BARRAGE_INGEST_PREVIOUS_TOKEN; do
  from=${variable}_FILE
  path=${!from:-}
  # Barrage would take it for a key of its configuration.
  unset "$from"
  if [ -z "$path" ]; then continue; fi
  if [ ! -r "$path" ]; then
    echo "error: $from names $path, which cannot be read by user $(id -u)" >&2
    exit 3
  fi
  value=$(<"$path")
  if [ -z "$value" ]; then
    # No previous token is the usual state; an empty key would be refused with less to go by.
    if [ "$variable" = BARRAGE_INGEST_PREVIOUS_TOKEN ]; then continue; fi
    echo "error: $from names $path, which is empty" >&2
    exit 3
  fi
  export "$variable=$value"
done

exec barrage "$@"
