/**
 * Names: of languages, and of contexts as tags of processes in the guest.
 *
 * A context is found again by its tag alone (a new session after a resume, a new node process, a fork of the sandbox):
 * `interpreter:default:<language>` and `interpreter:context:<language>:<uuid>`.
 */
import { createHash } from 'node:crypto';

const PREFIX = 'interpreter:';
const ALIASES: Readonly<Record<string, string>> = { js: 'javascript', ts: 'typescript', py: 'python', sh: 'bash' };

/** The full lower-case name; a name that nobody knows is returned as it is, bounded. */
export function normalizeLanguage(name: string): string {
  const lower = name.trim().toLowerCase().slice(0, 64);
  return ALIASES[lower] ?? lower;
}

export function defaultTag(language: string): string {
  return `${PREFIX}default:${language}`;
}

export function contextTag(language: string, id: string): string {
  return `${PREFIX}context:${language}:${id}`;
}

export interface ContextName {
  readonly language: string;
  /** Absent: the default context of its language. */
  readonly id?: string;
}

/** The inverse of defaultTag and contextTag; undefined for tags of others. */
export function parseTag(tag: string | undefined): ContextName | undefined {
  const match = /^interpreter:(?:default:([a-z0-9+#]{1,64})|context:([a-z0-9+#]{1,64}):([0-9a-f-]{36}))$/.exec(
    tag ?? '',
  );
  if (match === null) return undefined;
  return match[1] !== undefined ? { language: match[1] } : { language: match[2]!, id: match[3]! };
}

/** The id of a default context: a UUID that is the same each time it is asked for. */
export function defaultContextID(sandboxID: string, language: string): string {
  const hex = createHash('sha256').update(`${sandboxID}\0${language}`).digest('hex');
  const variant = ((Number.parseInt(hex[16]!, 16) & 0x3) | 0x8).toString(16);
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-4${hex.slice(13, 16)}-${variant}${hex.slice(17, 20)}-${hex.slice(20, 32)}`;
}
