#!/usr/bin/env bash
# Generates and compiles IDL that others wrote: the .proto files of a Python wheel and of three crates, as they are.
#
# They are fetched by pip and cargo into a temporary directory that is removed at the end; nothing of them is kept here.
# Needs pip, python3 and a registry that cargo can reach; no protoc. For each set the generated code is a module of one crate that
# is compiled under clippy, rustdoc and the doc tests with all warnings denied, missing documentation among them.
#
#   RPC_CORE=<directory>   compile against another rpc-core than the one of this checkout
#   KEEP=1                 leave the temporary directory there and print its name
set -uo pipefail

here=$(cd "$(dirname "$0")" && pwd)
rpc_core=${RPC_CORE:-$here/../../rpc-core}
work=$(mktemp -d)
if [ -n "${KEEP:-}" ]; then echo "working in $work"; else trap 'rm -rf "$work"' EXIT; fi
target=${CARGO_TARGET_DIR:-$here/../../target}
export CARGO_TARGET_DIR=$target

cargo build --quiet --manifest-path "$here/../Cargo.toml" || { echo "0 passed, 1 failed"; exit 1; }
generator=$target/debug/rpc-codegen

# Where the sets come from.
mkdir -p "$work/wheel" "$work/crates/src" "$work/check/src"
pip download --quiet --disable-pip-version-check --no-deps --dest "$work" googleapis-common-protos \
  && python3 -m zipfile -e "$work"/googleapis_common_protos-*.whl "$work/wheel"
cat > "$work/crates/Cargo.toml" <<'TOML'
[package]
name = "crates"
version = "0.0.0"
edition = "2021"
[dependencies]
containerd-client = "*"
etcd-client = "*"
opentelemetry-proto = "*"
[workspace]
TOML
touch "$work/crates/src/lib.rs"
(cd "$work/crates" && cargo vendor --quiet vendor > /dev/null)
vendor=$work/crates/vendor

passed=0
failed=0

# Generates the .proto files below directory $2 as module $1, without those that match $3; the other arguments are include directories.
generate() {
  local set=$1 root=$2 without=$3
  shift 3
  local files includes=() count warnings
  files=$(cd "$root" 2> /dev/null && find . -name '*.proto' ! -path "$without" | sed 's|^\./||' | LC_ALL=C sort)
  count=$(printf '%s' "$files" | grep -c .)
  for directory in . "$@"; do includes+=(-I "$directory"); done
  if [ "$count" -eq 0 ]; then
    echo "$set: no .proto files were fetched: FAILED"
    failed=$((failed + 1))
    return
  fi
  # shellcheck disable=SC2086 # the files are words: none has a blank in its name
  if (cd "$root" && PROTOC=/nonexistent "$generator" gen "${includes[@]}" --out "$work/check/src/$set.rs" $files) 2> "$work/$set.log"; then
    warnings=$(grep -c 'streaming is not supported' "$work/$set.log")
    sets+=("$set")
    lines["$set"]="$count files, $(grep -cE "prost::(Message|Enumeration|Oneof)" "$work/check/src/$set.rs") types, $(grep -cE '^ *pub trait ' "$work/check/src/$set.rs") services, $warnings streaming methods left out"
  else
    echo "$set: $count files: FAILED to generate"
    cat "$work/$set.log"
    failed=$((failed + 1))
  fi
}

# Compiles the module of set $1 alone.
compile() {
  local set=$1
  cat > "$work/check/Cargo.toml" <<TOML
[package]
name = "check"
version = "0.0.0"
edition = "2024"
[dependencies]
rpc-core = { path = "$rpc_core" }
[workspace]
TOML
  cat > "$work/check/src/lib.rs" <<RUST
//! Code generated from the IDL of others.
#![deny(warnings, missing_docs)]
/// The set.
pub mod idl { include!("$set.rs"); }
RUST
  cat > "$work/check/src/main.rs" <<RUST
//! The same in a module that nobody else sees, none of it used.
#![deny(warnings)]
mod idl { include!("$set.rs"); }
fn main() {}
RUST
  (cd "$work/check" && cargo clippy --quiet --all-targets && RUSTDOCFLAGS="-D warnings" cargo doc --quiet --lib --no-deps && cargo test --quiet --doc) > "$work/$set.log" 2>&1
}

sets=()
declare -A lines
generate googleapis_common_protos "$work/wheel" ''
generate etcd_client "$vendor/etcd-client/proto" ''
generate containerd_client "$vendor/containerd-client/vendor" '*/containerd/vendor/*'
# A second copy of the same files lies inside the first: one set would define everything twice.
generate containerd_client_vendored "$vendor/containerd-client/vendor/github.com/containerd/containerd/vendor" '' "$vendor/containerd-client/vendor"
generate opentelemetry_proto "$vendor/opentelemetry-proto/src/proto" '' opentelemetry-proto

for set in "${sets[@]}"; do
  if compile "$set"; then
    echo "$set: ${lines[$set]}: compiled"
    passed=$((passed + 1))
  else
    echo "$set: ${lines[$set]}: FAILED to compile"
    cat "$work/$set.log"
    failed=$((failed + 1))
  fi
done

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
