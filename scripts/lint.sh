#!/usr/bin/env bash
# Format, clippy, documentation and dependencies; a warning is an error.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

say "format"
cargo fmt --all --check

# The release profile, so that RocksDB and the other dependencies are built once for run, test and lint.
say "clippy"
cargo clippy --release --locked --workspace --all-targets -- -D warnings

say "documentation"
RUSTDOCFLAGS="-D warnings" cargo doc --release --locked --workspace --no-deps --quiet

say "dependencies"
scripts/audit.sh

say "scripts"
for script in scripts/*.sh deploy/*/*.sh .ci/run; do bash -n "$script"; done
if command -v shellcheck >/dev/null 2>&1; then
  shellcheck -x scripts/*.sh deploy/*/*.sh .ci/run
else
  note "shellcheck is not installed: scripts were only parsed"
fi

# With the tools that are there; what is skipped is said.
scripts/check-deploy.sh
