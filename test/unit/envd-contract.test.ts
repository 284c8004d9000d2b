/** The generated contract says on the wire exactly what the published SDK says: names, numbers, types, methods. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import test from 'node:test';
import { type DescEnum, type DescFile, type DescMessage, fromBinary } from '@bufbuild/protobuf';
import { fileDesc } from '@bufbuild/protobuf/codegenv2';
import { base64Decode } from '@bufbuild/protobuf/wire';
import { FileDescriptorProtoSchema, file_google_protobuf_timestamp } from '@bufbuild/protobuf/wkt';
import { file_filesystem } from '../../src/contract/gen/filesystem_pb.ts';
import { file_process } from '../../src/contract/gen/process_pb.ts';
import { GENERATIONS } from '../helpers/generations.ts';

/** The descriptors that a bundle of the SDK carries, by package. */
function descriptorsOf(bundle: string): ReadonlyMap<string, DescFile> {
  const source = readFileSync(new URL(import.meta.resolve(bundle)), 'utf8');
  const files = new Map<string, DescFile>();
  for (const [, text] of source.matchAll(/fileDesc\)?\(\s*"([A-Za-z0-9+/=]+)"/g)) {
    const { package: name } = fromBinary(FileDescriptorProtoSchema, base64Decode(text!));
    files.set(name, fileDesc(text!, [file_google_protobuf_timestamp]));
  }
  return files;
}

function shapeOf(file: DescFile): object {
  const message = (desc: DescMessage): object => ({
    fields: Object.fromEntries(
      desc.fields.map((field) => [
        field.name,
        [
          field.number,
          field.fieldKind,
          field.proto.type,
          field.message?.typeName,
          field.enum?.typeName,
          field.presence,
        ],
      ]),
    ),
    oneofs: desc.oneofs.map(({ name, fields }) => [name, fields.map((field) => field.name).sort()]).sort(),
    nested: named(desc.nestedMessages, message),
  });
  const values = (desc: DescEnum): object => Object.fromEntries(desc.values.map(({ name, number }) => [name, number]));
  return {
    messages: named(file.messages, message),
    enums: named(file.enums, values),
    services: named(file.services, (service) =>
      Object.fromEntries(
        service.methods.map((method) => [
          method.name,
          [method.methodKind, method.input.typeName, method.output.typeName],
        ]),
      ),
    ),
  };
}

function named<T extends { readonly name: string }>(items: readonly T[], of: (item: T) => object): object {
  return Object.fromEntries(items.map((item) => [item.name, of(item)]));
}

for (const { bundle } of GENERATIONS) {
  test(`the contract is that of ${bundle}`, () => {
    const theirs = descriptorsOf(bundle);
    assert.deepEqual([...theirs.keys()].sort(), ['filesystem', 'process']);
    assert.deepEqual(shapeOf(file_process), shapeOf(theirs.get('process')!));
    assert.deepEqual(shapeOf(file_filesystem), shapeOf(theirs.get('filesystem')!));
  });
}
