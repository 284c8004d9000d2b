/** Read-only ext4 images made from a folder, without mounting anything. */
import { createHash } from 'node:crypto';
import { readdir } from 'node:fs/promises';
import { run } from './run.ts';

export interface Ext4Options {
  /** Volume label, at most 16 bytes; the UUID and the directory hash seed are derived from it. */
  readonly label: string;
  readonly signal?: AbortSignal;
  /** Command that each tool is run with, e.g. to be root in a user namespace. */
  readonly through?: readonly string[];
  /** Also fix change and access times, which no folder can carry: equal content, equal bytes. */
  readonly reproducible?: boolean;
}

/** Seconds since the epoch: the time in every field of the image that mke2fs fills. */
export const IMAGE_TIME = 1_700_000_000;

/** Named one by one, so that the host's mke2fs.conf has no say. */
const FEATURES =
  'none,extent,dir_index,filetype,sparse_super,large_file,huge_file,dir_nlink,extra_isize,ext_attr,flex_bg';

/**
 * Writes `image` with the content of `folder`. It has no journal, no checksums and no spare inodes, since nothing writes
 * to it; it is sized with room to spare and the room is a hole in the file.
 */
export async function makeExt4(folder: string, image: string, options: Ext4Options): Promise<void> {
  const { signal, label } = options;
  const through = async (command: string, args: readonly string[], env?: Record<string, string>) => {
    const [first = command, ...rest] = [...(options.through ?? []), command, ...args];
    return run(first, rest, { signal, env });
  };
  // `-x`: a build never leaves mounts in the folder; should one be there all the same, it is not followed.
  const bytes = Number((await through('du', ['-sx', '--apparent-size', '-B1', folder])).stdout.split('\t')[0]);
  const inodes = Number((await through('du', ['-sx', '--inodes', folder])).stdout.split('\t')[0]);
  if (!(bytes > 0) || !(inodes > 0)) throw new Error(`du did not measure ${folder}`);
  const { inodeCount, sizeKiB } = ext4Size(bytes, inodes);
  const uuid = stableUuid(label);
  const env = {
    MKE2FS_CONFIG: '/dev/null',
    E2FSPROGS_FAKE_TIME: String(IMAGE_TIME),
    SOURCE_DATE_EPOCH: String(IMAGE_TIME),
  };
  await through(
    'mke2fs',
    [
      ...['-q', '-F', '-t', 'ext4', '-b', '4096', '-I', '256', '-m', '0'],
      ...['-N', String(inodeCount), '-L', label, '-U', uuid],
      ...['-O', FEATURES],
      ...['-E', `lazy_itable_init=1,nodiscard,root_owner=0:0,hash_seed=${uuid}`],
      ...['-d', folder, image, `${sizeKiB}k`],
    ],
    env,
  );
  if (options.reproducible !== true) return;
  const paths = ['', 'lost+found', ...(await readdir(folder, { recursive: true })).toSorted()];
  const commands = paths.flatMap((path) =>
    ['ctime', 'atime'].map((field) => `set_inode_field "/${path}" ${field} @${IMAGE_TIME}\n`),
  );
  await run('debugfs', ['-w', '-f', '-', image], { signal, env, input: commands.join('') });
}

/** Upper bounds: a partial block for each file, an inode table, 5 % for directories and extent blocks, and some room. */
export function ext4Size(bytes: number, inodes: number): { readonly inodeCount: number; readonly sizeKiB: number } {
  const inodeCount = Math.ceil((inodes + 256) / 16) * 16;
  const size = bytes * 1.05 + inodeCount * (4096 + 256) + 32 * 1024 * 1024;
  return { inodeCount, sizeKiB: Math.ceil(size / (1024 * 1024)) * 1024 };
}

/** A UUID (version 8) that depends on the text alone. */
export function stableUuid(text: string): string {
  const bytes = createHash('sha256').update(`coppice ${text}`).digest().subarray(0, 16);
  bytes[6] = (bytes[6]! & 0x0f) | 0x80;
  bytes[8] = (bytes[8]! & 0x3f) | 0x80;
  const hex = bytes.toString('hex');
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join('-');
}
