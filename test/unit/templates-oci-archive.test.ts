/** Images in files: OCI's layout in a tar, and what `docker save` writes. */
import assert from 'node:assert/strict';
import { symlink as link, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import { gzipSync } from 'node:zlib';
import { isCoppiceError } from '../../src/contract/errors.ts';
import { archiveSource } from '../../src/templates/oci/archive.ts';
import { type BlobStore, openBlobStore } from '../../src/templates/oci/blob-store.ts';
import { type ImageSource, LOCAL_SCOPE } from '../../src/templates/oci/image-source.ts';
import { readLayers } from '../../src/templates/oci/layers.ts';
import { fetchLayers, resolveImage } from '../../src/templates/oci/pull.ts';
import { makeImage } from '../helpers/oci-image.ts';
import { layoutFiles } from '../helpers/oci-layout.ts';
import { file, symlink, type TarPart, tar } from '../helpers/tiny-tar.ts';

const refused = (error: unknown) => isCoppiceError(error, 'bad_request');

async function withFolder(check: (folder: string, store: BlobStore) => Promise<void>): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), 'coppice-archive-'));
  try {
    await check(folder, await openBlobStore(join(folder, 'images'), LOCAL_SCOPE));
  } finally {
    await rm(folder, { recursive: true });
  }
}

async function namesIn(source: ImageSource, store: BlobStore, work: string): Promise<string[]> {
  const image = await resolveImage(source);
  const layers = await fetchLayers(image, source, store);
  const content = await mkdtemp(join(work, 'content-'));
  return [...(await readLayers(layers, content)).tree.root.children.keys()];
}

/** As older versions write it, with a layer that is there once for two images. */
function saved(names: readonly string[]): TarPart[] {
  const { blobs, manifest } = makeImage([[file('a', 'x')], [file('b', 'y')]], { packing: 'tar' });
  const { config, layers } = JSON.parse(manifest.toString()) as {
    config: { digest: string };
    layers: { digest: string }[];
  };
  const bytes = (digest: string) => blobs.get(digest)!;
  const list = [{ Config: 'cfg.json', RepoTags: names, Layers: ['1/layer.tar', '2/layer.tar'] }];
  return [
    file('manifest.json', JSON.stringify(list)),
    file('1/layer.tar', bytes(layers[0]!.digest)),
    symlink('2/layer.tar', '../3/layer.tar'),
    file('3/layer.tar', bytes(layers[1]!.digest)),
    file('cfg.json', bytes(config.digest)),
  ];
}

test('of several images in a layout one is chosen by name', async () => {
  await withFolder(async (folder, store) => {
    const [one, two] = [makeImage([[file('one')]]), makeImage([[file('two')]], { packing: 'zstd' })];
    const path = join(folder, 'image.tar');
    await writeFile(
      path,
      tar(
        layoutFiles([
          { image: one, name: 'v1' },
          { image: two, name: 'v2' },
        ]),
      ),
    );
    const source = (tag?: string) => archiveSource(path, store, tag === undefined ? {} : { tag });
    assert.deepEqual(await namesIn(await source('v2'), store, folder), ['two']);
    await assert.rejects((await source()).head(), { message: /holds 2 images; it names v1, v2/ });
    await assert.rejects((await source('v3')).head(), refused);
    await assert.rejects(archiveSource(join(folder, 'nowhere'), store), refused);
    // What is under a name is read when it is a file.
    await link(path, join(folder, 'link.tar'));
    await assert.rejects(archiveSource(join(folder, 'link.tar'), store), refused);
  });
});

test('archives of either kind, packed or not', async () => {
  const image = makeImage([[file('one')]]);
  const cases: [string, Buffer, string[]][] = [
    ['layout', tar(layoutFiles([{ image }])), ['one']],
    ['layout, packed', gzipSync(tar(layoutFiles([{ image }]))), ['one']],
    ['saved', tar(saved(['x:latest'])), ['a', 'b']],
    ['saved, packed', gzipSync(tar(saved([]))), ['a', 'b']],
  ];
  for (const [what, bytes, names] of cases) {
    await withFolder(async (folder, store) => {
      const path = join(folder, 'image.tar');
      await writeFile(path, bytes);
      assert.deepEqual(await namesIn(await archiveSource(path, store), store, folder), names, what);
    });
  }
});

test('archives that are none, lack something or lie', async () => {
  const image = makeImage([[file('one')]]);
  const whole = layoutFiles([{ image }]);
  const lying = whole.map((part) => (part.path.startsWith('blobs') ? { ...part, body: 'x' } : part));
  const ring = [...saved(['x']).filter(({ path }) => path !== '3/layer.tar'), symlink('3/layer.tar', '../2/layer.tar')];
  const cases: [string, Buffer][] = [
    ['nothing', tar([])],
    ['no archive', Buffer.from('text')],
    ['lying', tar(lying)],
    ['without its blobs', tar(whole.filter(({ path }) => !path.startsWith('blobs')))],
    ['without a layer', tar(saved(['x']).filter(({ path }) => path !== '1/layer.tar'))],
    ['links in a ring', tar(ring)],
    ['a list that is none', tar([file('manifest.json', '{}')])],
    ['a list of nothing', tar([file('manifest.json', '[]')])],
    ['too many parts', tar(Array.from({ length: 9_000 }, (_, at) => symlink(`l${at}`, 'x')))],
  ];
  for (const [what, bytes] of cases) {
    await withFolder(async (folder, store) => {
      const path = join(folder, 'image.tar');
      await writeFile(path, bytes);
      const read = async () => namesIn(await archiveSource(path, store), store, folder);
      await assert.rejects(read(), refused, what);
    });
  }
  await withFolder(async (folder, store) => {
    const path = join(folder, 'image.tar');
    await writeFile(path, tar(saved(['x'])));
    await assert.rejects(archiveSource(path, store, { limit: 1_000 }), refused);
    await assert.rejects((await archiveSource(path, store, { tag: 'y' })).head(), {
      message: /holds 0 such images; it names x/,
    });
  });
});
