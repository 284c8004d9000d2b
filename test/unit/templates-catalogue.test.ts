/** The catalogue on disk: names to builds, published at one instant, read back the same, garbage known as garbage. */
import assert from 'node:assert/strict';
import { cp, mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import { isCoppiceError } from '../../src/contract/errors.ts';
import { type Catalogue, openCatalogue } from '../../src/templates/catalogue.ts';
import {
  BASE,
  BUILT_IN_TEMPLATES,
  CODE_INTERPRETER,
  type TemplateDefinition,
  templateIDOf,
} from '../../src/templates/definitions.ts';

async function withHome(check: (home: string, folder: string) => Promise<void>): Promise<void> {
  const home = await mkdtemp(join(tmpdir(), 'coppice-catalogue-'));
  try {
    await check(home, join(home, 'templates'));
  } finally {
    await rm(home, { recursive: true, force: true });
  }
}

const image = (home: string) => ({
  hash: 'abc',
  kernel: join(home, 'images/k/vmlinuz'),
  initrd: join(home, 'images/i/initrd.img'),
  rootfs: join(home, 'images/r/rootfs.ext4'),
  agentDrive: join(home, 'images/a/agent.ext4'),
});

async function publish(catalogue: Catalogue, home: string, definition: TemplateDefinition, tag?: string) {
  const pending = await catalogue.begin(definition);
  await mkdir(pending.goldenFolder);
  await writeFile(join(pending.goldenFolder, 'manifest.json'), '{}');
  return catalogue.publish(pending, definition, image(home), tag);
}

test('a published template is found by id, name, alias, tag and build, and by nothing else', async () => {
  await withHome(async (home, folder) => {
    const catalogue = await openCatalogue(folder);
    const built = await publish(catalogue, home, CODE_INTERPRETER);
    const id = templateIDOf(CODE_INTERPRETER.name);
    assert.equal(built.template.templateID, id);
    const found = [id, 'code-interpreter-v1', 'Code-Interpreter', `${id}:default`, `${id}:${built.build.buildID}`];
    for (const text of found) assert.equal(catalogue.resolve(text)?.build.buildID, built.build.buildID, text);
    const missing = [
      '',
      'base',
      `${id}:v2`,
      'code-interpreter:default:x',
      '__proto__',
      `${id}:__proto__`,
      `${id}:constructor`,
      'x'.repeat(10_000),
    ];
    for (const text of missing) assert.equal(catalogue.resolve(text), undefined, text);
  });
});

test('what was published is read back, wherever the home folder is by then', async () => {
  await withHome(async (home, folder) => {
    const catalogue = await openCatalogue(folder);
    const first = await publish(catalogue, home, BASE);
    assert.deepEqual((await openCatalogue(folder)).list(), [first]);
    await withHome(async (other, moved) => {
      await cp(home, other, { recursive: true });
      const [entry] = (await openCatalogue(moved)).list();
      assert.deepEqual(entry?.build.image, image(other));
      assert.equal(
        entry?.goldenFolder,
        join(moved, first.template.templateID, 'builds', first.build.buildID, 'golden'),
      );
    });
  });
});

test('a new build takes the tag, and the one before is stale', async () => {
  await withHome(async (home, folder) => {
    const catalogue = await openCatalogue(folder);
    const first = await publish(catalogue, home, BASE);
    const second = await publish(catalogue, home, BASE);
    assert.equal(catalogue.resolve('base')?.build.buildID, second.build.buildID);
    assert.equal(second.template.createdAtMs, first.template.createdAtMs);
    assert.deepEqual(
      (await catalogue.staleBuilds()).map(({ buildID }) => buildID),
      [first.build.buildID],
    );
    assert.deepEqual(await catalogue.staleBuilds(new Set([first.build.buildID])), []);
    await assert.rejects(catalogue.removeBuild(second.build), (error) => isCoppiceError(error, 'conflict'));
    await catalogue.removeBuild(first.build);
    await catalogue.removeBuild(first.build);
    assert.deepEqual(await catalogue.staleBuilds(), []);
    assert.equal(catalogue.imageFiles().size, 4);
  });
});

test('a tag of its own does not move the default', async () => {
  await withHome(async (home, folder) => {
    const catalogue = await openCatalogue(folder);
    const first = await publish(catalogue, home, BASE);
    const second = await publish(catalogue, home, BASE, 'next');
    assert.equal(catalogue.resolve('base')?.build.buildID, first.build.buildID);
    assert.equal(catalogue.resolve('base:next')?.build.buildID, second.build.buildID);
    for (const tag of [first.build.buildID, '../x', '', 'A'])
      await assert.rejects(publish(catalogue, home, BASE, tag), (error) => isCoppiceError(error, 'bad_request'), tag);
  });
});

test('a build without a golden checkpoint cannot be published; given up, it leaves nothing', async () => {
  await withHome(async (home, folder) => {
    const catalogue = await openCatalogue(folder);
    const pending = await catalogue.begin(BASE);
    await assert.rejects(catalogue.publish(pending, BASE, image(home)), (error) => isCoppiceError(error, 'internal'));
    assert.deepEqual(catalogue.list(), []);
    await catalogue.abandon(pending);
    assert.deepEqual(await readdir(join(folder, pending.templateID, 'builds')), []);
  });
});

test("a build that is under way is nobody else's garbage", async () => {
  await withHome(async (_home, folder) => {
    const one = await openCatalogue(folder);
    const other = await openCatalogue(folder);
    const pending = await one.begin(BASE);
    assert.deepEqual(await other.staleBuilds(), []);
    assert.deepEqual(await one.staleBuilds(), []);
    await one.abandon(pending);
  });
});

test('two catalogues on one folder keep what the other published', async () => {
  await withHome(async (home, folder) => {
    const one = await openCatalogue(folder);
    const other = await openCatalogue(folder);
    const first = await publish(one, home, BASE, 'a');
    await publish(other, home, BASE, 'b');
    const merged = await openCatalogue(folder);
    assert.equal(merged.resolve('base:a')?.build.buildID, first.build.buildID);
    assert.ok(merged.resolve('base:b'));
  });
});

test('a name belongs to one template', async () => {
  await withHome(async (home, folder) => {
    const catalogue = await openCatalogue(folder);
    await publish(catalogue, home, BASE);
    const thief = { ...CODE_INTERPRETER, aliases: ['base'] };
    await assert.rejects(publish(catalogue, home, thief), (error) => isCoppiceError(error, 'conflict'));
  });
});

test('damaged files are reported and the rest is served', async () => {
  await withHome(async (home, folder) => {
    const catalogue = await openCatalogue(folder);
    const base = await publish(catalogue, home, BASE);
    const other = await publish(catalogue, home, CODE_INTERPRETER);
    await writeFile(join(folder, base.template.templateID, 'template.json'), '{"format":1,"templ');
    const damaged: string[] = [];
    const again = await openCatalogue(folder, { onDamage: (path) => damaged.push(path) });
    assert.deepEqual(
      again.list().map(({ template }) => template.name),
      [other.template.name],
    );
    assert.deepEqual(damaged, [join(folder, base.template.templateID, 'template.json')]);
  });
});

test('built-in templates have the shape that the contract demands', () => {
  for (const { name, shape, packages } of BUILT_IN_TEMPLATES) {
    assert.match(templateIDOf(name), /^[a-z0-9]{20}$/);
    assert.match(name, /^[a-z0-9_-]+$/);
    assert.equal(new Set(packages).size, packages.length);
    assert.ok(shape.memoryMB % 2 === 0 && shape.diskSizeMB >= 1024);
  }
  const ids = BUILT_IN_TEMPLATES.map(({ name }) => templateIDOf(name));
  assert.equal(new Set(ids).size, ids.length);
  assert.equal(templateIDOf('base'), templateIDOf('base'));
});
