/** A build that is killed with SIGKILL leaves no process and no mount, and the next build cleans up after it. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync } from 'node:fs';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { isCoppiceError } from '../../src/contract/errors.ts';
import { sweepWork } from '../../src/templates/artifact-store.ts';
import { BASE } from '../../src/templates/definitions.ts';
import { buildImage } from '../../src/templates/image.ts';

const url = (path: string) => JSON.stringify(new URL(`../../src/templates/${path}`, import.meta.url).href);

/** Processes that name `folder` in their arguments, or have it as root or working directory; and mounts under it. */
function traces(folder: string): string[] {
  const found: string[] = [];
  for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name) && Number(name) !== process.pid)) {
    try {
      const args = readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ');
      if (args.includes(folder)) found.push(`${pid} ${args.slice(0, 200)}`);
    } catch {
      // It ended meanwhile.
    }
  }
  const mounts = readFileSync('/proc/self/mountinfo', 'utf8').split('\n');
  return [...found, ...mounts.filter((line) => line.includes(folder))];
}

async function until(what: () => boolean, describe: () => string): Promise<void> {
  const deadline = Date.now() + 180_000;
  while (!what()) {
    assert.ok(Date.now() < deadline, describe());
    await sleep(100);
  }
}

test('SIGKILL in the middle of a root filesystem', { timeout: 600_000 }, async (context) => {
  const folder = await mkdtemp(join(tmpdir(), 'coppice-kill-'));
  context.after(() => rm(folder, { recursive: true, force: true }));
  const program = `
    import { buildImage } from ${url('image.ts')};
    import { BASE } from ${url('definitions.ts')};
    await buildImage(BASE, { imagesFolder: ${JSON.stringify(folder)}, onProgress: (event) => console.log(event.label) });`;
  const child = spawn(
    process.execPath,
    ['--disable-warning=ExperimentalWarning', '--input-type=module-typescript', '-e', program],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  );
  let said = '';
  child.stdout.on('data', (chunk) => {
    said += chunk;
  });
  await until(
    () => said.includes('installing essential packages'),
    () => said,
  );
  assert.ok(traces(folder).length > 0, 'the build is under way');
  assert.ok(!(await sweepWork(folder)).some((name) => name.startsWith('rootfs-')), 'a build under way is not swept');
  child.kill('SIGKILL');
  await once(child, 'exit');
  await until(
    () => traces(folder).length === 0,
    () => traces(folder).join('\n'),
  );
  assert.ok((await sweepWork(folder)).some((name) => name.startsWith('rootfs-')));
  assert.deepEqual(
    (await readdir(folder)).filter((name) => name.startsWith('rootfs-')),
    [],
  );
});

test('an abort in the middle of a root filesystem', { timeout: 600_000 }, async (context) => {
  const folder = await mkdtemp(join(tmpdir(), 'coppice-abort-'));
  context.after(() => rm(folder, { recursive: true, force: true }));
  const abort = new AbortController();
  const building = buildImage(BASE, {
    imagesFolder: folder,
    signal: abort.signal,
    onProgress: ({ label }) => {
      if (label.includes('extracting archives')) abort.abort();
    },
  });
  await assert.rejects(building, (error) => isCoppiceError(error, 'aborted'));
  await until(
    () => traces(folder).length === 0,
    () => traces(folder).join('\n'),
  );
  assert.deepEqual(
    (await readdir(join(folder, '.work'))).filter((name) => !name.endsWith('.lock')),
    [],
  );
});
