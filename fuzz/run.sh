#!/usr/bin/env bash
# Runs fuzz targets and shows what each did as a row of a table: `bash fuzz/run.sh [--jobs N] SECONDS [TARGET...]`, SECONDS for each
# target, without names all of them, N at a time (2). Exit code 1 when there is a finding; its input is in fuzz/artifacts.
#
# Needs cargo-fuzz (`cargo install cargo-fuzz`) and a C++ compiler. What is found to be new goes to `found` in the target directory,
# not into the committed corpora: `bash fuzz/minimise.sh` does that.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
export RUSTC_BOOTSTRAP=1 # libFuzzer's instrumentation is an unstable option of the stable compiler

usage="usage: bash fuzz/run.sh [--jobs N] SECONDS [TARGET...]"
at_once=2
if [ "${1:-}" = --jobs ]; then
  at_once=${2:?$usage}
  shift 2
fi
seconds=${1:?$usage}
shift
for number in "$at_once" "$seconds"; do
  [[ $number =~ ^[1-9][0-9]*$ ]] || { echo "$usage" >&2; exit 2; }
done
. ./targets.sh

cargo fuzz build
built=$(cd "${CARGO_TARGET_DIR:-target}" && pwd)
programs=$built/$(rustc -vV | sed -n 's/^host: //p')/release
found=$built/found
scratch=$(mktemp -d -p "$built")  # beside the programs: a link is enough
memory=$(mktemp -d -p /dev/shm 2> /dev/null || mktemp -d) # files that targets write
trap 'rm -rf "$scratch" "$memory"' EXIT
trap 'kill $(jobs -rp) 2> /dev/null || true; exit 130' INT TERM

# Programs as they are now: a build beside a long run does not change what runs.
for target in "${targets[@]}"; do
  ln "$programs/$target" "$scratch/$target" 2> /dev/null || cp "$programs/$target" "$scratch/$target"
done

# field NAME LOG: the last value after NAME.
field() { sed -nE "s/.*$1:? *([0-9]+).*/\1/p" "$2" | tail -n 1; }

row() { printf '%-16s %12s %8s %7s %7s %7s %7s  %s\n' "$@"; }

# Stories of buffers say what they have to say in fewer bytes, and a byte costs more there. Those of connections have runs, which stand
# for frames of several blocks.
longest() { case $1 in link_buffer) echo 512 ;; *) echo 1024 ;; esac; }

one() {
  local target=$1 log=$found/$1.log status=0 findings=none
  mkdir -p "$found/$target" "artifacts/$target"
  TMPDIR=$memory ASAN_OPTIONS=detect_odr_violation=0:quarantine_size_mb=16:malloc_context_size=8 "$scratch/$target" \
    -artifact_prefix="$PWD/artifacts/$target/" -max_total_time="$seconds" -max_len="$(longest "$target")" \
    -timeout=10 -rss_limit_mb=2048 -print_funcs=0 -print_final_stats=1 "$found/$target" "corpus/$target" \
    > "$log" 2>&1 &
  trap "kill $! 2> /dev/null || true; exit 130" TERM
  wait "$!" || status=$?
  if [ "$status" -ne 0 ]; then
    findings=$(grep -aE 'panicked at|ERROR: ' "$log" | head -n 1 || true)
    findings="${findings:-exit code $status} ($log)"
    touch "$scratch/failed"
  fi
  row "$target" "$(field number_of_executed_units "$log")" "$(field average_exec_per_sec "$log")" "$(field ' cov' "$log")" \
    "$(field ' ft' "$log")" "$(field ' corp' "$log")" "$(field peak_rss_mb "$log")" "$findings"
}

row target executions exec/s cov ft inputs MiB findings
for target in "${targets[@]}"; do
  while [ "$(jobs -rp | wc -l)" -ge "$at_once" ]; do
    wait -n || true
  done
  one "$target" &
done
wait
[ ! -e "$scratch/failed" ]
