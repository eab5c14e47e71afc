#!/usr/bin/env bash
# Puts the most telling inputs that `run.sh` found into the committed corpora: `bash fuzz/minimise.sh [TARGET...]`. What is committed
# stays; the rest is chosen by coverage, the smallest first, up to 80 files of at most 1 KiB.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
export RUSTC_BOOTSTRAP=1

. ./targets.sh
cargo fuzz build
built=$(cd "${CARGO_TARGET_DIR:-target}" && pwd)
programs=$built/$(rustc -vV | sed -n 's/^host: //p')/release
found=$built/found
for target in "${targets[@]}"; do
  chosen=$(mktemp -d)
  cp "corpus/$target"/* "$chosen"
  # libFuzzer merges into the first directory what the others add to its coverage, the smallest inputs first.
  mkdir -p "artifacts/$target"
  ASAN_OPTIONS=detect_odr_violation=0 "$programs/$target" -artifact_prefix="$PWD/artifacts/$target/" \
    -set_cover_merge=1 -max_len=1024 "$chosen" "$found/$target" > /dev/null 2>&1
  room=$((80 - $(find "corpus/$target" -type f | wc -l)))
  for input in $(ls -S -r "$chosen"); do
    if [ "$room" -le 0 ]; then break; fi
    if [ ! -e "corpus/$target/$input" ]; then
      cp "$chosen/$input" "corpus/$target/"
      room=$((room - 1))
    fi
  done
  rm -rf "$chosen"
  echo "$target: $(find "corpus/$target" -type f | wc -l) inputs"
done
