/**
 * The volumes that one client may mount, and the handles it gets of their files. A handle names a file for as long as it is
 * there, whatever server answers: the volume's id, then what its file system made.
 */
import { BAD_HANDLE, NfsFailure, STALE } from './status.ts';
import type { XdrReader } from './xdr.ts';

export interface Export {
  /** UUID. */
  readonly volumeID: string;
  /** Descriptor of its root folder. */
  readonly root: number;
}

const ID_BYTES = 16;
/** RFC 1813, NFS3_FHSIZE. */
const MAX_HANDLE = 64;

const idOf = (volumeID: string): Buffer => Buffer.from(volumeID.replaceAll('-', ''), 'hex');

export class Exports {
  readonly #roots = new Map<string, number>();

  constructor(exports: readonly Export[]) {
    for (const { volumeID, root } of exports) this.#roots.set(idOf(volumeID).toString('hex'), root);
  }

  /** The root of a volume by its id. */
  root(volumeID: string): number | undefined {
    return this.#roots.get(idOf(volumeID).toString('hex'));
  }

  /** Throws NfsFailure for what is no handle, or of none of its volumes. */
  resolve(handle: Buffer): ResolvedHandle {
    if (handle.length <= ID_BYTES + 4) throw new NfsFailure(BAD_HANDLE);
    const volume = handle.subarray(0, ID_BYTES);
    const root = this.#roots.get(volume.toString('hex'));
    // Of a memory that has one mounted which is not this machine's.
    if (root === undefined) throw new NfsFailure(STALE);
    return { root, volume, file: handle.subarray(ID_BYTES) };
  }
}

export interface ResolvedHandle {
  readonly root: number;
  readonly volume: Buffer;
  /** The file system's own. */
  readonly file: Buffer;
}

/** Of a call's arguments. */
export const readHandle = (args: XdrReader): Buffer => args.opaque(MAX_HANDLE);

export const handleIn = (volume: Buffer, file: Buffer): Buffer => Buffer.concat([volume, file]);

export const rootHandle = (volumeID: string, file: Buffer): Buffer => handleIn(idOf(volumeID), file);
