/**
 * Watching folders by inotify. One inotify descriptor serves all watches, read by one blocking call in the thread pool
 * while there is any; waiting costs nothing.
 */
import fs from 'node:fs';
import path from 'node:path';
import { MAX_PAYLOAD, type WatchEvent } from '../../src/channel/protocol.ts';
import type { Context } from './context.ts';
import { entryAt } from './entry.ts';
import { Failure, isErrno } from './failure.ts';
import type { AgentStream } from './stream.ts';

const IN_MODIFY = 0x2;
const IN_ATTRIB = 0x4;
const IN_MOVED_FROM = 0x40;
const IN_MOVED_TO = 0x80;
const IN_CREATE = 0x100;
const IN_DELETE = 0x200;
const IN_DELETE_SELF = 0x400;
const IN_MOVE_SELF = 0x800;
const IN_Q_OVERFLOW = 0x4000;
const IN_IGNORED = 0x8000;
const IN_ISDIR = 0x40000000;
const IN_ONLYDIR = 0x01000000;
const MASK =
  IN_MODIFY |
  IN_ATTRIB |
  IN_MOVED_FROM |
  IN_MOVED_TO |
  IN_CREATE |
  IN_DELETE |
  IN_DELETE_SELF |
  IN_MOVE_SELF |
  IN_ONLYDIR;

const RECORD_BYTES = 16;
const READ_BYTES = 65_536;
/** Folders in one recursive watch. */
const MAX_FOLDERS = 8_192;
/** Events that wait for a slow host before the watch is given up. */
const MAX_WAITING = 4_096;

interface Watch {
  readonly root: string;
  readonly recursive: boolean;
  readonly includeEntry: boolean;
  readonly stream: AgentStream;
  /** Kernel watch to the folder, relative to the root ('' is the root). */
  readonly folders: Map<number, string>;
  /** Told as created because they were found in a new folder; the kernel may tell of them too. */
  readonly found: Set<string>;
  waiting: WatchEvent[];
}

export interface Watches {
  watch(
    folder: string,
    options: { readonly recursive: boolean; readonly includeEntry: boolean },
    stream: AgentStream,
  ): void;
}

export function createWatches(context: Context): Watches {
  const { powers } = context;
  /** Each kernel watch can serve several watches: the kernel gives one per folder. */
  const byKernel = new Map<number, Set<Watch>>();
  let fd: number | undefined;
  let reading = false;
  const buffer = Buffer.allocUnsafeSlow(READ_BYTES);

  const add = (watch: Watch, relative: string): void => {
    if (watch.folders.size >= MAX_FOLDERS)
      throw new Failure('resource_exhausted', `more than ${MAX_FOLDERS} folders to watch`);
    fd ??= powers.inotifyOpen();
    const kernel = powers.inotifyAdd(fd, path.join(watch.root, relative), MASK);
    watch.folders.set(kernel, relative);
    const shared = byKernel.get(kernel);
    if (shared) shared.add(watch);
    else byKernel.set(kernel, new Set([watch]));
  };

  /** Watches all folders below; tells `found` of everything that is there. */
  const addTree = (watch: Watch, relative: string, found?: (name: string) => void): void => {
    try {
      add(watch, relative);
    } catch (error) {
      if (relative !== '' && isErrno(error, 'ENOENT', 'ENOTDIR', 'EACCES')) return;
      throw error;
    }
    if (!watch.recursive) return;
    for (const item of fs.readdirSync(path.join(watch.root, relative), { withFileTypes: true })) {
      const name = path.join(relative, item.name);
      found?.(name);
      if (item.isDirectory()) addTree(watch, name, found);
    }
  };

  const drop = (watch: Watch, kernel: number): void => {
    watch.folders.delete(kernel);
    const shared = byKernel.get(kernel);
    shared?.delete(watch);
    if (shared?.size !== 0) return;
    byKernel.delete(kernel);
    if (fd !== undefined) powers.inotifyRemove(fd, kernel);
  };

  const tell = (watch: Watch, event: WatchEvent['event'], name: string): void => {
    if (watch.stream.closed) return;
    if (watch.waiting.length >= MAX_WAITING) {
      watch.stream.fail({ code: 'resource_exhausted', message: 'events came faster than they were read' });
      return;
    }
    watch.waiting.push({ event, name });
    send(watch);
  };

  const send = (watch: Watch): void => {
    while (watch.waiting.length > 0 && !watch.stream.blocked && !watch.stream.closed) {
      const plain = watch.waiting.shift()!;
      watch.stream.event(watch.includeEntry ? withEntry(context, watch.root, plain) : plain);
    }
  };

  const onRecord = (kernel: number, mask: number, name: string): void => {
    if (mask & IN_Q_OVERFLOW) {
      const all = new Set([...byKernel.values()].flatMap((set) => [...set]));
      for (const { stream } of all) stream.fail({ code: 'resource_exhausted', message: 'the kernel lost events' });
      return;
    }
    for (const watch of [...(byKernel.get(kernel) ?? [])]) {
      const folder = watch.folders.get(kernel)!;
      const relative = name === '' ? folder : path.join(folder, name);
      if (mask & (IN_DELETE | IN_MOVED_FROM)) watch.found.delete(relative);
      if (mask & (IN_CREATE | IN_MOVED_TO) && !watch.found.delete(relative)) {
        tell(watch, 'create', relative);
        if (watch.recursive && mask & IN_ISDIR) addNew(watch, relative);
      }
      if (mask & IN_MODIFY) tell(watch, 'write', relative);
      if (mask & IN_ATTRIB && name !== '') tell(watch, 'chmod', relative);
      if (mask & IN_DELETE) tell(watch, 'remove', relative);
      if (mask & IN_MOVED_FROM) {
        tell(watch, 'rename', relative);
        if (mask & IN_ISDIR) dropTree(watch, relative);
      }
      // Of a folder below, its parent tells as well.
      if (mask & IN_DELETE_SELF && folder === '') tell(watch, 'remove', '.');
      if (mask & IN_MOVE_SELF && folder === '') tell(watch, 'rename', '.');
    }
    if (mask & IN_IGNORED) {
      for (const watch of byKernel.get(kernel) ?? []) watch.folders.delete(kernel);
      byKernel.delete(kernel);
    }
  };

  /** What was put into a new folder before it could be watched is told as created. */
  const addNew = (watch: Watch, relative: string): void => {
    try {
      addTree(watch, relative, (name) => {
        watch.found.add(name);
        tell(watch, 'create', name);
      });
    } catch (error) {
      if (isErrno(error, 'ENOENT', 'ENOTDIR')) return;
      const message = error instanceof Error ? error.message : String(error);
      watch.stream.fail({ code: 'resource_exhausted', message });
    }
  };

  const dropTree = (watch: Watch, relative: string): void => {
    for (const [kernel, folder] of [...watch.folders])
      if (folder === relative || folder.startsWith(`${relative}/`)) drop(watch, kernel);
  };

  const read = (): void => {
    if (reading || byKernel.size === 0 || fd === undefined) return;
    reading = true;
    fs.read(fd, buffer, 0, READ_BYTES, null, (error, count) => {
      reading = false;
      if (error && error.code !== 'EINTR') throw error;
      for (let at = 0; at + RECORD_BYTES <= (error ? 0 : count); ) {
        const length = buffer.readUInt32LE(at + 12);
        const end = buffer.indexOf(0, at + RECORD_BYTES);
        const stop = Math.min(end < 0 ? count : end, at + RECORD_BYTES + length);
        const name = length === 0 ? '' : buffer.toString('utf8', at + RECORD_BYTES, stop);
        onRecord(buffer.readInt32LE(at), buffer.readUInt32LE(at + 4), name);
        at += RECORD_BYTES + length;
      }
      read();
    });
  };

  return {
    watch(root, { recursive, includeEntry }, stream) {
      const stat = fs.statSync(root, { throwIfNoEntry: false });
      if (!stat) throw new Failure('not_found', `path '${root}' does not exist`);
      if (!stat.isDirectory()) throw new Failure('invalid_argument', `path is not a directory: '${root}'`);
      const watch: Watch = { root, recursive, includeEntry, stream, folders: new Map(), found: new Set(), waiting: [] };
      stream.onClose = () => {
        for (const kernel of [...watch.folders.keys()]) drop(watch, kernel);
      };
      stream.onDrain = () => send(watch);
      addTree(watch, '');
      stream.reply({});
      read();
    },
  };
}

function withEntry(context: Context, root: string, plain: WatchEvent): WatchEvent {
  if (plain.event === 'remove' || plain.event === 'rename') return plain;
  try {
    const full = { ...plain, entry: entryAt(context, path.join(root, plain.name)) };
    return Buffer.byteLength(JSON.stringify(full)) > MAX_PAYLOAD ? plain : full;
  } catch {
    // It is gone again.
    return plain;
  }
}
