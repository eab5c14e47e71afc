#!/usr/bin/env bash
# Runs fuzz targets and shows what they did as a table: `bash fuzz/run.sh SECONDS [TARGET...]`, SECONDS for each target, without names
# all of them. Two at a time (`JOBS=n` for another number). Exit code 1 when there is a finding; its input is in fuzz/artifacts.
#
# Needs cargo-fuzz (`cargo install cargo-fuzz`) and a C++ compiler. What is found to be new goes to fuzz/target/found, not into the
# committed corpora: `bash fuzz/minimise.sh` does that.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
export RUSTC_BOOTSTRAP=1 # libFuzzer's instrumentation is an unstable option of the stable compiler

seconds=${1:?seconds for each target}
shift
targets=("$@")
if [ "${#targets[@]}" -eq 0 ]; then
  for program in fuzz_targets/*.rs; do
    targets+=("$(basename "$program" .rs)")
  done
fi

cargo fuzz build
found=${CARGO_TARGET_DIR:-target}/found
mkdir -p "$found" artifacts
found=$(cd "$found" && pwd)

one() {
  local target=$1
  mkdir -p "$found/$target" "artifacts/$target"
  if cargo fuzz run "$target" "$found/$target" "corpus/$target" -- \
    -max_total_time="$seconds" -max_len=1024 -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
    > "$found/$target.log" 2>&1; then
    : > "$found/$target.ok"
  else
    rm -f "$found/$target.ok"
  fi
}

for target in "${targets[@]}"; do
  while [ "$(jobs -rp | wc -l)" -ge "${JOBS:-2}" ]; do
    wait -n || true
  done
  one "$target" &
done
wait

# field NAME LOG: the last value after NAME.
field() { sed -nE "s/.*$1:? *([0-9]+).*/\1/p" "$2" | tail -n 1; }

failed=0
printf '%-16s %12s %8s %7s %7s %7s  %s\n' target executions exec/s cov ft inputs findings
for target in "${targets[@]}"; do
  log=$found/$target.log
  findings=none
  if [ ! -e "$found/$target.ok" ]; then
    findings=$(grep -aE 'panicked at|ERROR: ' "$log" | head -n 1 || true)
    findings="${findings:-see} ($log)"
    failed=1
  fi
  printf '%-16s %12s %8s %7s %7s %7s  %s\n' "$target" "$(field number_of_executed_units "$log")" \
    "$(field average_exec_per_sec "$log")" "$(field ' cov' "$log")" "$(field ' ft' "$log")" "$(field ' corp' "$log")" "$findings"
done
exit "$failed"
