/** The agent's directory entries and events in E2B's words. */
import type { MessageInitShape } from '@bufbuild/protobuf';
import type { TimestampSchema } from '@bufbuild/protobuf/wkt';
import type { FileEntry, WatchEvent } from '../channel/protocol.ts';
import {
  type EntryInfoSchema,
  EventType,
  type FilesystemEventSchema,
  FileType,
} from '../contract/gen/filesystem_pb.ts';

const FILE_TYPES: Readonly<Record<FileEntry['type'], FileType>> = {
  file: FileType.FILE,
  directory: FileType.DIRECTORY,
  unknown: FileType.UNSPECIFIED,
};

const EVENT_TYPES: Readonly<Record<WatchEvent['event'], EventType>> = {
  create: EventType.CREATE,
  write: EventType.WRITE,
  remove: EventType.REMOVE,
  rename: EventType.RENAME,
  chmod: EventType.CHMOD,
};

export function entryInfo(entry: FileEntry): MessageInitShape<typeof EntryInfoSchema> {
  return {
    name: entry.name,
    path: entry.path,
    type: FILE_TYPES[entry.type] ?? FileType.UNSPECIFIED,
    size: BigInt(Math.max(0, Math.trunc(entry.size))),
    mode: entry.mode >>> 0,
    permissions: entry.permissions,
    owner: entry.owner,
    group: entry.group,
    modifiedTime: timestamp(entry.modifiedMs),
    ...(entry.symlinkTarget === undefined ? {} : { symlinkTarget: entry.symlinkTarget }),
    metadata: { ...entry.metadata },
  };
}

/** Years 1 to 9999: what a Timestamp can say. A sandbox may set any time on its files; one beyond is told as the limit. */
const FIRST_MS = -62_135_596_800_000;
const LAST_MS = 253_402_300_799_999;

function timestamp(ms: number): MessageInitShape<typeof TimestampSchema> {
  const within = Math.min(Math.max(ms, FIRST_MS), LAST_MS);
  const seconds = Math.floor(within / 1_000);
  const nanos = Math.min(Math.floor((within - seconds * 1_000) * 1_000_000), 999_999_999);
  return { seconds: BigInt(seconds), nanos };
}

export function filesystemEvent(event: WatchEvent): MessageInitShape<typeof FilesystemEventSchema> {
  return {
    name: event.name,
    type: EVENT_TYPES[event.event] ?? EventType.UNSPECIFIED,
    ...(event.entry === undefined ? {} : { entry: entryInfo(event.entry) }),
  };
}

/** How the REST routes describe a file that was written. */
export function writtenFile(entry: FileEntry): Record<string, unknown> {
  const metadata = entry.metadata ?? {};
  return {
    path: entry.path,
    name: entry.name,
    type: 'file',
    ...(Object.keys(metadata).length > 0 ? { metadata } : {}),
  };
}
