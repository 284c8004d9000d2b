/** Copies a file, link or folder with owners, modes, times and user attributes. */
import fs from 'node:fs/promises';
import path from 'node:path';
import { Failure } from './failure.ts';

export async function copyTree(source: string, destination: string): Promise<void> {
  const stat = await fs.lstat(source);
  if (stat.isSymbolicLink()) {
    await fs.rm(destination, { force: true });
    await fs.symlink(await fs.readlink(source), destination);
    await fs.lchown(destination, stat.uid, stat.gid);
    return;
  }
  if (stat.isDirectory()) {
    await fs.mkdir(destination, { recursive: true });
    for (const name of await fs.readdir(source)) await copyTree(path.join(source, name), path.join(destination, name));
  } else if (stat.isFile()) {
    await fs.copyFile(source, destination);
  } else {
    throw new Failure('failed_precondition', `'${source}' cannot be moved to another file system`);
  }
  await fs.chown(destination, stat.uid, stat.gid);
  await fs.chmod(destination, stat.mode & 0o7777);
  await fs.utimes(destination, stat.atime, stat.mtime);
}
