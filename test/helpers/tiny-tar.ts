/** Tar archives of a few entries, whole or broken on purpose: written here, since a well-behaved tool writes none of those. */
import { createHash } from 'node:crypto';

export interface TarPart {
  /** One character a byte. */
  readonly path: string;
  /** ustar's type flag; default `0`, a file. */
  readonly type?: string;
  readonly target?: string;
  readonly body?: Buffer | string;
  readonly mode?: number;
  readonly uid?: number;
  readonly gid?: number;
  /** Seconds. */
  readonly mtime?: number;
  /** Extended attributes. */
  readonly xattrs?: Readonly<Record<string, Buffer>>;
  /** What the header says, whatever the body is. */
  readonly size?: number;
  /** Pax records as they are to stand. */
  readonly pax?: Readonly<Record<string, string | Buffer>>;
}

export const folder = (path: string, more: Partial<TarPart> = {}): TarPart => ({
  path,
  type: '5',
  mode: 0o755,
  ...more,
});
export const symlink = (path: string, target: string): TarPart => ({ path, type: '2', target, mode: 0o777 });
export const hardlink = (path: string, target: string): TarPart => ({ path, type: '1', target });
export const file = (path: string, body: string | Buffer = '', more: Partial<TarPart> = {}): TarPart => ({
  path,
  body,
  ...more,
});

export function tar(parts: readonly TarPart[]): Buffer {
  return Buffer.concat([...parts.map(entry), Buffer.alloc(1_024)]);
}

export function entry(part: TarPart): Buffer {
  const body = Buffer.from(part.body ?? '');
  const pax: Record<string, string | Buffer> = { ...part.pax };
  for (const [name, value] of Object.entries(part.xattrs ?? {})) pax[`SCHILY.xattr.${name}`] = value;
  if (part.path.length > 100) pax.path = Buffer.from(part.path, 'latin1');
  if ((part.target ?? '').length > 100) pax.linkpath = Buffer.from(part.target!, 'latin1');
  const records = Buffer.concat(Object.entries(pax).map(([key, value]) => record(key, value)));
  const before = records.length === 0 ? [] : [header({ path: 'pax', type: 'x' }, records.length), padded(records)];
  return Buffer.concat([...before, header(part, part.size ?? body.length), padded(body)]);
}

/** A pax record: its length counts itself. */
export function record(key: string, value: string | Buffer): Buffer {
  const rest = Buffer.concat([Buffer.from(` ${key}=`), Buffer.from(value), Buffer.from('\n')]);
  let length = rest.length;
  while (String(length).length + rest.length !== length) length = String(length).length + rest.length;
  return Buffer.concat([Buffer.from(String(length)), rest]);
}

function header(part: TarPart, size: number): Buffer {
  const block = Buffer.alloc(512);
  const { type = '0', mode = 0o644, uid = 0, gid = 0, mtime = 1_700_000_000 } = part;
  block.write(part.path.slice(0, 100), 0, 'latin1');
  const octal = (value: number, at: number, digits: number) =>
    block.write(`${value.toString(8).padStart(digits, '0')}\0`, at);
  octal(mode, 100, 7);
  octal(uid, 108, 7);
  octal(gid, 116, 7);
  octal(size, 124, 11);
  octal(mtime, 136, 11);
  block.write(' '.repeat(8), 148);
  block.write(type, 156, 'latin1');
  block.write((part.target ?? '').slice(0, 100), 157, 'latin1');
  block.write('ustar\x0000', 257, 'latin1');
  const sum = block.reduce((total, byte) => total + byte, 0);
  block.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148);
  return block;
}

function padded(bytes: Buffer): Buffer {
  return Buffer.concat([bytes, Buffer.alloc((512 - (bytes.length % 512)) % 512)]);
}

export function sha256(bytes: Buffer): string {
  return `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
}
