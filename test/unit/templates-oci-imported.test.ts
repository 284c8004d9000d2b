/** Images that the operator imports: they are there under their names, one in the place of another, until they are removed. */
import assert from 'node:assert/strict';
import { mkdir, mkdtemp, readdir, rm, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import { isCoppiceError } from '../../src/contract/errors.ts';
import { importedSource, importImage, listImported, removeImported } from '../../src/templates/oci/imported.ts';
import { resolveImage } from '../../src/templates/oci/pull.ts';
import { parseImageReference } from '../../src/templates/oci/reference.ts';
import { makeImage, type TinyImage } from '../helpers/oci-image.ts';
import { layoutFiles } from '../helpers/oci-layout.ts';
import { file, sha256, tar } from '../helpers/tiny-tar.ts';

const refused = (error: unknown) => isCoppiceError(error, 'bad_request');
const [one, two] = [makeImage([[file('one')]]), makeImage([[file('two')]])];

async function withImages(check: (images: string, archive: (...of: TinyImage[]) => Promise<string>) => Promise<void>) {
  const folder = await mkdtemp(join(tmpdir(), 'coppice-imported-'));
  let made = 0;
  try {
    await check(join(folder, 'images'), async (...of) => {
      const path = join(folder, `archive${made++}.tar`);
      await writeFile(path, tar(layoutFiles(of.map((image, at) => ({ image, name: `v${at}` })))));
      return path;
    });
  } finally {
    await rm(folder, { recursive: true });
  }
}

const digestOf = async (images: string, name: string): Promise<string> =>
  (await resolveImage(await importedSource(images, parseImageReference(name)))).digest;

test('it is found under its name, with and without a tag, after its archive is gone', async () => {
  await withImages(async (images, archive) => {
    const path = await archive(one);
    assert.equal((await importImage(images, { file: path, name: 'team/thing' })).name, 'localhost/team/thing:latest');
    await rm(path);
    assert.equal(await digestOf(images, 'localhost/team/thing'), sha256(one.manifest));
    await assert.rejects(digestOf(images, 'localhost/team/thing:v2'), { message: /There are: localhost\/team\/thing/ });
    await assert.rejects(digestOf(images, `localhost/team/thing@${sha256(one.manifest)}`), refused);
    assert.deepEqual(
      (await listImported(images)).map(({ name, digest }) => [name, digest]),
      [['localhost/team/thing:latest', sha256(one.manifest)]],
    );
  });
});

test('another takes its place, one that is none does not, and it is removed', async () => {
  await withImages(async (images, archive) => {
    await importImage(images, { file: await archive(one), name: 'localhost/thing:v1' });
    await importImage(images, { file: await archive(one, two), name: 'thing:v1', member: 'v1' });
    assert.equal(await digestOf(images, 'localhost/thing:v1'), sha256(two.manifest));
    const noImage = await archive(one, two);
    await assert.rejects(importImage(images, { file: noImage, name: 'thing:v1' }), refused);
    await writeFile(noImage, 'no archive');
    await assert.rejects(importImage(images, { file: noImage, name: 'thing:v1' }), refused);
    await assert.rejects(importImage(images, { file: join(images, 'nowhere'), name: 'thing:v1' }), refused);
    assert.equal(await digestOf(images, 'localhost/thing:v1'), sha256(two.manifest));
    assert.equal(await removeImported(images, 'thing:v1'), true);
    assert.equal(await removeImported(images, 'thing:v1'), false);
    assert.deepEqual(await readdir(join(images, 'imported')), []);
  });
});

test('names that are none, and the names of other registries', async () => {
  await withImages(async (images, archive) => {
    const path = await archive(one);
    for (const name of ['', 'NO', '../x', 'a/../b', 'x:', 'x@sha256:0', 'localhost/', 'x'.repeat(2_000)])
      await assert.rejects(importImage(images, { file: path, name }), refused, name);
    await assert.rejects(digestOf(images, 'debian:12'), refused);
  });
});

test('an import that is given up leaves nothing, and one that was killed is swept by a later one', async () => {
  await withImages(async (images, archive) => {
    const path = await archive(one);
    const signal = AbortSignal.abort();
    await assert.rejects(importImage(images, { file: path, name: 'a', signal }), (error) =>
      isCoppiceError(error, 'aborted'),
    );
    assert.deepEqual(await readdir(join(images, 'imported')), []);
    const left = join(images, 'imported', '.partial-x');
    await mkdir(left);
    await utimes(left, 0, 0);
    await importImage(images, { file: path, name: 'a' });
    assert.equal((await readdir(join(images, 'imported'))).length, 1);
  });
});
