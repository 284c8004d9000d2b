/** Archives are read as they are, to the byte, or refused; never believed. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import { constants, gzipSync, zstdCompressSync } from 'node:zlib';
import fc from 'fast-check';
import { isCoppiceError } from '../../src/contract/errors.ts';
import { decompressed } from '../../src/templates/oci/decompress.ts';
import { collect } from '../../src/templates/oci/digest.ts';
import { readTar } from '../../src/templates/oci/tar-reader.ts';
import { entry, file, folder, hardlink, record, symlink, type TarPart, tar } from '../helpers/tiny-tar.ts';

const refused = (error: unknown) => isCoppiceError(error, 'bad_request');

/** In chunks of a size that no boundary respects. */
async function* chunks(bytes: Buffer, size = 997): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size);
}

async function read(bytes: Buffer, size?: number) {
  const entries = [];
  for await (const { body, ...rest } of readTar(chunks(bytes, size)))
    entries.push({ ...rest, text: (await collect(body, 1e6, 'a body')).toString('latin1') });
  return entries;
}

test('every kind of entry, with its attributes', async () => {
  const capability = Buffer.from([1, 0, 0, 2, 0xff, 0xfe, 0, 0x80]);
  const long = `deep/${'x'.repeat(120)}`;
  const entries = await read(
    tar([
      folder('./etc/', { mode: 0o1777, uid: 3, gid: 4 }),
      file('bin/ping', 'ELF', { mode: 0o4755, xattrs: { 'security.capability': capability }, mtime: 12 }),
      symlink('sh', '../bin/sh'),
      hardlink('ping', 'bin/ping'),
      { path: 'null', type: '3' },
      { path: 'pipe', type: '6' },
      file(long, 'long'),
      file('caf\xe9', 'bytes'),
      file('big', '', { pax: { uid: '3000000', mtime: '1700000000.5' } }),
    ]),
  );
  assert.deepEqual(
    entries.map(({ path, type, mode }) => [path, type, mode]),
    [
      ['./etc/', 'folder', 0o1777],
      ['bin/ping', 'file', 0o4755],
      ['sh', 'symlink', 0o777],
      ['ping', 'hardlink', 0o644],
      ['null', 'device', 0o644],
      ['pipe', 'fifo', 0o644],
      [long, 'file', 0o644],
      ['caf\xe9', 'file', 0o644],
      ['big', 'file', 0o644],
    ],
  );
  assert.deepEqual(entries[1]!.xattrs, new Map([['security.capability', capability]]));
  assert.equal(entries[1]!.mtimeMs, 12_000);
  assert.equal(entries[2]!.target, '../bin/sh');
  assert.equal(entries[8]!.uid, 3_000_000);
  assert.equal(entries[8]!.mtimeMs, 1_700_000_000_500);
});

test('what GNU tar writes, in each of its formats', async () => {
  const root = mkdtempSync(join(tmpdir(), 'coppice-tar-'));
  try {
    const long = 'n'.repeat(150);
    writeFileSync(join(root, long), 'long name');
    writeFileSync(join(root, 'plain'), 'x'.repeat(1_500));
    symlinkSync('t'.repeat(140), join(root, 'link'));
    for (const format of ['gnu', 'pax', 'ustar']) {
      const names = format === 'ustar' ? ['plain'] : [long, 'plain', 'link'];
      const entries = await read(execFileSync('tar', [`--format=${format}`, '-C', root, '-c', ...names]));
      assert.deepEqual(
        entries.map(({ path, text, target }) => [path, text.length, target]),
        format === 'ustar'
          ? [['plain', 1_500, '']]
          : [
              [long, 9, ''],
              ['plain', 1_500, ''],
              ['link', 0, 't'.repeat(140)],
            ],
      );
    }
  } finally {
    rmSync(root, { recursive: true });
  }
});

test('a body that nobody reads is passed over', async () => {
  const paths = [];
  for await (const { path } of readTar(chunks(tar([file('a', 'x'.repeat(5_000)), file('b', 'y')])))) paths.push(path);
  assert.deepEqual(paths, ['a', 'b']);
});

test('what is no whole archive is refused', async () => {
  const whole = tar([file('a', 'x'.repeat(1_000))]);
  const corrupt = Buffer.from(whole);
  corrupt[0] = 0x7a;
  const huge = (part: Partial<TarPart>) => Buffer.concat([entry({ path: 'a', ...part }), Buffer.alloc(1_024)]);
  const negative = entry(file('a'));
  negative[124] = 0xff;
  const cases: [string, Buffer][] = [
    ['within a file', whole.subarray(0, 1_000)],
    ['within a header', whole.subarray(0, 300)],
    ['wrong sum', corrupt],
    ['text', Buffer.from('no archive at all '.repeat(100))],
    ['a body that is not there', huge({ size: 2 ** 32 })],
    ['a pax header without an end', huge({ type: 'x', size: 0o77777777777 })],
    ['a long name without an end', huge({ type: 'L', size: 2 ** 30 })],
    ['sparse', huge({ type: 'S' })],
    ['sparse as pax', tar([file('a', '', { pax: { 'GNU.sparse.major': '1' } })])],
    ['an unknown type', huge({ type: 'Z' })],
    ['a size that is none', tar([file('a', '', { pax: { size: '-1' } })])],
    ['a size that is too large', tar([file('a', '', { pax: { size: '9'.repeat(16) } })])],
    ['an owner that cannot be', tar([file('a', '', { pax: { uid: '4294967295' } })])],
    ['a zero in a name', tar([file('a', '', { pax: { path: 'a\0b' } })])],
    ['a name too long', tar([file('a', '', { pax: { path: 'a'.repeat(5_000) } })])],
    ['headers alone', entry({ path: 'x', type: 'x', body: record('path', 'y') })],
    [
      'headers in a row',
      Buffer.concat(Array.from({ length: 30 }, () => entry({ path: 'x', type: 'x', body: record('a', 'b') }))),
    ],
    ...['5 a', '99 a=b\n', '3 a=b\n', '6 ab\n', 'x a=b\n', '0 a=b\n'].map((text): [string, Buffer] => [
      `record ${JSON.stringify(text)}`,
      Buffer.concat([entry({ path: 'x', type: 'x', body: text }), tar([file('a')])]),
    ]),
  ];
  for (const [what, bytes] of cases) await assert.rejects(read(bytes), refused, what);
});

test('whatever is read, in whatever pieces, nothing but a refusal is thrown', async () => {
  const names = fc.constantFrom('a', './b/', '../c', '/d', 'e/../f', '.wh.x', '', 'x'.repeat(150));
  const part: fc.Arbitrary<TarPart> = fc.record({
    path: names,
    type: fc.constantFrom('0', '1', '2', '3', '5', 'x', 'g', 'L', 'K', 'S', '\0'),
    target: names,
    body: fc.string({ maxLength: 700 }),
    mode: fc.nat(0o7777),
  });
  const damage = fc.array(fc.record({ at: fc.nat(4_000), byte: fc.nat(255) }), { maxLength: 4 });
  await fc.assert(
    fc.asyncProperty(
      fc.array(part, { maxLength: 4 }),
      damage,
      fc.integer({ min: 1, max: 3_000 }),
      async (parts, hits, size) => {
        const bytes = tar(parts);
        for (const { at, byte } of hits) if (at < bytes.length) bytes[at] = byte;
        let whole: unknown;
        try {
          whole = await read(bytes, 1e6);
        } catch (error) {
          assert.ok(refused(error), String(error));
          await assert.rejects(read(bytes, size), refused);
          return;
        }
        assert.deepEqual(await read(bytes, size), whole);
      },
    ),
    { numRuns: 300 },
  );
});

test('packings are told by their bytes, in frames as many as they come', async () => {
  const text = Buffer.from('the quick brown fox '.repeat(5_000));
  const skippable = Buffer.concat([Buffer.from([0x53, 0x2a, 0x4d, 0x18, 5, 0, 0, 0]), Buffer.from('notes')]);
  const halves = [text.subarray(0, 40_000), text.subarray(40_000)];
  const unpack = async (bytes: Buffer, size: number) => collect(decompressed(chunks(bytes, size)), 1e7, 'it');
  const cases = [
    text,
    gzipSync(text),
    zstdCompressSync(text),
    Buffer.concat(halves.map((half) => gzipSync(half))),
    Buffer.concat(halves.map((half) => zstdCompressSync(half))),
    Buffer.concat([skippable, ...halves.map((half) => zstdCompressSync(half)), skippable]),
    Buffer.concat(Array.from({ length: 1_000 }, (_, at) => zstdCompressSync(text.subarray(at * 100, at * 100 + 100)))),
  ];
  for (const bytes of cases)
    for (const size of [1, 7, 1_000, 1e6]) {
      if (size === 1 && bytes.length > 20_000) continue;
      assert.ok((await unpack(bytes, size)).equals(text), `${bytes.length} in ${size}`);
    }
  assert.equal((await unpack(Buffer.alloc(0), 1)).length, 0);
});

test('what cannot be unpacked is refused', async () => {
  const text = Buffer.from('the quick brown fox '.repeat(5_000));
  const unpack = async (bytes: Buffer) => collect(decompressed(chunks(bytes)), 1e7, 'it');
  const wide = zstdCompressSync(Buffer.alloc(1e6), {
    params: { [constants.ZSTD_c_windowLog]: 30, [constants.ZSTD_c_contentSizeFlag]: 0 },
  });
  // A frame of no known length that asks for a window of 1 GiB.
  const greedy = Buffer.from(wide);
  greedy[4] = 0;
  greedy[5] = (30 - 10) << 3;
  for (const bytes of [
    gzipSync(text).subarray(0, -9),
    zstdCompressSync(text).subarray(0, -2),
    Buffer.concat([gzipSync(text), Buffer.from('garbage')]),
    Buffer.concat([zstdCompressSync(text), Buffer.from('garbage')]),
    Buffer.from('BZh91AY&SY'),
    Buffer.from('\xfd7zXZ\0', 'latin1'),
    greedy,
  ])
    await assert.rejects(unpack(bytes), refused, bytes.toString('hex', 0, 8));
});

test('a stream that unpacks without end is not held in memory', async () => {
  const bomb = zstdCompressSync(Buffer.alloc(200 * 2 ** 20));
  assert.ok(bomb.length < 100_000);
  let bytes = 0;
  for await (const chunk of decompressed(chunks(bomb))) {
    bytes += chunk.length;
    if (bytes > 5e6) break;
  }
  assert.ok(bytes < 1e7);
});
