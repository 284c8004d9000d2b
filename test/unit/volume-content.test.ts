/** The files of a volume: everything stays below its root, whatever is there and whatever changes meanwhile. */
import assert from 'node:assert/strict';
import { closeSync, openSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, readFile, rename, rm, symlink, unlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import test, { type TestContext } from 'node:test';
import fc from 'fast-check';
import { type ErrorCode, isCoppiceError } from '../../src/contract/errors.ts';
import { VolumeContent } from '../../src/volumes/content.ts';
import { namesOf } from '../../src/volumes/entry.ts';

const refused = (code: ErrorCode) => (error: unknown) => isCoppiceError(error, code);
const body = (text: string) => Readable.from([Buffer.from(text)]);
/** This process' own, so that the tests need no root. */
const OWN = { uid: process.getuid!(), gid: process.getgid!() };

async function rig(t: TestContext) {
  const folder = await mkdtemp(join(tmpdir(), 'coppice-volume-'));
  const root = join(folder, 'root');
  const outside = join(folder, 'outside');
  await mkdir(root);
  await mkdir(outside);
  await writeFile(join(outside, 'secret'), 'secret');
  const fd = openSync(root, 'r');
  t.after(async () => {
    closeSync(fd);
    await rm(folder, { recursive: true, force: true });
  });
  const intact = async (): Promise<void> => {
    assert.deepEqual(await readdir(outside), ['secret']);
    assert.equal(await readFile(join(outside, 'secret'), 'utf8'), 'secret');
  };
  return { content: new VolumeContent(fd), root, outside, intact };
}

test('a path is names below the root, or refused', () => {
  assert.deepEqual(namesOf('/a//b/./c/'), ['a', 'b', 'c']);
  assert.deepEqual(namesOf('a'), ['a']);
  assert.deepEqual(namesOf('/'), []);
  for (const path of [undefined, '', '/..', 'a/../b', '..', 'a\0b', `/${'n'.repeat(256)}`, '/n'.repeat(3000)])
    assert.throws(() => namesOf(path), refused('bad_request'), JSON.stringify(path?.slice(0, 20)));
  fc.assert(
    fc.property(fc.string({ unit: 'binary' }), (path) => {
      try {
        for (const name of namesOf(path)) assert.ok(!['', '.', '..'].includes(name) && !/[/\0]/.test(name));
      } catch (error) {
        assert.ok(isCoppiceError(error, 'bad_request'));
      }
    }),
  );
});

test('what is written is there whole, with its owner and mode, and over what was there', async (t) => {
  const { content, root } = await rig(t);
  const made = await content.write('/f', { ...OWN, mode: 0o640 }, body('one'), true);
  assert.deepEqual([made.path, made.size, made.mode], ['/f', 3, 0o640]);
  assert.equal((await content.write('/f', {}, body('other'), true)).mode, 0o640, 'what is not given stays');
  assert.equal(await readFile(join(root, 'f'), 'utf8'), 'other');
  await assert.rejects(content.write('/f', OWN, body('x'), false), refused('conflict'));
  await assert.rejects(content.write('/', OWN, body('x'), true), refused('bad_request'));
  await assert.rejects(content.write('/none/f', OWN, body('x'), true), refused('path_not_found'));
  await content.makeFolder('/d', OWN, false);
  await assert.rejects(content.write('/d', OWN, body('x'), true), refused('bad_request'));
  assert.deepEqual((await readdir(root)).toSorted(), ['d', 'f']);
});

test('an upload that breaks off leaves what was there, and nothing else', async (t) => {
  const { content, root } = await rig(t);
  await content.write('/f', OWN, body('before'), true);
  async function* breaking(): AsyncGenerator<Buffer> {
    yield Buffer.from('half');
    throw new Error('gone');
  }
  await assert.rejects(content.write('/f', OWN, breaking(), true), /gone/);
  await assert.rejects(content.write('/new', OWN, breaking(), true), /gone/);
  assert.deepEqual(await readdir(root), ['f']);
  assert.equal(await readFile(join(root, 'f'), 'utf8'), 'before');
});

test('no link is followed, neither on the way nor at the end', async (t) => {
  const { content, root, outside, intact } = await rig(t);
  await symlink(outside, join(root, 'up'));
  await symlink(join(outside, 'secret'), join(root, 'file'));
  for (const [what, act] of Object.entries({
    read: () => content.read('/file'),
    'read on': () => content.read('/up/secret'),
    list: () => content.list('/up', 2),
    make: () => content.makeFolder('/up/made', OWN, true),
    'make alone': () => content.makeFolder('/up/made', OWN, false),
    write: () => content.write('/up/made', OWN, body('x'), true),
    change: () => content.change('/file', { mode: 0o777 }),
    remove: () => content.remove('/up/secret'),
  }))
    await assert.rejects(act(), (error) => isCoppiceError(error), what);
  assert.equal((await content.stat('/up')).target, outside);
  assert.deepEqual(
    (await content.list('/', 5)).map(({ path, type }) => [path, type]),
    [
      ['/file', 'symlink'],
      ['/up', 'symlink'],
    ],
  );
  // In the place of a link, not through it.
  await content.write('/file', OWN, body('mine'), true);
  assert.equal((await content.stat('/file')).type, 'file');
  await content.remove('/up');
  await intact();
});

test('a folder that becomes a link while it is removed takes nothing outside with it', async (t) => {
  const { content, root, outside, intact } = await rig(t);
  const swaps = (async () => {
    for (let round = 0; round < 60; round++) {
      const [folder, aside] = [join(root, 'swap'), join(root, `aside${round}`)];
      await mkdir(folder, { recursive: true }).catch(() => {});
      await writeFile(join(folder, 'secret'), '').catch(() => {});
      await rename(folder, aside).catch(() => {});
      await symlink(outside, folder).catch(() => {});
      await new Promise(setImmediate);
      await unlink(folder).catch(() => {});
    }
  })();
  let over = false;
  void swaps.then(() => {
    over = true;
  });
  while (!over) {
    await content.remove('/swap').catch((error: unknown) => assert.ok(isCoppiceError(error), String(error)));
    await content.makeFolder('/swap/in', OWN, true).catch((error: unknown) => assert.ok(isCoppiceError(error)));
    await content.write('/swap/f', OWN, body('x'), true).catch((error: unknown) => assert.ok(isCoppiceError(error)));
  }
  await swaps;
  await intact();
});

test('lists are bounded by depth and by number', async (t) => {
  const { content, root } = await rig(t);
  await mkdir(join(root, 'a/b/c'), { recursive: true });
  const paths = async (depth: number) => (await content.list('/', depth)).map(({ path }) => path);
  assert.deepEqual(await paths(1), ['/a']);
  assert.deepEqual(await paths(2), ['/a', '/a/b']);
  for (let each = 0; each < 10_001; each++) await writeFile(join(root, `n${each}`), '');
  await assert.rejects(content.list('/', 1), refused('bad_request'));
});

test('what is deeper than can be removed is refused, and says so', async (t) => {
  const { content, root } = await rig(t);
  let deep = root;
  for (let depth = 0; depth < 300; depth++) {
    deep = join(deep, 'd');
    await mkdir(deep);
  }
  await assert.rejects(content.remove('/d'), refused('bad_request'));
  await content.remove(`/d${'/d'.repeat(100)}`);
  await content.remove('/d');
  assert.deepEqual(await readdir(root), []);
});
