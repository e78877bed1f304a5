#!/usr/bin/env bash
# Runs every test; arguments go to cargo test, as in `--test crash`. The last line is exactly `N passed, N failed`.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# The recorded rooms are not part of the repository; the tests that play them look here.
recordings=${BARRAGE_RECORDINGS:-$root/../shared/data/callbacks}
if [ -d "$recordings" ]; then
  BARRAGE_RECORDINGS=$(cd "$recordings" && pwd)
  export BARRAGE_RECORDINGS
else
  unset BARRAGE_RECORDINGS
  note "there is no $recordings: recorded rooms are not compared with (set BARRAGE_RECORDINGS to the folder)"
fi

output=$(mktemp "${TMPDIR:-/tmp}/barrage-test.XXXXXX")
# What tests say of what they leave out is swallowed where they pass, so they also write it here.
BARRAGE_SKIPPED=$(mktemp "${TMPDIR:-/tmp}/barrage-skipped.XXXXXX")
export BARRAGE_SKIPPED
trap 'rm -f "$output" "$BARRAGE_SKIPPED"' EXIT

status=0
cargo test --release --locked --workspace --no-fail-fast "$@" </dev/null 2>&1 | tee "$output" || status=$?

# A test binary that could not be built or that died prints no result line: it counts as one failure.
totals=$(awk '
  /^test result: / { for (i = 2; i <= NF; i++) { if ($i == "passed;") p += $(i - 1); if ($i == "failed;") f += $(i - 1) } }
  END { printf "%d %d", p, f }' "$output")
passed=${totals% *}
failed=${totals#* }
if [ "$status" -ne 0 ] && [ "$failed" -eq 0 ]; then failed=1; fi
if [ "$failed" -gt 0 ] && [ "$status" -eq 0 ]; then status=1; fi
sort -u "$BARRAGE_SKIPPED"
echo "$passed passed, $failed failed"
exit "$status"
