# For `run.sh` and `minimise.sh`, which source it here: the targets that were named, or all of them, as the array `targets`.
known=()
for program in fuzz_targets/*.rs; do
  known+=("$(basename "$program" .rs)")
done
for target in "$@"; do
  [[ " ${known[*]} " == *" $target "* ]] || { echo "no target $target; there are: ${known[*]}" >&2; exit 2; }
done
targets=("$@")
[ "$#" -gt 0 ] || targets=("${known[@]}")
