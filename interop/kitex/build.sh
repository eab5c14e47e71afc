#!/usr/bin/env bash
# Generates kitex_gen from idl/testee.proto and idl/hello.proto by Kitex's own tool, without protoc, and builds: `build.sh DIRECTORY` makes
# DIRECTORY/kitex-v0.15, DIRECTORY/kitex-v0.11 (old.mod has the versions of the second) and DIRECTORY/hello.
set -euo pipefail
into=$(realpath -m "$1")
cd "$(dirname "${BASH_SOURCE[0]}")"
# Kitex, on a Go that is younger than it, wants what the linker forbids by default.
export GOFLAGS="${GOFLAGS:-} -ldflags=-checklinkname=0"
idl=$(mktemp -d)
trap 'rm -rf "$idl"' EXIT
for name in testee hello; do
  if [ "../../idl/$name.proto" -nt "kitex_gen/$name/$name.pb.go" ]; then
    # Kitex's tool wants to know the Go package; a .proto of your own says so itself.
    sed "s|^package $name;|&\noption go_package = \"interop/kitex_gen/$name\";|" "../../idl/$name.proto" > "$idl/$name.proto"
    go tool kitex -type protobuf -module interop -no-dependency-check -I "$idl" "$idl/$name.proto"
  fi
done
mkdir -p "$into"
go build -o "$into/kitex-v0.15" .
go build -modfile old.mod -o "$into/kitex-v0.11" .
go build -o "$into/hello" ./hello
