/** Layers add up as they do in a container, and nothing in them reaches out of the folder that they are put into. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import {
  chmodSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import { gzipSync } from 'node:zlib';
import fc from 'fast-check';
import { isCoppiceError } from '../../src/contract/errors.ts';
import type { ImageTree } from '../../src/templates/oci/image-tree.ts';
import { type LayerLimits, readLayers } from '../../src/templates/oci/layers.ts';
import { placeTree } from '../../src/templates/oci/place.ts';
import { unpackImage } from '../../src/templates/oci/unpack.ts';
import { file, folder, hardlink, sha256, symlink, type TarPart, tar } from '../helpers/tiny-tar.ts';

const isRoot = process.getuid?.() === 0;
const refused = (error: unknown) => isCoppiceError(error, 'bad_request');

function withFolder<T>(check: (folder: string) => Promise<T> | T): Promise<T> {
  const work = mkdtempSync(join(tmpdir(), 'coppice-layers-'));
  return Promise.resolve(check(work)).finally(() => {
    execFileSync('chmod', ['-R', 'u+rwX', work]);
    rmSync(work, { recursive: true });
  });
}

function layerFiles(work: string, layers: readonly (readonly TarPart[])[]) {
  return layers.map((parts, at) => {
    const bytes = tar(parts);
    const path = join(work, `layer-${at}`);
    writeFileSync(path, at % 2 === 0 ? gzipSync(bytes) : bytes);
    return { path, diffID: sha256(bytes) };
  });
}

function read(work: string, layers: readonly (readonly TarPart[])[], limits?: LayerLimits) {
  mkdirSync(join(work, 'content'));
  return readLayers(layerFiles(work, layers), join(work, 'content'), { limits });
}

/** Every path, with what it is. */
function listing(tree: ImageTree): Record<string, string> {
  const found: Record<string, string> = {};
  const walk = (path: string, node = tree.root): void => {
    for (const [name, { node: child }] of node.children) {
      const at = `${path}${name}`;
      if (child.kind === 'folder') {
        found[`${at}/`] = '';
        walk(`${at}/`, child);
      } else if (child.kind === 'symlink') found[at] = `-> ${child.target}`;
      else
        found[at] = 'file' in child.content ? readFileSync(child.content.file, 'utf8') : child.content.bytes.toString();
    }
  };
  walk('');
  return found;
}

const treeOf = (layers: readonly (readonly TarPart[])[]) =>
  withFolder(async (work) => listing((await read(work, layers)).tree));

test('a layer replaces, joins and hides', async () => {
  assert.deepEqual(
    await treeOf([
      [
        folder('a/'),
        file('a/1', 'one'),
        file('a/2', 'two'),
        folder('b/'),
        file('b/x', 'x'),
        folder('c/'),
        file('c/y', 'y'),
      ],
      [
        file('a/2', 'TWO'),
        file('a/.wh.1'),
        file('b/.wh..wh..opq'),
        file('b/new', 'new'),
        file('.wh.c'),
        file('.wh..wh.plnk'),
      ],
    ]),
    { 'a/': '', 'a/2': 'TWO', 'b/': '', 'b/new': 'new' },
  );
});

test('what a layer brings is not hidden by it, in either order', async () => {
  const below = [folder('a/'), file('a/old', 'old'), folder('a/deep/'), file('a/deep/old', 'old')];
  const mine = [file('a/deep/mine', 'mine'), file('a/new', 'new')];
  const expected = { 'a/': '', 'a/new': 'new', 'a/deep/': '', 'a/deep/mine': 'mine' };
  for (const hiding of [file('a/.wh..wh..opq'), file('.wh.a')]) {
    assert.deepEqual(await treeOf([below, [hiding, ...mine]]), expected);
    assert.deepEqual(await treeOf([below, [...mine, hiding]]), expected);
  }
});

test('kinds replace each other', async () => {
  assert.deepEqual(
    await treeOf([
      [folder('a/'), file('a/x', 'x'), file('b', 'b'), symlink('c', 'a'), symlink('d', 'a')],
      [file('a', 'now a file'), folder('b/'), folder('c/'), file('d', 'now a file')],
    ]),
    { a: 'now a file', 'b/': '', 'c/': '', d: 'now a file' },
  );
});

test('links are followed within the image, wherever they say they lead', async () => {
  assert.deepEqual(
    await treeOf([
      [folder('usr/bin/'), symlink('bin', 'usr/bin'), symlink('up', '../../../../usr'), symlink('abs', '/usr')],
      [file('bin/sh', 'sh'), file('up/a', 'a'), file('abs/b', 'b')],
      [file('bin/.wh.sh')],
    ]),
    {
      'usr/': '',
      'usr/bin/': '',
      bin: '-> usr/bin',
      up: '-> ../../../../usr',
      abs: '-> /usr',
      'usr/a': 'a',
      'usr/b': 'b',
    },
  );
  // A link to nothing is made something, as a container runtime would.
  assert.deepEqual(await treeOf([[symlink('var', '/srv/data'), file('var/log', 'log')]]), {
    var: '-> /srv/data',
    'srv/': '',
    'srv/data/': '',
    'srv/data/log': 'log',
  });
});

test('hard links are names of one file', async () => {
  await withFolder(async (work) => {
    const { tree } = await read(work, [
      [file('a', 'same', { mode: 0o600 }), hardlink('b', 'a'), hardlink('a', 'a')],
      [file('.wh.a'), hardlink('c', 'b')],
    ]);
    const root = join(work, 'root');
    mkdirSync(root);
    placeTree(tree, root, { owners: 'ours' });
    assert.deepEqual(readdirSync(root).toSorted(), ['b', 'c']);
    assert.equal(statSync(join(root, 'b')).ino, statSync(join(root, 'c')).ino);
    assert.equal(readFileSync(join(root, 'c'), 'utf8'), 'same');
  });
});

test('bytes that nothing names any more are not kept', async () => {
  await withFolder(async (work) => {
    await read(work, [
      [file('a', '1'), file('b', '2')],
      [file('a', '3'), file('.wh.b')],
      [file('a', '4'), file('a', '5')],
    ]);
    assert.equal(readdirSync(join(work, 'content')).length, 1);
  });
});

test('paths that lead out, and what cannot be, are refused', async () => {
  const cases: [string, TarPart[]][] = [
    ['up', [file('../x', 'x')]],
    ['up within', [file('a/../../x', 'x')]],
    ['up and back', [file('a/../x', 'x')]],
    ['a link target up', [hardlink('x', '../../etc/passwd')]],
    ['a link to what is not there', [hardlink('x', '/etc/passwd')]],
    ['a link to a folder', [folder('a/'), hardlink('x', 'a')]],
    ['links in a ring', [symlink('a', 'b'), symlink('b', 'a'), file('a/x', 'x')]],
    ['a file as a folder', [file('a', 'x'), file('a/b', 'x')]],
    ['through a file', [file('f', 'x'), symlink('l', 'f'), file('l/b', 'x')]],
    ['the root as a file', [file('./', 'x'), file('.', 'x')]],
    ['the root as a link', [symlink('/', '/etc')]],
    ['hiding nothing', [file('.wh.')]],
    ['hiding itself', [file('a/.wh..')]],
    ['hiding what is above', [file('a/.wh...')]],
    ['a link to nothing', [symlink('a', '')]],
    ['a long name', [file('x'.repeat(256), 'x')]],
    ['too deep', [folder('d/'.repeat(300))]],
    [
      'too deep, by a link',
      [
        folder(`${'x'.repeat(200)}/`.repeat(15)),
        symlink('l', `${'x'.repeat(200)}/`.repeat(15)),
        folder(`l/${'y/'.repeat(255)}`),
        folder(`l/${`${'z'.repeat(200)}/`.repeat(4)}`),
      ],
    ],
    ['too many attributes', [file('a', '', { xattrs: { 'user.a': Buffer.alloc(4_000) } })]],
  ];
  for (const [what, parts] of cases) await assert.rejects(treeOf([parts]), refused, what);
});

test('a layer that is another than the configuration says is refused', async () => {
  await withFolder(async (work) => {
    const [layer] = layerFiles(work, [[file('a', 'a')]]);
    mkdirSync(join(work, 'content'));
    const wrong = { path: layer!.path, diffID: sha256(Buffer.from('other')) };
    await assert.rejects(readLayers([wrong], join(work, 'content')), refused);
  });
});

test('a bomb ends at its limit', async () => {
  const limits = { bytes: 1e6, entries: 50 };
  const cases: TarPart[][] = [
    [file('zeros', Buffer.alloc(2e6))],
    Array.from({ length: 60 }, (_, at) => folder(`f${at}/`)),
    Array.from({ length: 60 }, () => file('same', 'x')),
  ];
  for (const parts of cases) {
    await withFolder(async (work) => {
      await assert.rejects(read(work, [parts], limits), refused);
    });
  }
});

test('names that hide all the time do not take all day', async () => {
  const many = Array.from({ length: 3_000 }, (_, at) => file(`a/f${at}`, ''));
  const hiding = Array.from({ length: 3_000 }, (_, at) => [
    file('a/.wh..wh..opq'),
    file('.wh.a'),
    file(`a/.wh.g${at}`),
  ]).flat();
  const before = performance.now();
  const found = await treeOf([many, [...many, ...hiding]]);
  assert.equal(Object.keys(found).length, 3_001);
  assert.ok(performance.now() - before < 20_000);
});

test('layers add up as a list of paths does', async () => {
  const path = fc
    .array(fc.constantFrom('a', 'b', 'c'), { maxLength: 3 })
    .map((names) => names.map((name) => `${name}/`).join(''));
  const change = fc.oneof(
    fc.record({
      kind: fc.constant('file' as const),
      path,
      name: fc.constantFrom('f', 'g'),
      text: fc.string({ maxLength: 4 }),
    }),
    fc.record({
      kind: fc.constant('folder' as const),
      path,
      name: fc.constantFrom('a', 'b', 'c'),
      text: fc.constant(''),
    }),
    fc.record({
      kind: fc.constant('hide' as const),
      path,
      name: fc.constantFrom('a', 'b', 'f', 'g'),
      text: fc.constant(''),
    }),
    fc.record({ kind: fc.constant('opaque' as const), path, name: fc.constant(''), text: fc.constant('') }),
  );
  await fc.assert(
    fc.asyncProperty(fc.array(fc.array(change, { maxLength: 6 }), { maxLength: 4 }), async (layers) => {
      let model = new Map<string, string>();
      const withParents = (map: Map<string, string>, at: string) => {
        const names = at.split('/').slice(0, -1);
        for (let end = 1; end <= names.length; end++) map.set(`${names.slice(0, end).join('/')}/`, '');
      };
      for (const changes of layers) {
        const mine = new Map<string, string>();
        for (const { kind, path: above, name, text } of changes) {
          if (kind === 'hide' || kind === 'opaque') {
            for (const key of [...model.keys()]) {
              const hidden =
                kind === 'opaque'
                  ? key.startsWith(above) && key !== above
                  : key === above + name || key.startsWith(`${above}${name}/`);
              if (hidden) model.delete(key);
            }
            // A folder that hides what is below is one of this layer.
            if (kind === 'opaque') withParents(mine, above);
          } else {
            withParents(mine, above);
            mine.set(kind === 'folder' ? `${above}${name}/` : above + name, text);
          }
        }
        model = new Map([...model, ...mine]);
      }
      const parts = layers.map((changes) =>
        changes.map(({ kind, path: above, name, text }) => {
          if (kind === 'hide') return file(`${above}.wh.${name}`);
          if (kind === 'opaque') return file(`${above}.wh..wh..opq`);
          return kind === 'folder' ? folder(`${above}${name}/`) : file(above + name, text);
        }),
      );
      assert.deepEqual(await treeOf(parts), Object.fromEntries(model));
    }),
    { numRuns: 150 },
  );
});

test('whatever the layers hold, nothing outside of the folder is touched', async () => {
  await withFolder(async (work) => {
    const outside = join(work, 'outside');
    mkdirSync(outside);
    writeFileSync(join(outside, 'canary'), 'sings', { mode: 0o640 });
    const before = lstatSync(join(outside, 'canary'));
    const target = fc.constantFrom(
      '..',
      '../outside',
      '../outside/canary',
      outside,
      join(outside, 'canary'),
      '/',
      'a',
      'a/b',
      '../../..',
    );
    const name = fc.constantFrom(
      'a',
      'b',
      'a/b',
      'a/c',
      'b/canary',
      './a/../b',
      '../outside/x',
      `${outside}/y`,
      '/a',
      'a/canary',
    );
    const part = fc.oneof(
      fc.tuple(name, target).map(([path, to]) => symlink(path, to)),
      fc.tuple(name, target).map(([path, to]) => hardlink(path, to)),
      name.map((path) => file(path, 'evil', { mode: 0o6777 })),
      name.map((path) => folder(`${path}/`, { mode: 0o7777 })),
      name.map((path) => file(path.replace(/([^/]*)$/, '.wh.$1'))),
    );
    let run = 0;
    await fc.assert(
      fc.asyncProperty(fc.array(fc.array(part, { maxLength: 5 }), { minLength: 1, maxLength: 3 }), async (layers) => {
        const place = join(work, String(run++));
        mkdirSync(join(place, 'root'), { recursive: true });
        try {
          const { tree } = await read(place, layers);
          placeTree(tree, join(place, 'root'), { owners: 'ours' });
        } catch (error) {
          assert.ok(refused(error), String(error));
        }
        assert.deepEqual(readdirSync(outside), ['canary']);
        assert.equal(readFileSync(join(outside, 'canary'), 'utf8'), 'sings');
        const after = lstatSync(join(outside, 'canary'));
        assert.deepEqual([after.mode, after.nlink, after.mtimeMs], [before.mode, before.nlink, before.mtimeMs]);
        assert.deepEqual(
          readdirSync(place).filter((one) => !/^(root|content|layer-\d)$/.test(one)),
          [],
        );
      }),
      { numRuns: 300 },
    );
  });
});

test('attributes arrive: modes after owners, times, links themselves', { skip: !isRoot && 'takes root' }, async () => {
  await withFolder(async (work) => {
    const capability = Buffer.from('0100000200200000000000000000000000000000', 'hex');
    const { tree, leftOut } = await read(work, [
      [
        folder('home/', { mode: 0o2750, uid: 1_234, gid: 5_678, mtime: 11 }),
        file('home/tool', 'x', { mode: 0o4755, uid: 7, gid: 8, mtime: 22 }),
        file('ping', 'x', {
          uid: 5,
          xattrs: {
            'security.capability': capability,
            'trusted.overlay.redirect': Buffer.from('/'),
            'user.overlay.opaque': Buffer.from('y'),
          },
        }),
        { ...symlink('link', 'home'), uid: 9, gid: 10, mtime: 33 },
        { path: 'null', type: '3' },
        { path: 'pipe', type: '6' },
        file('caf\xe9', 'x'),
        file('locked', 'x', { mode: 0 }),
      ],
    ]);
    assert.equal(leftOut, 2);
    const root = join(work, 'root');
    mkdirSync(root);
    placeTree(tree, root, { owners: 'image' });
    const of = (name: string) => {
      const { mode, uid, gid, mtimeMs } = lstatSync(join(root, name));
      return [mode & 0o7777, uid, gid, mtimeMs];
    };
    assert.deepEqual(of('home'), [0o2750, 1_234, 5_678, 11_000]);
    assert.deepEqual(of('home/tool'), [0o4755, 7, 8, 22_000]);
    assert.deepEqual(of('link'), [0o777, 9, 10, 33_000]);
    assert.deepEqual(of('locked').slice(0, 1), [0]);
    assert.equal(readlinkSync(join(root, 'link')), 'home');
    assert.ok(readdirSync(root, { encoding: 'buffer' }).some((name) => name.equals(Buffer.from('caf\xe9', 'latin1'))));
    const names = execFileSync(
      'python3',
      [
        '-c',
        `import os,sys;p=${JSON.stringify(join(root, 'ping'))};print(sorted(os.listxattr(p)), os.getxattr(p,"security.capability").hex())`,
      ],
      { encoding: 'utf8' },
    );
    assert.equal(names.trim(), `['security.capability'] ${capability.toString('hex')}`);
    chmodSync(root, 0o755);
  });
});

test('a thread unpacks, tells how far it is, and ends with its caller', async () => {
  await withFolder(async (work) => {
    const layers = layerFiles(work, [[folder('etc/'), file('bin/sh', 'sh', { mode: 0o755 })], [file('b', 'b')]]);
    const stages: string[] = [];
    const job = (name: string) => {
      mkdirSync(join(work, name), { mode: 0o700 });
      return { layers, work: join(work, name), owners: 'ours', timeMs: 0 } as const;
    };
    const { root, facts } = await unpackImage(job('one'), { onStage: (stage) => stages.push(stage) });
    assert.deepEqual(stages, ['unpacking layer 1 of 2', 'unpacking layer 2 of 2', 'laying the files out']);
    assert.deepEqual(facts, { shell: '/bin/sh', sudo: false });
    assert.equal(readFileSync(join(root, 'etc/hostname'), 'utf8'), 'sandbox\n');
    const bad = { ...job('two'), layers: [{ path: join(work, 'layer-0'), diffID: sha256(Buffer.from('x')) }] };
    await assert.rejects(unpackImage(bad), refused);
    const stop = new AbortController();
    const late = unpackImage(job('three'), { signal: stop.signal, onStage: () => stop.abort() });
    await assert.rejects(late, (error) => isCoppiceError(error, 'aborted'));
  });
});
