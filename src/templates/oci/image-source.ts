/** Where an image comes from, seen by who pulls it. Nothing that a source says is believed before its digest proves it. */
import { createHash } from 'node:crypto';
import type { Descriptor } from './digest.ts';

export function scopeOf(...parts: readonly string[]): string {
  return createHash('sha256').update(JSON.stringify(parts)).digest('hex').slice(0, 16);
}

/** Of files on this host, which the operator names. */
export const LOCAL_SCOPE = scopeOf('local');

export interface ImageSource {
  /** For messages and notes; never secret. */
  readonly name: string;
  /**
   * Whose parts these are: 16 hex digits. What was fetched in one scope is not given out in another, or whoever knows the
   * digest of a private layer could have it by naming it in a registry of his own.
   */
  readonly scope: string;
  /** Bytes of the manifest or index that the name means; when the name holds a digest, they are proved. */
  head(signal?: AbortSignal): Promise<Buffer>;
  /** The bytes of a part of the image, unchecked. */
  open(part: Descriptor, kind: 'manifest' | 'blob', signal?: AbortSignal): Promise<AsyncIterable<Uint8Array>>;
  close(): void;
}
