/** The initramfs: a static busybox, the modules a microVM needs, and our init. About 1.5 MB, the same bytes each time. */
import { gzipSync } from 'node:zlib';
import { type CpioEntry, writeCpio } from './cpio.ts';
import type { KernelModule } from './kernel-modules.ts';

/** Devices and filesystems of every machine; what is built into the kernel is left out. */
export const GUEST_MODULES = ['virtio_mmio', 'virtio_blk', 'virtio_net', 'virtio_console', 'overlay', 'ext4'] as const;
/**
 * For machine types with a PCI bus, an entropy device, ending the connections of a restored machine, and volumes; used where the
 * kernel has them.
 */
export const OPTIONAL_MODULES = ['virtio_pci', 'virtio_rng', 'tcp_diag', 'nfsv3'] as const;

/** The gzipped archive. */
export function makeInitrd(parts: InitrdParts): Uint8Array {
  return gzipSync(writeCpio(initrdEntries(parts)), { level: 9 });
}

export interface InitrdParts {
  /** A static busybox for the guest's architecture. */
  readonly busybox: Uint8Array;
  /** The /init script. */
  readonly init: Uint8Array;
  /** In load order. */
  readonly modules: readonly KernelModule[];
}

export function initrdEntries(parts: InitrdParts): CpioEntry[] {
  const folders = ['bin', 'dev', 'proc', 'sys', 'mnt', 'modules'];
  return [
    ...folders.map((path): CpioEntry => ({ type: 'directory', path, mode: 0o755 })),
    // The kernel opens it for init before devtmpfs is mounted.
    { type: 'character', path: 'dev/console', mode: 0o600, major: 5, minor: 1 },
    { type: 'file', path: 'bin/busybox', mode: 0o755, data: parts.busybox },
    { type: 'symlink', path: 'bin/sh', target: 'busybox' },
    ...parts.modules.map(
      ({ name, data }, index): CpioEntry => ({
        type: 'file',
        // Numbered: init loads them in the order of their names.
        path: `modules/${String(index).padStart(2, '0')}-${name}.ko`,
        mode: 0o644,
        data,
      }),
    ),
    { type: 'file', path: 'init', mode: 0o755, data: parts.init },
  ];
}
