#!/bin/sh
# Generates src/contract/gen/node_pb.{js,d.ts} from src/contract/proto/node.proto. Needs protoc (Debian: protobuf-compiler).
set -eu
cd "$(dirname "$0")/.."
# protoc starts its plugin through `node` on PATH.
PATH="$PWD/node_modules/.bin:$PATH" protoc \
  --plugin=protoc-gen-es=node_modules/.bin/protoc-gen-es \
  --es_out=src/contract/gen \
  --es_opt=target=js+dts \
  --proto_path=src/contract/proto \
  node.proto
