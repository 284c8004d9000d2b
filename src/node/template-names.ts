/** How clients name templates of teams: `name`, `name:tag`, or the same with the template's id; of a build, its id as tag. */
import { CoppiceError } from '../contract/errors.ts';
import { DEFAULT_TAG } from './known-templates.ts';

export interface TemplateName {
  /** In lower case, as E2B has names. */
  readonly name: string;
  readonly tag?: string;
}

const NAME = /^[a-z0-9_-]{1,128}$/;
const TAG = /^[a-z0-9_.-]{1,128}$/;
const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;
const MOST_TAGS = 100;

/** undefined: nothing can go by that. */
export function parseTemplateName(text: string): TemplateName | undefined {
  const [name = '', tag, ...rest] = text.toLowerCase().split(':');
  if (rest.length > 0 || !NAME.test(name)) return undefined;
  if (tag === undefined) return { name };
  return TAG.test(tag) ? { name, tag } : undefined;
}

/** For something new. Malformed: bad_request. */
export function demandTemplateName(text: string): TemplateName {
  const found = parseTemplateName(text);
  if (!found)
    throw new CoppiceError(
      'bad_request',
      `invalid template name '${text.slice(0, 128)}': a name has a-z, 0-9, _ and -, and a tag may follow after a colon`,
    );
  return { ...found, ...(found.tag === undefined ? {} : { tag: demandTag(found.tag) }) };
}

/** In lower case, each once. Malformed: bad_request. */
export function demandTags(tags: readonly string[]): readonly string[] {
  if (tags.length > MOST_TAGS) throw new CoppiceError('bad_request', `a build has at most ${MOST_TAGS} tags`);
  return [...new Set(tags.map((tag) => demandTag(tag.toLowerCase())))];
}

function demandTag(tag: string): string {
  if (!TAG.test(tag))
    throw new CoppiceError('bad_request', `invalid tag '${tag.slice(0, 128)}': tags have a-z, 0-9, _, - and .`);
  if (isBuildID(tag)) throw new CoppiceError('bad_request', `invalid tag '${tag}': a tag cannot be a UUID`);
  return tag;
}

/** What a build is to be known as. */
export function tagsOf(name: TemplateName, more: readonly string[]): readonly string[] {
  const tags = [...new Set([...(name.tag === undefined ? [] : [name.tag]), ...more])];
  return tags.length === 0 ? [DEFAULT_TAG] : tags;
}

export function isBuildID(text: string): boolean {
  return UUID.test(text);
}
