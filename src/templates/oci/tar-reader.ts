/**
 * Tar archives as images and uploads have them: ustar, pax, GNU's long names. Names and attribute values are bytes, told as
 * `latin1` text: the libraries of npm read pax records as UTF-8, and a file capability does not survive that. Everything is
 * bounded; what cannot be represented is refused and not guessed.
 */
import { CoppiceError } from '../../contract/errors.ts';
import { ByteReader } from './byte-reader.ts';

export type TarType = 'file' | 'folder' | 'hardlink' | 'symlink' | 'device' | 'fifo';

export interface TarEntry {
  /** As it stands in the archive, one character a byte. */
  readonly path: string;
  readonly type: TarType;
  /** Of links; one character a byte. */
  readonly target: string;
  /** Permissions, set-id bits and the sticky bit. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  /** Milliseconds since the epoch, not before it. */
  readonly mtimeMs: number;
  /** Bytes of a file; 0 of anything else. */
  readonly size: number;
  readonly xattrs: ReadonlyMap<string, Buffer>;
  /** The file's bytes, once, before the next entry is asked for. What is left of them then is passed over. */
  readonly body: AsyncIterable<Uint8Array>;
}

const BLOCK = 512;
/** Bytes of a pax record set or a long name. */
const META_BYTES = 1024 * 1024;
const LONGEST_PATH = 4_095;
/** Headers without a file between them. */
const MOST_META = 16;
/** The year 2446, which is as far as ext4 goes. */
const LAST_MS = 15_032_385_535_000;
const MOST_ID = 0xffff_fffe;
const XATTR = 'SCHILY.xattr.';

const TYPES: ReadonlyMap<string, TarType> = new Map([
  ['\0', 'file'],
  ['0', 'file'],
  ['1', 'hardlink'],
  ['2', 'symlink'],
  ['3', 'device'],
  ['4', 'device'],
  ['5', 'folder'],
  ['6', 'fifo'],
  ['7', 'file'],
]);

/** Yields the entries in order. Anything that is no whole archive: bad_request. Reads the stream to its end. */
export async function* readTar(source: AsyncIterable<Uint8Array>): AsyncGenerator<TarEntry> {
  const reader = new ByteReader(source);
  try {
    yield* entries(reader);
    // What follows the end is no part of it, but of the stream whose digest is checked.
    while ((await reader.skip(Number.MAX_SAFE_INTEGER)) === Number.MAX_SAFE_INTEGER);
  } finally {
    await reader.close();
  }
}

async function* entries(reader: ByteReader): AsyncGenerator<TarEntry> {
  let pax: ReadonlyMap<string, string> = new Map();
  let longPath: string | undefined;
  let longTarget: string | undefined;
  let meta = 0;
  for (;;) {
    const header = await reader.take(BLOCK);
    // Some writers leave out the blocks of zeros.
    if (header === undefined || header.every((byte) => byte === 0)) {
      if (meta > 0) throw bad('ends after a header that describes another');
      return;
    }
    if (header.length < BLOCK) throw bad('ends within a header');
    checkSum(header);
    const flag = header.toString('latin1', 156, 157);
    if ('xgLK'.includes(flag)) {
      if (++meta > MOST_META) throw bad('has too many headers in a row that describe others');
      const bytes = await metaBytes(reader, number(header, 124, 12));
      if (flag === 'x') pax = parsePax(bytes);
      else if (flag === 'L') longPath = untilZero(bytes.toString('latin1'));
      else if (flag === 'K') longTarget = untilZero(bytes.toString('latin1'));
      // Global records: git writes its commit there, and nobody a layer's attributes.
      continue;
    }
    const entry = describe(header, flag, pax, longPath, longTarget);
    let left = entry.size;
    const body = async function* (): AsyncGenerator<Uint8Array> {
      for await (const chunk of reader.stream(left)) {
        left -= chunk.length;
        yield chunk;
      }
      if (left > 0) throw bad('ends within a file');
    };
    yield { ...entry, body: { [Symbol.asyncIterator]: body } };
    if ((await reader.skip(left)) < left) throw bad('ends within a file');
    const padding = (BLOCK - (entry.size % BLOCK)) % BLOCK;
    if ((await reader.skip(padding)) < padding) throw bad('ends within a file');
    [pax, longPath, longTarget, meta] = [new Map(), undefined, undefined, 0];
  }
}

function describe(
  header: Buffer,
  flag: string,
  pax: ReadonlyMap<string, string>,
  longPath: string | undefined,
  longTarget: string | undefined,
): Omit<TarEntry, 'body'> {
  const path = pax.get('path') ?? longPath ?? headerPath(header);
  let type = TYPES.get(flag);
  for (const key of pax.keys()) if (key.startsWith('GNU.sparse.')) type = undefined;
  if (type === undefined) throw bad(`has an entry of a type that is not read ('${flag}': ${shown(path)})`);
  // As tar was before it knew folders.
  if (type === 'file' && path.endsWith('/')) type = 'folder';
  const target = pax.get('linkpath') ?? longTarget ?? untilZero(header.toString('latin1', 157, 257));
  if (path.length > LONGEST_PATH || target.length > LONGEST_PATH) throw bad('has a name longer than a path can be');
  if (path.includes('\0') || target.includes('\0')) throw bad('has a name that holds a zero byte');
  const size = type === 'file' ? (decimal(pax.get('size')) ?? number(header, 124, 12)) : 0;
  const uid = decimal(pax.get('uid')) ?? number(header, 108, 8);
  const gid = decimal(pax.get('gid')) ?? number(header, 116, 8);
  if (uid > MOST_ID || gid > MOST_ID) throw bad(`has an owner that cannot be (${shown(path)})`);
  const xattrs = new Map<string, Buffer>();
  for (const [key, value] of pax)
    if (key.startsWith(XATTR)) xattrs.set(key.slice(XATTR.length), Buffer.from(value, 'latin1'));
  const mode = number(header, 100, 8) & 0o7777;
  return { path, type, target, mode, uid, gid, mtimeMs: modified(header, pax.get('mtime')), size, xattrs };
}

function headerPath(header: Buffer): string {
  const name = untilZero(header.toString('latin1', 0, 100));
  // GNU's own format, whose magic ends with spaces, has times in the place of the prefix.
  const prefix =
    header.toString('latin1', 257, 263) === 'ustar\0' ? untilZero(header.toString('latin1', 345, 500)) : '';
  return prefix === '' ? name : `${prefix}/${name}`;
}

function modified(header: Buffer, pax: string | undefined): number {
  const seconds =
    pax === undefined || !/^-?\d{1,12}(?:\.\d*)?$/.test(pax) ? number(header, 136, 12, true) : Number(pax);
  return Math.min(Math.max(Math.trunc(seconds * 1_000), 0), LAST_MS);
}

async function metaBytes(reader: ByteReader, size: number): Promise<Buffer> {
  if (size > META_BYTES) throw bad(`has a header of ${size} bytes`);
  const bytes = size === 0 ? Buffer.alloc(0) : await reader.take(size);
  const padding = (BLOCK - (size % BLOCK)) % BLOCK;
  if (bytes === undefined || bytes.length < size || (await reader.skip(padding)) < padding)
    throw bad('ends within a header');
  return bytes;
}

/** Records of `<length> <key>=<value>\n`, where the length counts the whole record. An empty value takes a key back. */
function parsePax(bytes: Buffer): Map<string, string> {
  const records = new Map<string, string>();
  let at = 0;
  while (at < bytes.length) {
    const space = bytes.indexOf(0x20, at);
    const length = space < 0 || space - at > 8 ? undefined : decimal(bytes.toString('latin1', at, space));
    const end = at + (length ?? 0);
    if (length === undefined || end <= space + 1 || end > bytes.length || bytes[end - 1] !== 0x0a)
      throw bad('has a malformed pax record');
    const equals = bytes.indexOf(0x3d, space);
    if (equals < 0 || equals >= end) throw bad('has a malformed pax record');
    const key = bytes.toString('latin1', space + 1, equals);
    const value = bytes.toString('latin1', equals + 1, end - 1);
    if (value === '') records.delete(key);
    else records.set(key, value);
    at = end;
  }
  return records;
}

/** Of plain digits. undefined: there is none; anything else: bad_request. */
function decimal(text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  if (!/^\d{1,16}$/.test(text) || !Number.isSafeInteger(Number(text))) throw bad('has a number that is none');
  return Number(text);
}

/** Octal digits, or GNU's binary numbers. `signed`: one below zero is told as such, else it is refused. */
function number(header: Buffer, at: number, length: number, signed = false): number {
  const first = header[at]!;
  if (first & 0x80) {
    // Of 12 bytes only the last 6 can matter; all before them repeat the sign.
    const negative = (first & 0x40) !== 0;
    if (negative && signed) return -1;
    const high = header.subarray(at, at + length - 6);
    if (negative || (high[0]! & 0x3f) !== 0 || high.subarray(1).some((byte) => byte !== 0))
      throw bad('has a number that is too large');
    return header.readUIntBE(at + length - 6, 6);
  }
  const text = untilZero(header.toString('latin1', at, at + length)).trim();
  if (text === '') return 0;
  if (!/^[0-7]{1,12}$/.test(text)) throw bad('has a number that is none');
  return Number.parseInt(text, 8);
}

/** Of all bytes of the header, its own field read as spaces; some old writers summed signed bytes. */
function checkSum(header: Buffer): void {
  const wanted = number(header, 148, 8);
  let unsigned = 0;
  let signed = 0;
  for (let at = 0; at < BLOCK; at++) {
    const byte = at >= 148 && at < 156 ? 0x20 : header[at]!;
    unsigned += byte;
    signed += byte > 127 ? byte - 256 : byte;
  }
  if (wanted !== unsigned && wanted !== signed) throw bad('has a header whose sum is wrong');
}

function untilZero(text: string): string {
  const end = text.indexOf('\0');
  return end < 0 ? text : text.slice(0, end);
}

function shown(path: string): string {
  return JSON.stringify(path.slice(0, 100));
}

function bad(what: string): CoppiceError {
  return new CoppiceError('bad_request', `the archive ${what}`);
}
