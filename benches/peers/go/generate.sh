#!/usr/bin/env bash
# Generates kitex_gen from the IDL of all peers by Kitex's own tool; no protoc.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
# The tool, on versions of Go that are younger than it, wants what the linker forbids.
export GOFLAGS="${GOFLAGS:-} -ldflags=-checklinkname=0"
idl=$(mktemp -d)
trap 'rm -rf "$idl"' EXIT
sed 's|^package echo;|&\noption go_package = "peers/kitex_gen/echo";|' ../idl/echo.proto > "$idl/echo.proto"
go tool kitex \
  -type protobuf -module peers -no-dependency-check -I "$idl" "$idl/echo.proto"
