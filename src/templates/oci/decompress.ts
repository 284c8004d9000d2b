/** Archives as tar, whatever they are packed with: told by their first bytes, since media types and file names lie. */
import { pipeline, Readable } from 'node:stream';
import { constants, createGunzip, createZstdDecompress } from 'node:zlib';
import { CoppiceError } from '../../contract/errors.ts';

/** Frames ask for a window of memory; 128 MiB is what every decoder must offer, and no more is given. */
const ZSTD_WINDOW_LOG = 27;
const MAGIC: readonly (readonly [name: 'gzip' | 'zstd' | 'bzip2' | 'xz', bytes: readonly number[]])[] = [
  ['gzip', [0x1f, 0x8b]],
  ['zstd', [0x28, 0xb5, 0x2f, 0xfd]],
  ['bzip2', [0x42, 0x5a, 0x68]],
  ['xz', [0xfd, 0x37, 0x7a, 0x58]],
];
/** 0x184d2a50 to 0x184d2a5f, little-endian: frames that decoders pass over. */
const SKIPPABLE = [0x2a, 0x4d, 0x18];
const MAGIC_BYTES = 4;
const MOST_PIECES = 8;

/** The unpacked bytes. Packed otherwise than with gzip or zstd, or damaged: bad_request. */
export async function* decompressed(source: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  const input = source[Symbol.asyncIterator]();
  let head: Uint8Array = new Uint8Array();
  try {
    while (head.length < MAGIC_BYTES) {
      const next = await input.next();
      if (next.done === true) break;
      head = head.length === 0 ? next.value : Buffer.concat([head, next.value]);
    }
    const rest = { [Symbol.asyncIterator]: () => withHead(head, input) };
    const packing = packingOf(head);
    if (packing === 'tar') yield* rest;
    else if (packing === 'gzip') yield* gunzipped(rest);
    else if (packing === 'zstd') yield* unzstd(rest);
    else throw new CoppiceError('bad_request', `the archive is packed with ${packing}, which Coppice does not read`);
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    if (!/^(Z_|ZSTD_|ERR_ZLIB)/.test(code ?? '')) throw error;
    throw new CoppiceError('bad_request', `the archive cannot be unpacked: ${message}`, { cause: error });
  } finally {
    await input.return?.();
  }
}

function packingOf(head: Uint8Array): 'tar' | (typeof MAGIC)[number][0] {
  const found = MAGIC.find(([, bytes]) => bytes.every((byte, at) => head[at] === byte));
  if (found !== undefined) return found[0];
  const skippable = (head[0] ?? 0) >> 4 === 5 && SKIPPABLE.every((byte, at) => head[at + 1] === byte);
  return skippable ? 'zstd' : 'tar';
}

async function* withHead(head: Uint8Array, input: AsyncIterator<Uint8Array>): AsyncGenerator<Uint8Array> {
  if (head.length > 0) yield head;
  for (;;) {
    const next = await input.next();
    if (next.done === true) return;
    yield next.value;
  }
}

async function* gunzipped(source: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  const gunzip = createGunzip();
  // Told by the iteration below.
  pipeline(Readable.from(source, { objectMode: false }), gunzip, () => {});
  yield* gunzip;
}

/**
 * Frame after frame: Node's decoder stops at the end of a frame that lies within a chunk, and images that can be fetched in
 * parts have a frame for each file. What it has taken of the input tells where the next frame begins.
 */
async function* unzstd(source: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  const input = source[Symbol.asyncIterator]();
  /** Read, and not yet known to have been taken. */
  const unread: Uint8Array[] = [];
  const pull = async (): Promise<boolean> => {
    const next = await input.next();
    if (next.done !== true && next.value.length > 0) unread.push(next.value);
    return next.done !== true;
  };
  for (;;) {
    while (unread.length === 0) if (!(await pull())) return;
    const decoder = createZstdDecompress({ params: { [constants.ZSTD_d_windowLogMax]: ZSTD_WINDOW_LOG } });
    let pulling: Promise<boolean> | undefined;
    let dropped = 0;
    let ended = false;
    const feed = async function* (): AsyncGenerator<Uint8Array> {
      for (let fed = 0; ; ) {
        // Whole chunks that were taken need not be kept.
        while (unread.length > 1 && fed > 0 && dropped + unread[0]!.length <= decoder.bytesWritten) {
          dropped += unread.shift()!.length;
          fed -= 1;
        }
        if (ended) return;
        if (fed === unread.length) {
          pulling = pull();
          const more = await pulling;
          pulling = undefined;
          if (!more) return;
          continue;
        }
        yield unread[fed++]!;
      }
    };
    pipeline(Readable.from(feed(), { objectMode: false }), decoder, () => {});
    yield* decoder;
    // What its stream reads ahead must not be lost, nor read behind the back of the next one.
    ended = true;
    await pulling;
    let taken = decoder.bytesWritten - dropped;
    while (unread.length > 0 && taken >= unread[0]!.length) taken -= unread.shift()!.length;
    if (taken > 0) unread[0] = unread[0]!.subarray(taken);
    // A frame is a decoder of its own, which would be given many small pieces again.
    if (unread.length > MOST_PIECES) unread.splice(0, unread.length, Buffer.concat(unread));
  }
}
