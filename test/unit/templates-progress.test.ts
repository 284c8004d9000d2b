/** Estimates: a first guess, then what the machine has shown; never a step that is done before it is. */
import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import { type BuildProgress, trackProgress } from '../../src/templates/progress.ts';

const TRACKS = [[{ step: 'rootfs', key: 'rootfs:x' }], [{ step: 'kernel', key: 'kernel' }]] as const;

async function withFolder(check: (folder: string) => Promise<void>): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), 'coppice-progress-'));
  try {
    await check(folder);
  } finally {
    await rm(folder, { recursive: true });
  }
}

test('the time left is that of the slower track, and falls as steps end', async () => {
  await withFolder(async (folder) => {
    await writeFile(join(folder, 'durations.json'), '{"rootfs:x":50,"kernel":10,"odd":"x"}');
    let clock = 0;
    const events: BuildProgress[] = [];
    const tracker = await trackProgress(
      folder,
      TRACKS,
      (event) => events.push(event),
      () => clock,
    );
    await tracker.step('kernel', 'kernel', 'guest kernel', async () => {
      clock += 20_000;
      return { cached: false };
    });
    assert.deepEqual(
      events.map(({ state, etaSeconds }) => [state, etaSeconds]),
      [
        ['running', 50],
        ['done', 50],
      ],
    );
    await tracker.step('rootfs', 'rootfs:x', 'root', async (setStage) => {
      clock += 30_000;
      setStage('unpacking');
      clock += 90_000;
      setStage('late');
      return { cached: false };
    });
    const [, , , unpacking, late, done] = events;
    assert.equal(unpacking?.label, 'root: unpacking');
    assert.equal(unpacking?.etaSeconds, 20);
    assert.equal(unpacking?.fraction, 0.6);
    assert.ok(late!.fraction! < 1 && late!.etaSeconds! > 0);
    assert.deepEqual([done?.fraction, done?.etaSeconds], [1, 0]);
  });
});

test('durations are learned, but not from the cache', async () => {
  await withFolder(async (folder) => {
    let clock = 0;
    const tracker = await trackProgress(folder, TRACKS, undefined, () => clock);
    await tracker.step('kernel', 'kernel', 'k', async () => ({ cached: true }));
    await tracker.step('rootfs', 'rootfs:x', 'r', async () => {
      clock += 40_000;
      return { cached: false };
    });
    assert.deepEqual(JSON.parse(await readFile(join(folder, 'durations.json'), 'utf8')), { 'rootfs:x': 40 });
    const events: BuildProgress[] = [];
    const next = await trackProgress(
      folder,
      TRACKS,
      (event) => events.push(event),
      () => clock,
    );
    await next.step('rootfs', 'rootfs:x', 'r', async () => ({ cached: true }));
    assert.equal(events[0]?.etaSeconds, 40);
    assert.equal(events.at(-1)?.state, 'cached');
  });
});

test('a step that fails is not learned, and its ticks stop', async () => {
  await withFolder(async (folder) => {
    const tracker = await trackProgress(folder, TRACKS);
    await assert.rejects(
      tracker.step('kernel', 'kernel', 'k', () => Promise.reject(new Error('no'))),
      /^Error: no$/,
    );
    await assert.rejects(readFile(join(folder, 'durations.json')));
  });
});
