/**
 * A copy of the layer of a living jail, in two steps: `approach` while the jail runs, `settle` while it stands still, which
 * has to move only what was written in between. Whether anything was, the loop device's own count of written sectors says.
 */
import { closeSync, openSync, readFileSync } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import type { DiskCalls } from './disk-calls.ts';
import { loopDevices } from './loop-devices.ts';
import { copySparse, heed, refreshSparse, type Stop } from './sparse-copy.ts';

/** Flushes of a layer that nobody writes to, until the count has been the same twice. */
const SETTLE_ROUNDS = 4;

export interface Settled {
  /** Bytes that had to be written while the jail stood still. */
  readonly bytes: number;
  /** How often the whole layer was compared with its copy meanwhile; 0: nothing was written since the approach. */
  readonly passes: number;
}

export interface LayerCopy {
  approach(stop: Stop): Promise<void>;
  /** To be called when no process of the jail can run. The copy is then the file system as of now, all written back. */
  settle(stop: Stop): Promise<Settled>;
  close(): Promise<void>;
}

/** @param layer the image behind a mounted loop device. @param to is made. */
export async function openLayerCopy(calls: DiskCalls, layer: string, to: string): Promise<LayerCopy> {
  const source = await open(layer, 'r');
  let target: FileHandle | undefined;
  try {
    const { size, dev, ino } = await source.stat({ bigint: true });
    const device = openLoopOf(calls, layer, dev, ino);
    try {
      target = await open(to, 'wx+', 0o600);
      await target.truncate(Number(size));
      return layerCopy({ calls, source, target, size: Number(size), ...device });
    } catch (error) {
      closeSync(device.device);
      throw error;
    }
  } catch (error) {
    await target?.close();
    await source.close();
    throw error;
  }
}

interface Parts {
  readonly calls: DiskCalls;
  readonly source: FileHandle;
  readonly target: FileHandle;
  readonly size: number;
  /** Open loop device. */
  readonly device: number;
  /** Its name. */
  readonly name: string;
}

function layerCopy({ calls, source, target, size, device, name }: Parts): LayerCopy {
  let shares = false;
  /** What was written when the copy was last equal to the layer; undefined where that is not counted. */
  let equalAt: string | undefined;

  /** Equal to the layer at some moment of the call, if nothing was written since the flush before. */
  const copy = async (stop: Stop): Promise<number> => {
    if (!shares) return refreshSparse(calls, source, target, size, stop);
    if (!(await calls.share(source.fd, target.fd))) throw new Error('the blocks of a layer are not shared any more');
    return 0;
  };

  return {
    async approach(stop) {
      await calls.flush(device);
      heed(stop);
      equalAt = written(name);
      shares = await copySparse(calls, source, target, size, stop);
      await calls.flush(device);
      // What changed during a long copy is caught up with here, so that little is left for the pause.
      const now = written(name);
      if (!shares && now !== equalAt) {
        await copy(stop);
        equalAt = now;
      }
      await calls.flush(device);
    },
    async settle(stop) {
      let bytes = 0;
      for (let passes = 0; passes <= SETTLE_ROUNDS; passes++) {
        heed(stop);
        await calls.flush(device);
        const now = written(name);
        if (now !== undefined && now === equalAt) return { bytes, passes };
        bytes += await copy(stop);
        if (now === undefined) return { bytes, passes: passes + 1 };
        equalAt = now;
      }
      throw new Error('the layer is written to although its jail stands still');
    },
    async close() {
      closeSync(device);
      await source.close();
      await target.close();
    },
  };
}

/**
 * Sectors that a device has written and discarded (Documentation/block/stat.rst), counted before the writer is told that it
 * is done: whatever a flush has waited for is in it. undefined: this device does not count.
 */
function written(name: string): string | undefined {
  if (readFileSync(`/sys/block/${name}/queue/iostats`, 'utf8').trim() !== '1') return undefined;
  const fields = readFileSync(`/sys/block/${name}/stat`, 'utf8').trim().split(/\s+/);
  const [sectors, discarded] = [fields[6], fields[13]];
  return sectors === undefined || discarded === undefined ? undefined : `${sectors} ${discarded}`;
}

/** Its name in /sys may be another's by the time the device is open: the file's own identity decides. */
function openLoopOf(
  calls: DiskCalls,
  layer: string,
  fileDevice: bigint,
  inode: bigint,
): { readonly device: number; readonly name: string } {
  const ending = `/${join(basename(dirname(layer)), basename(layer))}`;
  for (const { name, file } of loopDevices()) {
    if (!file.endsWith(ending)) continue;
    const device = openSync(`/dev/${name}`, 'r');
    const backing = calls.backing(device);
    if (backing?.inode === inode && backing.device === fileDevice) return { device, name };
    closeSync(device);
  }
  throw new Error('the layer is on no loop device: its jail is gone');
}
