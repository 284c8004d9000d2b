/** X-Metadata-<Key> headers of an upload: kept with the file as attributes and told with its entry. */
import type { IncomingHttpHeaders } from 'node:http';
import { HttpFailure } from './failures.ts';

const PREFIX = 'x-metadata-';
/** The kernel allows 255 characters with the prefix `user.e2b.`. */
const MAX_KEY = 246;
const MAX_VALUE = 4_096;

/** Lower-case keys. Throws HttpFailure 400 naming the key that is wrong. */
export function fileMetadata(headers: IncomingHttpHeaders): Readonly<Record<string, string>> {
  const metadata: Record<string, string> = {};
  for (const [name, value] of Object.entries(headers)) {
    if (!name.startsWith(PREFIX)) continue;
    const key = name.slice(PREFIX.length);
    const text = Array.isArray(value) ? value.join(', ') : (value ?? '');
    if (key === '' || key.length > MAX_KEY) {
      throw new HttpFailure(400, `metadata key '${key.slice(0, 64)}' must have 1 to ${MAX_KEY} characters`);
    }
    if (text.length > MAX_VALUE || !/^[\x20-\x7e]*$/.test(text)) {
      throw new HttpFailure(400, `metadata '${key}' must be printable ASCII of at most ${MAX_VALUE} bytes`);
    }
    metadata[key] = text;
  }
  return metadata;
}
