/**
 * Writes a cpio archive in the "newc" format, the one that the Linux kernel unpacks as an initramfs (format:
 * Documentation/driver-api/early-userspace/buffer-format.rst in the kernel's tree). Deterministic: same entries, same bytes.
 */

export type CpioEntry =
  | { readonly type: 'file'; readonly path: string; readonly mode: number; readonly data: Uint8Array }
  | { readonly type: 'directory'; readonly path: string; readonly mode: number }
  | { readonly type: 'symlink'; readonly path: string; readonly target: string }
  | {
      readonly type: 'character';
      readonly path: string;
      readonly mode: number;
      readonly major: number;
      readonly minor: number;
    };

const FILE_TYPE = { file: 0o100000, directory: 0o040000, symlink: 0o120000, character: 0o020000 } as const;
const TRAILER = 'TRAILER!!!';

/** Paths are relative, without a leading slash; a parent must come before its children. Everything belongs to root. */
export function writeCpio(entries: readonly CpioEntry[]): Uint8Array {
  const chunks: Uint8Array[] = [];
  let offset = 0;
  const push = (bytes: Uint8Array) => {
    chunks.push(bytes);
    const padding = (4 - (bytes.length % 4)) % 4;
    if (padding > 0) chunks.push(new Uint8Array(padding));
    offset += bytes.length + padding;
  };
  let inode = 0;
  for (const entry of entries) {
    if (entry.path === '' || entry.path.startsWith('/') || entry.path.includes('\0'))
      throw new TypeError(`not a relative path: '${entry.path}'`);
    inode += 1;
    const data =
      entry.type === 'file'
        ? entry.data
        : entry.type === 'symlink'
          ? Buffer.from(entry.target, 'utf8')
          : new Uint8Array();
    const mode = FILE_TYPE[entry.type] | (entry.type === 'symlink' ? 0o777 : entry.mode & 0o7777);
    const [major, minor] = entry.type === 'character' ? [entry.major, entry.minor] : [0, 0];
    const links = entry.type === 'directory' ? 2 : 1;
    push(header(entry.path, { inode, mode, links, size: data.length, major, minor }));
    push(data);
  }
  push(header(TRAILER, { inode: 0, mode: 0, links: 1, size: 0, major: 0, minor: 0 }));
  const result = new Uint8Array(offset);
  let at = 0;
  for (const chunk of chunks) {
    result.set(chunk, at);
    at += chunk.length;
  }
  return result;
}

interface HeaderFields {
  readonly inode: number;
  readonly mode: number;
  readonly links: number;
  readonly size: number;
  readonly major: number;
  readonly minor: number;
}

/** 6 bytes of magic, 13 numbers of 8 hex digits, then the NUL-terminated name. Header and name are padded together. */
function header(path: string, fields: HeaderFields): Uint8Array {
  const name = Buffer.from(`${path}\0`, 'utf8');
  const { inode, mode, links, size, major, minor } = fields;
  // ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor, rdevmajor, rdevminor, namesize, check
  const numbers = [inode, mode, 0, 0, links, 0, size, 0, 0, major, minor, name.length, 0];
  const text = `070701${numbers.map((value) => value.toString(16).toUpperCase().padStart(8, '0')).join('')}`;
  return Buffer.concat([Buffer.from(text, 'latin1'), name]);
}
