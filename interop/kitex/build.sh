#!/usr/bin/env bash
# Generates kitex_gen from idl/testee.proto by Kitex's own tool, without protoc, and builds: `build.sh DIRECTORY` makes
# DIRECTORY/kitex-v0.15 and DIRECTORY/kitex-v0.11 (old.mod has the versions of the second).
set -euo pipefail
into=$(realpath -m "$1")
cd "$(dirname "${BASH_SOURCE[0]}")"
# Kitex, on a Go that is younger than it, wants what the linker forbids by default.
export GOFLAGS="${GOFLAGS:-} -ldflags=-checklinkname=0"
if [ ../../idl/testee.proto -nt kitex_gen/testee/testee.pb.go ]; then
  idl=$(mktemp -d)
  trap 'rm -rf "$idl"' EXIT
  sed 's|^package testee;|&\noption go_package = "interop/kitex_gen/testee";|' ../../idl/testee.proto > "$idl/testee.proto"
  go tool kitex -type protobuf -module interop -no-dependency-check -I "$idl" "$idl/testee.proto"
fi
mkdir -p "$into"
go build -o "$into/kitex-v0.15" .
go build -modfile old.mod -o "$into/kitex-v0.11" .
