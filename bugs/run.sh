#!/usr/bin/env bash
# Puts bugs back, one at a time, and sees that a test finds each. docs/bugs.md says what they are.
#
#   bash bugs/run.sh             every bug that can be put back: the patches of this directory, and those of tests/models.sh
#   bash bugs/run.sh B04 'B3*'   some of them
#   bash bugs/run.sh check       whether every patch still applies and says what finds it; builds nothing
#
# A patch begins with the bug in words, then a line for each test that finds it:
#
#   found by: ARGUMENTS OF CARGO TEST, the last of which is the test's whole name
#   found by: simulation N       the first N seeds of the simulator
#
# Each of them must succeed without the bug and fail with it, in its own words: one that is not done in LIMIT seconds has found nothing,
# because anything could have kept it so long. So tests wait with limits of their own. All this happens in a copy of the tree with a
# target directory of its own, PUT_BACK (default: put-back in the target directory).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

LIMIT=300
export CARGO_TERM_COLOR=never RUST_BACKTRACE=0 CARGO_INCREMENTAL=0
export CARGO_PROFILE_DEV_DEBUG=${CARGO_PROFILE_DEV_DEBUG:-false} CARGO_PROFILE_RELEASE_DEBUG=false

repository=$PWD
place=${PUT_BACK:-${CARGO_TARGET_DIR:-$PWD/target}/put-back}
mkdir -p "$place"
place=$(cd "$place" && pwd -P)
export GIT_CEILING_DIRECTORIES=$place # the copy is no part of a repository, wherever it lies
log=$(mktemp)
trap 'rm -f "$log"' EXIT
trap 'exit 130' INT TERM

# The wanted ones among the names in the input.
wanted() {
  local name pattern
  while read -r name; do
    for pattern in ${patterns[@]+"${patterns[@]}"}; do
      # shellcheck disable=SC2053
      if [[ $name == $pattern ]]; then echo "$name"; break; fi
    done
  done
}

patches() { for patch in bugs/*.patch; do basename "$patch" .patch; done; }

models() { sed -n 's/^\(B[0-9][^ ]*\) .*/\1/p' tests/models.sh; }

# name FINDER: the test's name, or the simulator and its seeds.
name() { case $1 in simulation*) echo "$1 seeds" ;; *) echo "${1##* }" ;; esac; }

finders() { sed -n 's/^found by: //p' "$repository/bugs/$1.patch"; }

# A fresh copy. Its files are new, so that nothing is left of a run that was interrupted.
copy() {
  rm -rf "$place/tree"
  mkdir -p "$place/tree"
  git ls-files -z --cached --others --exclude-standard | tar -c --null -T - | tar -x -m -C "$place/tree"
}

# What the system's limit of a command's time is called; it ends the command with 124.
limited() {
  if command -v timeout > /dev/null; then timeout -k 5 "$@"; else shift && "$@"; fi
}

# build FINDER: 0 if it compiles.
build() (
  cd "$place/tree"
  export CARGO_TARGET_DIR=$place/target
  case $1 in
    simulation*) cargo build --release -p simulation ;;
    *) read -ra arguments <<< "$1" && cargo test --no-run "${arguments[@]}" ;;
  esac > "$log" 2>&1 < /dev/null
)

# run FINDER: what came of it, in a word.
run() (
  cd "$place/tree"
  export CARGO_TARGET_DIR=$place/target
  status=0
  case $1 in
    simulation*)
      limited "$LIMIT" "$place/target/release/simulation" --seeds "${1#simulation }" > "$log" 2>&1 || status=$?
      case $status in
        0) echo passed ;;
        124 | 137) echo "took too long" ;;
        *) sed -n 's/^VIOLATION \(seed [0-9]*\).*/\1/p' "$log" | grep -m 1 . || echo failed ;;
      esac
      ;;
    *)
      read -ra arguments <<< "$1"
      limited "$LIMIT" cargo test "${arguments[@]}" -- --exact > "$log" 2>&1 || status=$?
      case $status in
        0) if grep -q '^test result: ok. 1 passed' "$log"; then echo passed; else echo "is not there"; fi ;;
        124 | 137) echo "took too long" ;;
        *) echo failed ;;
      esac
      ;;
  esac < /dev/null
)

trouble() {
  sed 's/^/   | /' "$log" | tail -n 60
  echo "$*"
  failed=1
}

check() {
  local bug
  for bug in $(patches); do
    [ -n "$(finders "$bug")" ] || { echo "bugs/$bug.patch does not say what finds it"; failed=1; }
    git apply --check "bugs/$bug.patch" || { echo "bugs/$bug.patch does not apply any more: make it anew"; failed=1; }
  done
  echo "$(patches | wc -l | tr -d ' ') patches apply"
}

# Without a bug each test succeeds.
without() {
  local finder result
  while read -r finder; do
    build "$finder" || { trouble "does not compile: $finder"; return; }
    result=$(run "$finder")
    [ "$result" = passed ] || trouble "without a bug: $finder: $result"
  done < <(for bug in "$@"; do finders "$bug"; done | sort -u)
}

put_back() {
  local bug=$1 finder result begun
  git -C "$place/tree" apply "$repository/bugs/$bug.patch" || { failed=1; return; }
  while read -r finder; do
    if ! build "$finder"; then
      trouble "$bug put back: does not compile: $finder"
      continue
    fi
    begun=$SECONDS
    result=$(run "$finder")
    case $result in
      passed | "is not there" | "took too long") trouble "$bug put back: not found by $finder: $result" ;;
      *) printf '%-9s %-80s %s, %d s\n' "$bug" "$(name "$finder")" "$result" "$((SECONDS - begun))" ;;
    esac
  done < <(finders "$bug")
  git -C "$place/tree" apply -R "$repository/bugs/$bug.patch"
}

failed=0
patterns=("$@")
[ "$#" -gt 0 ] || patterns=("*")
if [ "${1:-}" = check ]; then
  check
  exit "$failed"
fi

known=$({ patches; models; } | sort)
for pattern in "${patterns[@]}"; do
  # shellcheck disable=SC2053
  while read -r name; do if [[ $name == $pattern ]]; then continue 2; fi; done <<< "$known"
  echo "no bug $pattern; there are: check ${known//$'\n'/ }" >&2
  exit 2
done

bugs=$(patches | wanted)
if [ -n "$bugs" ]; then
  copy
  # shellcheck disable=SC2086
  without $bugs
  for bug in $bugs; do put_back "$bug"; done
fi
bugs=$(models | wanted)
if [ -n "$bugs" ]; then
  # shellcheck disable=SC2086
  bash tests/models.sh $bugs || failed=1
fi
exit "$failed"
