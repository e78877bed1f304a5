#!/usr/bin/env bash
# Measures Barrage against bare ceilings of the same run; arguments go to the program, as in `--quick`.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

scripts/build.sh barrage-bench
"$target_dir/release/barrage-bench" "$@" </dev/null
