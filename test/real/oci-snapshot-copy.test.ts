/** The two steps of a layer's copy: what is written between them is in it, to the byte, and only that is moved. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { statSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, test } from 'node:test';
import { loadDiskCalls } from '../../src/isolation/jail/oci/disk-calls.ts';
import { openLayerCopy } from '../../src/isolation/jail/oci/layer-copy.ts';
import { Stopped, stopOn } from '../../src/isolation/jail/oci/sparse-copy.ts';
import { cgroupsOf, eachRuntime, said, withAgent } from '../helpers/jail-rig.ts';
import { until } from '../helpers/until.ts';

const MIB = 2 ** 20;
const { stop } = stopOn(undefined);
const heldBytes = (path: string): number => statSync(path).blocks * 512;

eachRuntime((rig) => {
  afterEach(() => rig.sweepAll());

  const start = async (id: string) => {
    const machine = await rig.clone(id);
    const cgroups = await cgroupsOf(rig.machines);
    const layer = join(machine.record.folder, 'layer.ext4');
    const to = join(rig.home, `${id}.copy`);
    const copy = await openLayerCopy(loadDiskCalls(), layer, to);
    const inside = (line: string) => withAgent(machine, (agent) => said(agent, line));
    const settle = async () => {
      await machine.park();
      await until('it stands still', () => cgroups.freezing(id).done);
      const settled = await copy.settle(stop);
      execFileSync('cmp', [layer, to], { stdio: 'pipe' });
      return settled;
    };
    return { machine, copy, inside, settle, layer, to };
  };

  test('a jail that writes nothing meanwhile stands still for no copying at all', async () => {
    const { copy, inside, settle, layer, to } = await start('still');
    await inside('head -c 20M /dev/urandom > /data');
    await copy.approach(stop);
    assert.deepEqual(await settle(), { bytes: 0, passes: 0 });
    assert.ok(heldBytes(to) <= heldBytes(layer), 'it is as sparse');
    await copy.close();
  });

  test('what is written, overwritten and removed meanwhile is in the copy, and little else is moved', async () => {
    const { copy, inside, settle, to } = await start('between');
    await inside('head -c 40M /dev/urandom > /data; head -c 40M /dev/urandom > /gone; sync');
    await copy.approach(stop);
    const before = heldBytes(to);
    assert.ok(before > 80 * MIB);
    await inside('dd if=/dev/urandom of=/data bs=4k count=1 seek=500 conv=notrunc; echo late > /late; rm /gone');
    const { bytes, passes } = await settle();
    assert.ok(passes === 1 && bytes > 0 && bytes < 20 * MIB, `${bytes} bytes, ${passes} passes`);
    assert.ok(heldBytes(to) < before - 35 * MIB, 'what was removed is a hole again');
    await copy.close();
    const late = execFileSync('debugfs', ['-R', 'cat /upper/late', to], { stdio: ['ignore', 'pipe', 'ignore'] });
    assert.equal(late.toString(), 'late\n');
  });

  test('a layer in many small pieces is copied within the space that it takes', async () => {
    const { copy, inside, settle, layer, to } = await start('pieces');
    await inside(`python3 - <<'END'
import os
fd = os.open('/pieces', os.O_RDWR | os.O_CREAT)
for at in range(0, 128 * 2**20, 32768): os.pwrite(fd, os.urandom(4096), at)
os.fsync(fd)
END`);
    await copy.approach(stop);
    await settle();
    assert.ok(heldBytes(to) < heldBytes(layer) * 1.5, `${heldBytes(to)} of ${heldBytes(layer)}`);
    await copy.close();
  });

  test('a stop is heeded in both steps; a layer on no device is refused', async () => {
    const { copy, inside, machine } = await start('stopped');
    await inside('head -c 20M /dev/urandom > /data');
    const abort = new AbortController();
    const stopped = stopOn(abort.signal);
    abort.abort();
    stopped.release();
    await assert.rejects(copy.approach(stopped.stop), Stopped);
    await assert.rejects(copy.settle(stopped.stop), Stopped);
    await copy.close();
    const stray = join(machine.record.folder, 'stray');
    execFileSync('truncate', ['-s', '1M', stray]);
    await assert.rejects(openLayerCopy(loadDiskCalls(), stray, join(rig.home, 'never')), /no loop device/);
  });
});
