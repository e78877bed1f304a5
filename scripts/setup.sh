#!/usr/bin/env bash
# Installs what is missing to build and to test Barrage, and says what and why. Does nothing when nothing is missing.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

missing=()
want() { # package, reason
  missing+=("$1")
  note "missing: $1 ($2)"
}

have_libclang() {
  if [ -n "${LIBCLANG_PATH:-}" ]; then return 0; fi
  local found
  for found in /usr/lib/llvm-*/lib/libclang*.so* /usr/lib/*-linux-gnu/libclang*.so* /usr/lib64/libclang*.so* \
    /usr/lib/libclang*.so* /usr/lib64/llvm*/lib/libclang*.so* /opt/homebrew/opt/llvm/lib/libclang.dylib \
    /usr/local/opt/llvm/lib/libclang.dylib /Library/Developer/CommandLineTools/usr/lib/libclang.dylib; do
    # libclang-cpp is another library, which comes with Mesa's drivers on machines without the compiler.
    case $found in */libclang-cpp*) continue ;; esac
    if [ -e "$found" ]; then return 0; fi
  done
  return 1
}

# A compiler that runs but finds no headers is the usual half-installed state, so the check compiles something.
have_cxx() {
  command -v c++ >/dev/null 2>&1 || command -v g++ >/dev/null 2>&1 || return 1
  printf '#include <atomic>\nint main() { return 0; }\n' | "${CXX:-c++}" -x c++ -fsyntax-only - >/dev/null 2>&1
}

have_header() { # header
  printf '#include <%s>\n' "$1" | "${CC:-cc}" -x c -fsyntax-only - >/dev/null 2>&1
}

# Kafka 4 needs Java 17. `1.8.0` begins with a 1.
have_java() {
  command -v java >/dev/null 2>&1 || return 1
  local version
  version=$(java -version 2>&1 | sed -n 's/^[a-z]* version "\([0-9]*\).*/\1/p' | head -n 1)
  [ "${version:-0}" -ge 17 ]
}

# The package that brings it: what the distribution calls its default, unless that is older, as on Ubuntu 22.04 and Debian 11.
java_package() {
  local candidate version
  candidate=$(apt-cache policy default-jre-headless | sed -n 's/^ *Candidate: *//p')
  if [ "${candidate:-(none)}" != "(none)" ] && dpkg --compare-versions "$candidate" ge 2:1.17; then
    echo default-jre-headless
    return
  fi
  for version in 17 21 25; do
    candidate=$(apt-cache policy "openjdk-$version-jre-headless" | sed -n 's/^ *Candidate: *//p')
    if [ "${candidate:-(none)}" != "(none)" ]; then
      echo "openjdk-$version-jre-headless"
      return
    fi
  done
  die "no package of this system brings Java 17, which Kafka needs: install one yourself and run again"
}

have_cxx || want g++ "compiles RocksDB, the store of the numbers, which is C++"
have_libclang || want libclang-dev "reads RocksDB's header to make its Rust bindings"
command -v cmake >/dev/null 2>&1 || want cmake "builds librdkafka, the Kafka client, which is C"
command -v make >/dev/null 2>&1 || want make "builds librdkafka, driven by cmake"
command -v pkg-config >/dev/null 2>&1 || want pkg-config "finds the libraries that librdkafka uses"
have_header openssl/ssl.h || want libssl-dev "encrypts and authenticates connections to Kafka"
have_header zlib.h || want zlib1g-dev "reads records that other Kafka clients compressed with gzip"
have_header curl/curl.h || want libcurl4-openssl-dev "has a header that librdkafka reads even where it is built without curl"
have_java || want default-jre-headless "Java 17, which runs the real Kafka broker of the tests and of make kafka"
command -v mvn >/dev/null 2>&1 || want maven "fetches that broker, with checksums checked"
if ! command -v cargo >/dev/null 2>&1; then
  command -v curl >/dev/null 2>&1 || want curl "fetches rustup, the installer of Rust"
  [ -e /etc/ssl/certs/ca-certificates.crt ] || [ "$(uname)" = Darwin ] ||
    [ -e /etc/pki/tls/certs/ca-bundle.crt ] || want ca-certificates "checks whom Rust and the crates come from"
fi

if [ "${#missing[@]}" -gt 0 ]; then
  command -v apt-get >/dev/null 2>&1 ||
    die "this system has no apt-get; install the equivalents of these yourself and run again: ${missing[*]}"
  as_root=()
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null 2>&1 || die "to install them run as root: apt-get install ${missing[*]}"
    as_root=(sudo)
  fi
  "${as_root[@]}" apt-get update -q </dev/null
  # Only after the update is it known what there is.
  for i in "${!missing[@]}"; do
    if [ "${missing[$i]}" = default-jre-headless ]; then missing[i]=$(java_package); fi
  done
  say "installing with apt-get: ${missing[*]}"
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
    "${missing[@]}" </dev/null
  # Somebody may have chosen an older one by hand (update-alternatives, PATH).
  have_java || note "the java on the PATH is older than 17 still: tests with Kafka will fail until the newer one comes first"
fi

if ! command -v cargo >/dev/null 2>&1; then
  say "installing rustup: Rust's installer; the version that rust-toolchain.toml names is fetched next"
  curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs </dev/null |
    sh -s -- -y --no-modify-path --profile minimal --default-toolchain none
  PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
fi

# rustup fetches the pinned toolchain when it is first used; a cargo without rustup must be new enough itself.
channel=$(sed -n 's/^channel = "\(.*\)"/\1/p' rust-toolchain.toml)
if command -v rustup >/dev/null 2>&1; then
  if ! rustup run "$channel" rustc --version >/dev/null 2>&1; then
    say "installing Rust $channel, the version this repository is built and tested with"
    rustup toolchain install "$channel" --profile minimal --component rustfmt --component clippy --no-self-update
  fi
else
  found=$(rustc --version | awk '{ print $2 }')
  oldest=$(printf '%s\n%s\n' "$channel" "$found" | sort -V | head -n 1)
  [ "$oldest" = "$channel" ] || die "Rust $found is too old: $channel is needed; install rustup or a newer Rust"
fi

if ! cargo fetch --locked --quiet --offline >/dev/null 2>&1; then
  say "fetching the crates that Cargo.lock names"
  cargo fetch --locked
fi
