/**
 * A machine image of a few megabytes for the real tests of the backend: Debian's cloud kernel, and an initrd whose init (a
 * busybox shell) answers lines on the channel. No template, no agent: the backend alone is under test.
 *
 * Kernel and busybox come from COPPICE_TEST_KERNEL_ROOT (a folder with boot/vmlinuz-* and lib/modules/*) and
 * COPPICE_TEST_BUSYBOX (a static busybox), else from the distribution's packages through apt-get, kept in a cache folder.
 *
 * Lines understood: `echo TEXT`; `write TEXT` (appends to the writable layer, then `ok`); `read` (the layer's lines, joined
 * by `,`); `drives` (serials of the drives); `clock` (uptime in seconds); `keep TEXT` and `kept` (in memory alone); `fill MIB`
 * (so much memory gets random bytes; then `ok`) and `sum` (of them); `store MIB` and `stored` (the same on the layer, read from
 * the drive).
 */

import { createHash } from 'node:crypto';
import { access, chmod, mkdir, readdir, readFile, rename, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { MachineImage } from '../../src/isolation/backend.ts';
import { type CpioEntry, cpioArchive } from '../../src/isolation/microvm/cpio.ts';
import { type DebOptions, type UnpackedDeb, unpackDeb } from '../../src/templates/debs.ts';

/** In the order in which they must be loaded. */
const MODULES = [
  'virtio/virtio_ring.ko',
  'virtio/virtio.ko',
  'virtio/virtio_mmio.ko',
  'block/virtio_blk.ko',
  'char/virtio_console.ko',
  'char/hw_random/virtio-rng.ko',
  'core/failover.ko',
  'net/net_failover.ko',
  'net/virtio_net.ko',
];

const INIT = `#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t devtmpfs dev /dev
for m in $($b cat /modules/order); do $b insmod /modules/$m; done
for d in /sys/block/vd*; do
  [ "$($b cat $d/serial)" = coppice-layer ] && $b mount -t ext4 -o noatime /dev/\${d##*/} /layer
done
for p in /sys/class/virtio-ports/*; do
  [ "$($b cat $p/name)" = coppice.channel ] && port=/dev/\${p##*/}
done
exec 3<>$port
echo init ready
while true; do
  if ! read -r verb text <&3; then $b usleep 20000; continue; fi
  case "$verb" in
    echo) echo "$text" >&3 ;;
    write) echo "$text" >> /layer/lines && $b sync && echo ok >&3 ;;
    read) lines=$($b tr '\\n' , < /layer/lines 2>/dev/null); echo "$lines" >&3 ;;
    drives) serials=; for d in /sys/block/vd*; do serials="$serials $($b cat $d/serial)"; done; echo $serials >&3 ;;
    clock) read -r up idle < /proc/uptime; echo "$up" >&3 ;;
    keep) kept=$text; echo ok >&3 ;;
    kept) echo "$kept" >&3 ;;
    fill) $b dd if=/dev/urandom of=/filled bs=1M count=$text 2>/dev/null; echo ok >&3 ;;
    sum) sum=$($b md5sum /filled); echo "\${sum%% *}" >&3 ;;
    store) $b dd if=/dev/urandom of=/layer/stored bs=1M count=$text 2>/dev/null && $b sync && echo ok >&3 ;;
    stored) echo 3 > /proc/sys/vm/drop_caches; sum=$($b md5sum /layer/stored); echo "\${sum%% *}" >&3 ;;
    panic) echo c > /proc/sysrq-trigger ;;
  esac
done
`;

/** Makes the image in `folder`. */
export async function tinyImage(folder: string): Promise<MachineImage> {
  const { kernelRoot, busybox } = await sources();
  const kernelName = (await readdir(join(kernelRoot, 'boot'))).find((name) => name.startsWith('vmlinuz-'))!;
  const modules = join(kernelRoot, 'lib/modules', kernelName.slice('vmlinuz-'.length), 'kernel/drivers');
  const moduleEntries: CpioEntry[] = [];
  const order: string[] = [];
  for (const path of MODULES) {
    const data = await readFile(join(modules, path)).catch(() =>
      readFile(join(modules, '../net', path)).catch(() => undefined),
    );
    if (!data) continue;
    const name = path.split('/').at(-1)!;
    order.push(name);
    moduleEntries.push({ path: `modules/${name}`, mode: 0o100644, data });
  }
  const directory = (path: string): CpioEntry => ({ path, mode: 0o040755 });
  const initrd = cpioArchive([
    ...['bin', 'dev', 'proc', 'sys', 'layer', 'modules'].map(directory),
    { path: 'bin/busybox', mode: 0o100755, data: await readFile(busybox) },
    { path: 'modules/order', mode: 0o100644, data: Buffer.from(order.join('\n')) },
    ...moduleEntries,
    { path: 'init', mode: 0o100755, data: Buffer.from(INIT) },
  ]);
  await mkdir(folder, { recursive: true });
  const image = {
    hash: createHash('sha256').update(initrd).digest('hex'),
    kernel: join(kernelRoot, 'boot', kernelName),
    initrd: join(folder, 'initrd'),
    rootfs: join(folder, 'rootfs'),
    agentDrive: join(folder, 'agent'),
  };
  await writeFile(image.initrd, initrd);
  for (const path of [image.rootfs, image.agentDrive]) {
    await writeFile(path, '');
    await truncate(path, 2 ** 20);
    await chmod(path, 0o444);
  }
  return image;
}

async function sources(): Promise<{ readonly kernelRoot: string; readonly busybox: string }> {
  const cache = join(tmpdir(), 'coppice-test-cache');
  const kernelRoot = process.env.COPPICE_TEST_KERNEL_ROOT ?? join(cache, 'kernel');
  const busyboxRoot = join(cache, 'busybox');
  if (!process.env.COPPICE_TEST_KERNEL_ROOT) {
    await unpackOnce(kernelRoot, (options) => unpackDeb('linux-image-cloud-amd64', options, /^linux-image-\d/));
  }
  if (!process.env.COPPICE_TEST_BUSYBOX)
    await unpackOnce(busyboxRoot, (options) => unpackDeb('busybox-static', options));
  return { kernelRoot, busybox: process.env.COPPICE_TEST_BUSYBOX ?? join(busyboxRoot, 'bin/busybox') };
}

/** Two test files may do so at the same time. */
async function unpackOnce(target: string, unpack: (options: DebOptions) => Promise<UnpackedDeb>): Promise<void> {
  if (
    await access(target).then(
      () => true,
      () => false,
    )
  )
    return;
  const work = `${target}.${process.pid}`;
  await mkdir(work, { recursive: true });
  const { folder } = await unpack({ work, suite: 'bookworm' });
  await rename(folder, target).catch(() => {});
  await rm(work, { recursive: true, force: true });
}
