/**
 * The writable layer of a clone: an empty copy-on-write image, as QEMU's docs/interop/qcow2.txt (version 3) describes it.
 * It names no backing file: the VMM is told its backing node on the command line, so that nothing inside an image that a
 * guest's VMM has written can make a later VMM open another file of the host.
 */

/** 16 KiB: a small write to a fresh cluster copies little, and 8 bytes of map a cluster stay small up to 100 GiB. */
const CLUSTER_BITS = 14;
const CLUSTER_BYTES = 2 ** CLUSTER_BITS;
export const OVERLAY_HEADER_BYTES = 104;
const MAGIC = 0x514649fb;

const ceilDiv = (a: number, b: number) => Math.ceil(a / b);

/** All bytes of an overlay of `virtualBytes` (a multiple of 512) in which nothing is written yet. */
export function emptyOverlay(virtualBytes: number): Buffer {
  if (!Number.isSafeInteger(virtualBytes) || virtualBytes <= 0 || virtualBytes % 512 !== 0)
    throw new RangeError('overlay size must be a positive multiple of 512');
  const bytesPerL1Entry = (CLUSTER_BYTES / 8) * CLUSTER_BYTES;
  const l1Entries = ceilDiv(virtualBytes, bytesPerL1Entry);
  const l1Clusters = ceilDiv(l1Entries * 8, CLUSTER_BYTES);
  // Clusters in order: header, refcount table, refcount block, L1 table.
  const clusters = 3 + l1Clusters;
  if (clusters > CLUSTER_BYTES / 2) throw new RangeError('overlay too large');
  const image = Buffer.alloc(clusters * CLUSTER_BYTES);
  image.writeUInt32BE(MAGIC, 0);
  image.writeUInt32BE(3, 4);
  image.writeUInt32BE(CLUSTER_BITS, 20);
  image.writeBigUInt64BE(BigInt(virtualBytes), 24);
  image.writeUInt32BE(l1Entries, 36);
  image.writeBigUInt64BE(BigInt(3 * CLUSTER_BYTES), 40);
  image.writeBigUInt64BE(BigInt(CLUSTER_BYTES), 48);
  image.writeUInt32BE(1, 56);
  image.writeUInt32BE(4, 96); // refcounts of 2^4 bits
  image.writeUInt32BE(OVERLAY_HEADER_BYTES, 100);
  image.writeBigUInt64BE(BigInt(2 * CLUSTER_BYTES), CLUSTER_BYTES);
  for (let cluster = 0; cluster < clusters; cluster++) image.writeUInt16BE(1, 2 * CLUSTER_BYTES + 2 * cluster);
  return image;
}

/**
 * Refuses an overlay that is not the plain kind made above: a version 3 image of that size with no backing name and no
 * incompatible feature but "dirty". To be asked before a VMM opens an overlay that another VMM has written.
 * @param header the first 104 bytes or more.
 */
export function overlayFault(header: Uint8Array, virtualBytes: number): string | undefined {
  const view = Buffer.from(header.buffer, header.byteOffset, header.byteLength);
  if (view.length < OVERLAY_HEADER_BYTES) return 'shorter than its header';
  if (view.readUInt32BE(0) !== MAGIC || view.readUInt32BE(4) !== 3) return 'not a qcow2 image of version 3';
  if (view.readBigUInt64BE(8) !== 0n) return 'names a backing file';
  if (view.readUInt32BE(20) !== CLUSTER_BITS) return 'has another cluster size';
  if (view.readBigUInt64BE(24) !== BigInt(virtualBytes)) return 'has another size';
  if (view.readUInt32BE(32) !== 0) return 'is encrypted';
  if (view.readUInt32BE(60) !== 0) return 'holds snapshots';
  if ((view.readBigUInt64BE(72) & ~1n) !== 0n) return 'uses a feature that is not expected';
  return undefined;
}
