#!/bin/sh
# Regenerates src/contract/gen from src/contract/proto. Needs protoc (Debian: protobuf-compiler); the plugin comes with
# the development dependencies. The output is committed, so only who changes a .proto file needs this.
#   scripts/generate-proto.sh [name...]     default: every .proto file
set -eu
cd "$(dirname "$0")/.."
command -v protoc >/dev/null || { echo 'protoc is missing: apt-get install protobuf-compiler' >&2; exit 1; }
if [ $# -eq 0 ]; then
  set -- src/contract/proto/*.proto
else
  for name in "$@"; do
    shift
    set -- "$@" "src/contract/proto/${name%.proto}.proto"
  done
fi
mkdir -p src/contract/gen
# The repository's own Node runs the plugin.
PATH="$PWD/node_modules/.bin:$PATH" protoc \
  --plugin=protoc-gen-es=node_modules/.bin/protoc-gen-es \
  --es_out=src/contract/gen \
  --es_opt=target=ts,import_extension=ts,erasable_syntax=true \
  --proto_path=src/contract/proto \
  "$@"
