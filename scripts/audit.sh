#!/usr/bin/env bash
# Audits the dependencies without a network: Cargo.lock is current, every source is the one registry, every licence is
# on the list below, crates that must exist once do. Known vulnerabilities need a database that is not here.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# Licences that Apache-2.0 code may be shipped with, without conditions beyond naming them.
allowed=" MIT MIT-0 Apache-2.0 Apache-2.0_WITH_LLVM-exception BSD-1-Clause BSD-2-Clause BSD-3-Clause ISC Zlib 0BSD
 Unlicense CC0-1.0 BSL-1.0 Unicode-3.0 Unicode-DFS-2016 "
# Two versions of one of these in a process are two runtimes, two registries or two formats.
single="tokio hyper http prost prometheus-client tracing-core serde rocksdb"
failures=0
fail() {
  printf 'audit: %s\n' "$*" >&2
  failures=$((failures + 1))
}

cargo metadata --locked --offline --format-version 1 >/dev/null 2>&1 ||
  fail "Cargo.lock does not fit the manifests, or crates are not fetched: run cargo fetch"

# Every package outside the workspace has a source; a path dependency outside it would have none and no member.
members=$(cargo tree --workspace --locked --offline --depth 0 --prefix none --format '{p}' | awk 'NF { print $1 }' | sort -u)
while read -r name source; do
  case "$source" in
    registry+*) ;;
    none) grep -qx "$name" <<<"$members" || fail "$name comes from a path outside the workspace" ;;
    *) fail "$name comes from $source, not from the registry" ;;
  esac
done < <(awk '
  function flush() { if (name != "") print name, (source == "" ? "none" : source) }
  /^\[\[package\]\]/ { flush(); name = ""; source = "" }
  /^name = /   { gsub(/"/, "", $3); name = $3 }
  /^source = / { gsub(/"/, "", $3); source = $3 }
  END { flush() }' Cargo.lock)
registries=$(sed -n 's/^source = "\(registry+[^"]*\)"/\1/p' Cargo.lock | sort -u | wc -l)
[ "$registries" -le 1 ] || fail "packages come from $registries registries"

# An SPDX expression becomes arithmetic: a licence on the list is 1, another 0.
licence_allowed() {
  local expression word sum=
  expression=${1//\// OR }
  expression=${expression// WITH /_WITH_}
  expression=${expression//(/ ( }
  expression=${expression//)/ ) }
  for word in $expression; do
    case "$word" in
      AND) sum="$sum&&" ;;
      OR) sum="$sum||" ;;
      "(" | ")") sum="$sum$word" ;;
      *) case "$allowed" in *[[:space:]]"$word"[[:space:]]*) sum="${sum}1" ;; *) sum="${sum}0" ;; esac ;;
    esac
  done
  [ -n "$sum" ] && [ "$((sum))" -eq 1 ]
}
packages=0
while IFS='|' read -r package licence; do
  [ -n "$package" ] || continue
  packages=$((packages + 1))
  licence_allowed "$licence" || fail "$package has the licence '$licence', which is not on the list"
done < <(cargo tree --workspace --locked --offline --prefix none --no-dedupe -e normal,build --format '{p}|{l}' | sort -u)

for name in $single; do
  versions=$(awk -v want="$name" '
    /^name = / { gsub(/"/, "", $3); name = $3 }
    /^version = / && name == want { gsub(/"/, "", $3); print $3 }' Cargo.lock | sort -u | tr '\n' ' ')
  [ "$(wc -w <<<"$versions")" -le 1 ] || fail "$name is there in several versions: $versions"
done
doubled=$(awk '/^name = / { gsub(/"/, "", $3); n[$3]++ } END { for (k in n) if (n[k] > 1) printf "%s ", k }' Cargo.lock)

note "$packages packages; licences, sources and single versions checked; advisories are not (they need a network)"
[ -z "$doubled" ] || note "in several versions, harmless: $doubled"
[ "$failures" -eq 0 ] || exit 1
