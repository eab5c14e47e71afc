#!/usr/bin/env bash
# Generates kitex_gen from the IDL of all peers, by Kitex's own tool and without protoc, and builds: `build.sh PROGRAM`.
set -euo pipefail
program=$(realpath -m "$1")
cd "$(dirname "${BASH_SOURCE[0]}")"
# Kitex, on a Go that is younger than it, wants what the linker forbids by default.
export GOFLAGS="${GOFLAGS:-} -ldflags=-checklinkname=0"
if [ ../idl/echo.proto -nt kitex_gen/echo/echo.pb.go ]; then
  idl=$(mktemp -d)
  trap 'rm -rf "$idl"' EXIT
  sed 's|^package echo;|&\noption go_package = "peers/kitex_gen/echo";|' ../idl/echo.proto > "$idl/echo.proto"
  go tool kitex -type protobuf -module peers -no-dependency-check -I "$idl" "$idl/echo.proto"
fi
go build -o "$program" .
