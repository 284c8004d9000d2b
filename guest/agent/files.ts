/** File operations that are one request and one answer, and listing. All run as the agent; what is made belongs to the user. */
import fs from 'node:fs';
import path from 'node:path';
import { type FileEntry, MAX_PAYLOAD } from '../../src/channel/protocol.ts';
import type { Context } from './context.ts';
import { entryAt, entryOf } from './entry.ts';
import { Failure, isErrno } from './failure.ts';
import type { AgentStream } from './stream.ts';
import { copyTree } from './tree.ts';
import type { Account } from './users.ts';

/** Makes `folder` and what is missing above it, owned by `account`. A file in the way: Failure `invalid_argument`. */
export function ensureFolder(folder: string, account: Account): void {
  const missing: string[] = [];
  for (let at = folder; ; at = path.dirname(at)) {
    let stat: fs.Stats | undefined;
    try {
      stat = fs.statSync(at, { throwIfNoEntry: false });
    } catch (error) {
      if (!isErrno(error, 'ENOTDIR')) throw error;
    }
    if (stat?.isDirectory()) break;
    if (stat) throw new Failure('invalid_argument', `path is a file: '${at}'`);
    missing.push(at);
    if (at === path.dirname(at)) break;
  }
  for (const at of missing.reverse()) {
    try {
      fs.mkdirSync(at, 0o755);
    } catch (error) {
      if (isErrno(error, 'EEXIST')) continue;
      throw error;
    }
    fs.chownSync(at, account.uid, account.gid);
  }
}

export function makeFolder(context: Context, folder: string, account: Account): FileEntry {
  const stat = statOf(folder);
  if (stat?.isDirectory()) throw new Failure('already_exists', `directory already exists: '${folder}'`);
  if (stat) throw new Failure('invalid_argument', `path already exists but is not a directory: '${folder}'`);
  ensureFolder(folder, account);
  return entryAt(context, folder);
}

export async function move(
  context: Context,
  source: string,
  destination: string,
  account: Account,
): Promise<FileEntry> {
  entryAt(context, source);
  ensureFolder(path.dirname(destination), account);
  try {
    fs.renameSync(source, destination);
  } catch (error) {
    // Another file system, or a folder of a lower overlay layer, which cannot be renamed.
    if (!isErrno(error, 'EXDEV')) throw error;
    await copyTree(source, destination);
    await fs.promises.rm(source, { recursive: true, force: true });
  }
  return entryAt(context, destination);
}

export async function remove(target: string): Promise<void> {
  try {
    const stat = fs.lstatSync(target, { throwIfNoEntry: false });
    if (!stat) return;
    if (stat.isDirectory()) await fs.promises.rm(target, { recursive: true, force: true });
    else fs.unlinkSync(target);
  } catch (error) {
    if (!isErrno(error, 'ENOENT', 'ENOTDIR')) throw error;
  }
}

/** Bytes of one event; the rest of a frame is for the brackets. */
const EVENT_BYTES = MAX_PAYLOAD - 64;

/** Lexical, depth first; links inside are told and not followed. */
export async function list(context: Context, folder: string, depth: number, stream: AgentStream): Promise<void> {
  if (!Number.isSafeInteger(depth) || depth < 1) throw new Failure('invalid_argument', 'depth must be at least 1');
  let root: string;
  try {
    root = fs.realpathSync.native(folder);
  } catch (error) {
    if (isErrno(error, 'ENOENT')) throw new Failure('not_found', `path '${folder}' does not exist`);
    throw error;
  }
  if (!statOf(root)?.isDirectory()) throw new Failure('invalid_argument', `path is not a directory: '${folder}'`);
  stream.reply({});

  let batch: FileEntry[] = [];
  let bytes = 0;
  const send = async (): Promise<void> => {
    if (batch.length === 0) return;
    const ready = stream.event({ entries: batch });
    batch = [];
    bytes = 0;
    if (!ready) await stream.drained();
  };
  const walk = async (real: string, shown: string, left: number): Promise<void> => {
    const names = namesIn(real);
    for (const name of names) {
      if (stream.closed) return;
      const file = path.join(real, name);
      const stat = lstatOf(file);
      if (!stat) continue;
      let entry: FileEntry = { ...entryOf(context, file, stat), path: path.join(shown, name) };
      let size = Buffer.byteLength(JSON.stringify(entry)) + 1;
      if (size > EVENT_BYTES) {
        const { metadata: _, ...rest } = entry;
        entry = rest;
        size = Buffer.byteLength(JSON.stringify(entry)) + 1;
      }
      if (bytes + size > EVENT_BYTES) await send();
      batch.push(entry);
      bytes += size;
      if (left > 1 && stat.isDirectory()) await walk(file, entry.path, left - 1);
    }
  };
  await walk(root, folder, depth);
  await send();
  stream.end();
}

function namesIn(folder: string): string[] {
  try {
    return fs.readdirSync(folder).sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)));
  } catch (error) {
    // It went away, or is not ours to read, while the tree was walked.
    if (isErrno(error, 'ENOENT', 'ENOTDIR', 'EACCES')) return [];
    throw error;
  }
}

function statOf(file: string): fs.Stats | undefined {
  try {
    return fs.statSync(file, { throwIfNoEntry: false });
  } catch (error) {
    if (isErrno(error, 'ENOTDIR', 'ELOOP')) return undefined;
    throw error;
  }
}

function lstatOf(file: string): fs.Stats | undefined {
  try {
    return fs.lstatSync(file, { throwIfNoEntry: false });
  } catch {
    return undefined;
  }
}
