/** Extended attributes of files, which Node does not set: through koffi, on descriptors. */
import { createRequire } from 'node:module';
import { getSystemErrorName } from 'node:util';

/**
 * Those that an image may bring: file capabilities, and what programs note for themselves. Not `trusted.`, nor
 * `user.overlay.`: there overlayfs keeps where folders lead, and would believe the image's.
 */
export function isKeptAttribute(name: string): boolean {
  if (name.includes('\0') || name.length > 255) return false;
  return name === 'security.capability' || (name.startsWith('user.') && !name.startsWith('user.overlay.'));
}

export type SetAttribute = (fd: number, name: string, value: Buffer) => void;

/** Throws an error with the errno's name as its `code`. */
export function loadSetAttribute(): SetAttribute {
  const koffi = createRequire(import.meta.url)('koffi') as typeof import('koffi');
  const fsetxattr = koffi
    .load('libc.so.6')
    .func('int fsetxattr(int fd, const char *name, const void *value, size_t size, int flags)');
  return (fd, name, value) => {
    // koffi takes text as UTF-8, and a name is bytes.
    const bytes = Buffer.from(`${name}\0`, 'latin1');
    if (fsetxattr(fd, bytes, value, value.length, 0) === 0) return;
    const code = getSystemErrorName(-koffi.errno());
    throw Object.assign(new Error(`fsetxattr ${name}: ${code}`), { code });
  };
}
