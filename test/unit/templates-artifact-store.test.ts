/** Built files: made once, whole or not at all, whoever builds at the same time and whoever is killed. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readdir, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { isCoppiceError } from '../../src/contract/errors.ts';
import { obtainArtifact, sweepArtifacts, sweepWork } from '../../src/templates/artifact-store.ts';
import { tryLock } from '../../src/templates/lock.ts';

async function withRoot(check: (root: string) => Promise<void>): Promise<void> {
  const root = await mkdtemp(join(tmpdir(), 'coppice-artifacts-'));
  try {
    await check(root);
  } finally {
    await rm(root, { recursive: true });
  }
}

/** A request whose file holds `text`, counting how often it is built. */
function counting(text: string | (() => string)) {
  const state = { built: 0 };
  const build = async (out: string) => {
    state.built += 1;
    await sleep(20);
    await writeFile(join(out, 'file'), typeof text === 'string' ? text : text());
    return { note: 'x' };
  };
  return { state, request: { kind: 'thing', inputs: { a: 1 }, build } };
}

const published = async (root: string) => (await readdir(root)).filter((name) => name.startsWith('thing-'));

test('builders at the same time make it once, and all get it', async () => {
  await withRoot(async (root) => {
    const { state, request } = counting('hello');
    const all = await Promise.all(Array.from({ length: 5 }, () => obtainArtifact(root, request)));
    assert.equal(state.built, 1);
    assert.equal(new Set(all.map(({ folder }) => folder)).size, 1);
    assert.equal(await readFile(join(all[0]!.folder, 'file'), 'utf8'), 'hello');
    assert.deepEqual(all[0]!.manifest.notes, { note: 'x' });
    assert.deepEqual(
      (await readdir(join(root, '.work'))).filter((name) => !name.endsWith('.lock')),
      [],
    );
  });
});

test('other inputs make another artifact', async () => {
  await withRoot(async (root) => {
    const { state, request } = counting('same');
    await obtainArtifact(root, request);
    await obtainArtifact(root, { ...request, inputs: { a: 2 } });
    assert.equal(state.built, 2);
    assert.equal((await published(root)).length, 2);
  });
});

test('force builds anew beside the old one, which stays for whoever uses it', async () => {
  await withRoot(async (root) => {
    let text = 'old';
    const { state, request } = counting(() => text);
    const first = await obtainArtifact(root, request);
    text = 'new';
    const second = await obtainArtifact(root, { ...request, force: true });
    assert.equal(state.built, 2);
    assert.equal(await readFile(join(first.folder, 'file'), 'utf8'), 'old');
    assert.equal((await obtainArtifact(root, request)).folder, second.folder);
    assert.deepEqual(await sweepArtifacts(root, new Set([join(second.folder, 'file')])), [first.folder]);
    assert.equal((await published(root)).length, 1);
  });
});

test('the same bytes built again keep their folder', async () => {
  await withRoot(async (root) => {
    const { request } = counting('same');
    const first = await obtainArtifact(root, request);
    const second = await obtainArtifact(root, { ...request, force: true });
    assert.equal(second.folder, first.folder);
    assert.ok(second.manifest.createdAtMs >= first.manifest.createdAtMs);
  });
});

test('a file cut short is noticed and built again', async () => {
  await withRoot(async (root) => {
    const { state, request } = counting('whole');
    const { folder } = await obtainArtifact(root, request);
    await truncate(join(folder, 'file'), 2);
    const again = await obtainArtifact(root, request);
    assert.equal(state.built, 2);
    assert.equal(await readFile(join(again.folder, 'file'), 'utf8'), 'whole');
  });
});

test('a failed build leaves nothing, and the next one goes on', async () => {
  await withRoot(async (root) => {
    const { request } = counting('good');
    const fail = async (out: string) => {
      await writeFile(join(out, 'half'), 'x');
      throw new Error('no');
    };
    await assert.rejects(obtainArtifact(root, { ...request, build: fail }), /^Error: no$/);
    assert.deepEqual(await published(root), []);
    await obtainArtifact(root, request);
    assert.equal((await published(root)).length, 1);
  });
});

test('an abort while waiting for the lock ends the wait', async () => {
  await withRoot(async (root) => {
    const { request } = counting('x');
    const started = Promise.withResolvers<void>();
    const finish = Promise.withResolvers<void>();
    const slow = async (out: string) => {
      started.resolve();
      await finish.promise;
      return request.build(out);
    };
    const first = obtainArtifact(root, { ...request, build: slow });
    await started.promise;
    const abort = new AbortController();
    const waiting = obtainArtifact(root, { ...request, signal: abort.signal });
    abort.abort();
    await assert.rejects(waiting, (error) => isCoppiceError(error, 'aborted'));
    finish.resolve();
    await first;
  });
});

test('a builder that is killed holds nobody up, and its half-made work is swept', async () => {
  await withRoot(async (root) => {
    const store = new URL('../../src/templates/artifact-store.ts', import.meta.url).href;
    const program = `
      import { obtainArtifact } from ${JSON.stringify(store)};
      import { writeFile } from 'node:fs/promises';
      await obtainArtifact(${JSON.stringify(root)}, { kind: 'thing', inputs: { a: 1 }, build: async (out) => {
        await writeFile(out + '/half', 'x'); console.log('building'); setInterval(() => {}, 1000); await new Promise(() => {});
      } });`;
    const flags = ['--disable-warning=ExperimentalWarning', '--input-type=module-typescript', '-e', program];
    const child = spawn(process.execPath, flags, { stdio: ['ignore', 'pipe', 'inherit'] });
    await once(child.stdout, 'data');
    assert.deepEqual(await sweepWork(root), [], 'a build under way is not swept');
    child.kill('SIGKILL');
    await once(child, 'exit');
    assert.equal((await sweepWork(root)).length, 1);
    const { state, request } = counting('good');
    await obtainArtifact(root, request);
    assert.equal(state.built, 1);
  });
});

test('a lock has one holder at a time, in one process too', async () => {
  await withRoot(async (root) => {
    const path = join(root, 'x.lock');
    const held = tryLock(path);
    assert.ok(held);
    assert.equal(tryLock(path), undefined);
    held.release();
    held.release();
    const next = tryLock(path);
    assert.ok(next);
    next.release();
  });
});
