#!/usr/bin/env bash
# Builds the program, with cargo's own progress; arguments are further programs to build, as barrage-bench.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

if ! compgen -G "$target_dir/release/build/librocksdb-sys-*/out/librocksdb.a" >/dev/null; then
  say "building Barrage: the first build compiles RocksDB, 15 to 20 minutes on two cores; later ones take seconds"
  note "compiled files: $target_dir"
else
  say "building Barrage"
fi
# The whole workspace chooses the features, so that make test and make lint find everything built.
cargo build --release --locked --workspace --bin barrage "${@/#/--bin=}"
