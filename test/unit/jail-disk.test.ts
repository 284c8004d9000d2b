/** A captured disk as files: copies that are equal to the byte, manifests and notes that are checked before use. */
import assert from 'node:assert/strict';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import fc from 'fast-check';
import { isCoppiceError } from '../../src/contract/errors.ts';
import { clearCapture, writeNote } from '../../src/isolation/jail/oci/capture-note.ts';
import { loadDiskCalls } from '../../src/isolation/jail/oci/disk-calls.ts';
import { hostsOf } from '../../src/isolation/jail/oci/identity-files.ts';
import { layerOf, manifestOf, publish, readManifest } from '../../src/isolation/jail/oci/manifest.ts';
import { copyFileSparse, copySparse, refreshSparse, stopOn } from '../../src/isolation/jail/oci/sparse-copy.ts';

const MIB = 2 ** 20;
const SIZE = 5 * MIB;
const SHAPE = { cpuCount: 1, memoryMB: 128, diskSizeMB: 5 };
const IMAGE = { hash: 'h', kernel: '', initrd: '', rootfs: '', agentDrive: '' };
const { stop } = stopOn(undefined);
const calls = loadDiskCalls();

function scratch(t: TestContext): string {
  const folder = mkdtempSync(join(tmpdir(), 'coppice-disk-'));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** Where to write or punch, in bytes. */
const edit = fc.record({
  at: fc.integer({ min: 0, max: SIZE - 1 }),
  bytes: fc.oneof(fc.integer({ min: 1, max: 10_000 }), fc.integer({ min: 1, max: 2 * MIB })),
  kind: fc.constantFrom('write', 'zeros', 'hole'),
});

test('a copy, and one brought up to date, is equal whatever was written and removed', async (t) => {
  const folder = scratch(t);
  let round = 0;
  await fc.assert(
    fc.asyncProperty(fc.array(edit, { maxLength: 8 }), fc.array(edit, { maxLength: 8 }), async (before, after) => {
      const [from, to] = [join(folder, `from${round}`), join(folder, `to${round++}`)];
      const [source, target] = [await open(from, 'wx+'), await open(to, 'wx+')];
      const apply = async (edits: typeof before) => {
        for (const { at, bytes, kind } of edits) {
          const end = Math.min(at + bytes, SIZE);
          if (kind === 'hole') calls.punch(source.fd, at, end - at);
          else await source.write(Buffer.alloc(end - at, kind === 'write' ? 7 + round : 0), 0, end - at, at);
        }
      };
      try {
        for (const file of [source, target]) await file.truncate(SIZE);
        await apply(before);
        await copySparse(calls, source, target, SIZE, stop);
        assert.ok(readFileSync(from).equals(readFileSync(to)));
        await apply(after);
        const written = await refreshSparse(calls, source, target, SIZE, stop);
        assert.ok(readFileSync(from).equals(readFileSync(to)));
        if (after.length === 0) assert.equal(written, 0);
        assert.equal(await refreshSparse(calls, source, target, SIZE, stop), 0);
      } finally {
        await Promise.all([source.close(), target.close()]);
        for (const path of [from, to]) rmSync(path);
      }
    }),
    { numRuns: 60 },
  );
});

test('a copy is of the size asked for, takes no space for holes, and replaces nothing', async (t) => {
  const folder = scratch(t);
  const [from, to] = [join(folder, 'from'), join(folder, 'to')];
  const source = await open(from, 'w');
  await source.truncate(64 * MIB);
  await source.write('x', 40 * MIB);
  await source.close();
  await assert.rejects(copyFileSparse(calls, from, to, 63 * MIB, stop), /67108864 bytes instead of/);
  assert.equal(existsSync(to), false);
  await copyFileSparse(calls, from, to, 64 * MIB, stop);
  assert.ok(statSync(to).blocks * 512 < MIB);
  assert.ok(readFileSync(from).equals(readFileSync(to)));
  await assert.rejects(copyFileSparse(calls, from, to, 64 * MIB, stop), { code: 'EEXIST' });
});

test('a manifest names the layer and its size, or nothing at all', async (t) => {
  const folder = scratch(t);
  const corrupt = (part: RegExp) => (error: unknown) =>
    isCoppiceError(error, 'checkpoint_corrupt') && part.test(error.message);
  const published = async (name: string, files: Record<string, { bytes: number; sha256: string }>) => {
    const work = join(folder, `${name}.work`);
    mkdirSync(work);
    writeFileSync(join(work, 'layer'), Buffer.alloc(SIZE));
    return publish(work, join(folder, name), manifestOf(IMAGE, SHAPE, files));
  };
  const sha256 = 'a'.repeat(64);
  const whole = await published('whole', { layer: { bytes: SIZE, sha256 } });
  assert.equal(await layerOf(await readManifest(whole.folder)), join(folder, 'whole', 'layer'));
  await assert.rejects(readManifest(whole.folder, { verify: true }), corrupt(/layer has another hash/));
  const bare = await published('bare', {});
  assert.equal(await layerOf(await readManifest(bare.folder)), undefined);
  const odd = await published('odd', { layer: { bytes: SIZE - 1, sha256 } });
  await assert.rejects(readManifest(odd.folder), corrupt(/files\.layer\.bytes/));
  const strange = await published('strange', { layer: { bytes: SIZE, sha256 }, '../x': { bytes: 1, sha256 } });
  await assert.rejects(readManifest(strange.folder), corrupt(/files/));
  await assert.rejects(
    published('whole2', {}).then(() => published('whole', {})),
    { code: 'conflict' },
  );
});

test('a note of an unfinished capture removes its own folder and no other', (t) => {
  const folder = scratch(t);
  const [jail, kept] = [join(folder, 'jail'), join(folder, 'kept')];
  const work = join(folder, '.partial-0123456789ab');
  for (const path of [jail, kept, work]) mkdirSync(path);
  assert.equal(clearCapture(jail), false);
  writeNote(jail, { work, thaw: true });
  assert.equal(clearCapture(jail), true);
  assert.equal(existsSync(work), false);
  assert.equal(clearCapture(jail), false);
  writeNote(jail, { work: kept, thaw: true });
  assert.equal(clearCapture(jail), false);
  assert.ok(existsSync(kept));
  writeFileSync(join(jail, 'capture.json'), '{"work":');
  assert.equal(clearCapture(jail), false);
  assert.equal(existsSync(join(jail, 'capture.json')), false);
});

test('the table of hosts keeps what was added and names the machine once', () => {
  assert.equal(
    hostsOf('127.0.0.1\tlocalhost\n127.0.1.1 old\n\n10.0.0.1 db # ours\n127.0.1.1\told2', 'new'),
    '127.0.0.1\tlocalhost\n10.0.0.1 db # ours\n127.0.1.1\tnew\n',
  );
});
