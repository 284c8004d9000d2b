/** Host packages: known by their tools, installed by a command that a person can copy. */
import assert from 'node:assert/strict';
import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import { isCoppiceError } from '../../src/contract/errors.ts';
import { dependencyOf } from '../../src/templates/debs.ts';
import { ext4Size, stableUuid } from '../../src/templates/ext4.ts';
import { HOST_PACKAGES, installCommand, installPackages, missingPackages } from '../../src/templates/packages.ts';

test('a package is missing until each of its tools is an executable on the PATH', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'coppice-tools-'));
  const before = process.env.PATH;
  try {
    process.env.PATH = folder;
    for (const name of await missingPackages()) {
      for (const tool of HOST_PACKAGES.find((entry) => entry.name === name)!.tools) {
        await writeFile(join(folder, tool), '#!/bin/sh\n');
        await chmod(join(folder, tool), 0o755);
      }
    }
    assert.deepEqual(await missingPackages(), []);
  } finally {
    process.env.PATH = before;
    await rm(folder, { recursive: true });
  }
});

test('without root nothing is installed: host_unfit, with the command to run', async (context) => {
  context.mock.method(process as { getuid: () => number }, 'getuid', () => 1000);
  const command = 'sudo apt-get update && sudo apt-get install -y --no-install-recommends one two';
  assert.equal(installCommand(['one', 'two']), command);
  await assert.rejects(
    installPackages(undefined, undefined, ['one', 'two']),
    (error) =>
      isCoppiceError(error, 'host_unfit') && error.details.command === command && error.message.includes(command),
  );
  await installPackages(undefined, undefined, []);
});

test('a metapackage is followed to the kernel of the day', () => {
  const control = 'Package: linux-image-cloud-amd64\nDepends: base, linux-image-6.1.0-56-cloud-amd64 (= 6.1.192-2)\n';
  assert.equal(dependencyOf(control, /^linux-image-\d/), 'linux-image-6.1.0-56-cloud-amd64');
  assert.equal(dependencyOf('Package: x\n', /^linux-image-\d/), undefined);
});

test('an image is sized above what its files can take', () => {
  const { inodeCount, sizeKiB } = ext4Size(1_000_000_000, 40_000);
  assert.ok(inodeCount > 40_000);
  assert.ok(sizeKiB * 1024 > 1_000_000_000 + 40_000 * 4096);
  assert.match(stableUuid('x'), /^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
  assert.equal(stableUuid('x'), stableUuid('x'));
});
