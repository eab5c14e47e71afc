#!/usr/bin/env bash
# Model checks: runs the real code under loom (every order of a few threads) and shuttle (many random orders of larger things).
#
#   bash tests/models.sh             the models as they are, then once for each bug in the table below with that bug put back
#   bash tests/models.sh clean       the first half alone
#   bash tests/models.sh B17 B32-*   the second half, for these bugs
#
# A model is a test in a module `model` beside the code it runs. It says how many executions it explored. With a bug put back exactly
# the models that stand beside it in the table must fail: one that fails is as much of an error as one that does not. shuttle does not
# take every order: a model with a question mark may fail; one of a row must.
#
# Longer runs: LOOM_MAX_PREEMPTIONS (default 3) and MODEL_SCHEDULES (shuttle's, default 100,000).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# bug        checker  crate          the models that find it
BUGS="
B01          loom     rpc-transport  pool_handover pool_slices
B06          loom     rpc-transport  slab_late_events
B13          loom     rpc-transport  sleep_cancel
B16-inbox    loom     rpc-transport  inbox_close
B16-reply    loom     rpc-core       reply_undelivered
B17          loom     rpc-transport  inbox_close
B18-arriving shuttle  rpc-core       shutdown_arrivals
B25          shuttle  rpc-transport  workers_end_within
B32-call     shuttle  rpc-transport  host_called? host_work_left?
B32-host     shuttle  rpc-transport  host_called host_work_left
B32-inbox    loom     rpc-transport  inbox_close inbox_sleep
B32-outbox   loom     rpc-core       outbox_post outbox_remove reply_undelivered
B32-reply    loom     rpc-core       reply_deadline reply_moved
B32-shutdown shuttle  rpc-core       shutdown_arrivals shutdown_requests shutdown_workers
B32-sleep    loom     rpc-transport  sleep_fire
B34          loom     rpc-transport  memory_budget
"

export MODEL_SCHEDULES=${MODEL_SCHEDULES:-100000}
export LOOM_MAX_PREEMPTIONS=${LOOM_MAX_PREEMPTIONS:-3} LOOM_MAX_BRANCHES=${LOOM_MAX_BRANCHES:-100000}
export CARGO_PROFILE_RELEASE_DEBUG=false CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS=true CARGO_TERM_COLOR=never RUST_BACKTRACE=0
target=${CARGO_TARGET_DIR:-$PWD/target}/models
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# models CHECKER CRATE: runs them; what they say goes to $log, and the names of those that failed to the output.
models() {
  local status=0 features=
  if [ "$1 $2" = "shuttle rpc-core" ]; then features=testing; fi # the simulated network
  RUSTFLAGS="--cfg model=\"$1\"" CARGO_TARGET_DIR=$target/$1 \
    cargo test --release -p "$2" --features "$features" --lib -- model:: --show-output > "$log" 2>&1 || status=$?
  grep -q '^test result: ' "$log" || { cat "$log" >&2; return 1; }
  sed -n 's/^test .*::model::\([a-z0-9_]*::\)*\([a-z0-9_]*\) \.\.\. FAILED$/\2/p' "$log" | sort | xargs
}

clean() {
  local checker crate found failed=0
  for checker in loom shuttle; do
    for crate in rpc-transport rpc-core; do
      found=$(models "$checker" "$crate") || return 1
      sed -n "s/^MODEL /$checker: /p" "$log"
      if [ -n "$found" ]; then
        cat "$log"
        echo "FAILED under $checker: $found"
        failed=1
      fi
    done
  done
  return "$failed"
}

# as_expected FOUND EXPECTED
as_expected() {
  local name
  [ -n "$1" ] || return 1
  for name in $1; do
    case " $2 " in *" $name "* | *" $name? "*) ;; *) return 1 ;; esac
  done
  for name in $2; do
    case $name in *\?) ;; *) case " $1 " in *" $name "*) ;; *) return 1 ;; esac ;; esac
  done
}

# The cfg goes to the crates of this workspace alone, by a wrapper of the compiler, so that nothing else is compiled anew.
put_back() {
  local bug=$1 found
  local wrapper=$target/put_back/$bug/rustc
  mkdir -p "${wrapper%/*}"
  printf '#!/bin/sh\nexec "$@" --cfg '\''put_back="%s"'\''\n' "$bug" > "$wrapper"
  chmod +x "$wrapper"
  found=$(RUSTC_WORKSPACE_WRAPPER=$wrapper models "$2" "$3") || return 1
  if as_expected "$found" "$4"; then
    echo "$bug put back: $found"
  else
    cat "$log"
    echo "$bug put back: expected to fail: $4; failed: ${found:-nothing}"
    return 1
  fi
}

known() { awk 'NF { print $1 }' <<< "$BUGS"; }

# matches NAME PATTERN
# shellcheck disable=SC2053
matches() { [[ $1 == $2 ]]; }

wanted=("$@")
failed=0
if [ "$#" -eq 0 ] || [ "$*" = clean ]; then
  clean || failed=1
fi
if [ "$*" != clean ]; then
  [ "$#" -gt 0 ] || wanted=("*")
  for pattern in "${wanted[@]}"; do
    while read -r bug; do if matches "$bug" "$pattern"; then continue 2; fi; done < <(known)
    echo "no bug $pattern; there are: clean, alone, or $(known | xargs)" >&2
    exit 2
  done
  while read -r bug checker crate names; do
    for pattern in "${wanted[@]}"; do
      if [ -n "$bug" ] && matches "$bug" "$pattern"; then
        put_back "$bug" "$checker" "$crate" "$names" || failed=1
        break
      fi
    done
  done <<< "$BUGS"
fi
exit "$failed"
