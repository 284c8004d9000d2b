/** A Linux initramfs in the "newc" format (Linux: Documentation/driver-api/early-userspace/buffer-format.rst). */

export interface CpioEntry {
  /** Relative, without a leading slash. Parents must come first. */
  readonly path: string;
  /** With the file type bits, e.g. 0o100755, 0o040755, 0o120777. */
  readonly mode: number;
  /** File contents or link target. */
  readonly data?: Uint8Array;
}

const MAGIC = '070701';

/** The archive, uncompressed, owner root, times zero: equal entries make equal bytes. */
export function cpioArchive(entries: readonly CpioEntry[]): Buffer {
  const parts: Buffer[] = [];
  const all = [...entries, { path: 'TRAILER!!!', mode: 0 }] satisfies readonly CpioEntry[];
  all.forEach((entry: CpioEntry, index) => {
    const name = Buffer.from(`${entry.path}\0`);
    const data = Buffer.from(entry.data ?? new Uint8Array(0));
    const fields = [index + 1, entry.mode, 0, 0, 1, 0, data.length, 0, 0, 0, 0, name.length, 0];
    const header = Buffer.from(MAGIC + fields.map((field) => field.toString(16).padStart(8, '0')).join(''));
    parts.push(header, name, padding(header.length + name.length), data, padding(data.length));
  });
  return Buffer.concat(parts);
}

function padding(length: number): Buffer {
  return Buffer.alloc((4 - (length % 4)) % 4);
}
