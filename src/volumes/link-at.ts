/** linkat(2), which Node does not offer: gives a name to a file that was opened without one. */
import { createRequire } from 'node:module';
import { getSystemErrorName } from 'node:util';
import type { LinkAt } from './beneath.ts';

const AT_FDCWD = -100;
const AT_SYMLINK_FOLLOW = 0x400;

export function loadLinkAt(): LinkAt {
  const koffi = createRequire(import.meta.url)('koffi') as typeof import('koffi');
  const linkat = koffi
    .load('libc.so.6')
    .func('int linkat(int fromFolder, const char *from, int toFolder, const char *to, int flags)');
  return (fd, path) => {
    if (linkat(AT_FDCWD, `/proc/self/fd/${fd}`, AT_FDCWD, path, AT_SYMLINK_FOLLOW) === 0) return;
    const code = getSystemErrorName(-koffi.errno());
    throw Object.assign(new Error(`linkat: ${code}`), { code });
  };
}
