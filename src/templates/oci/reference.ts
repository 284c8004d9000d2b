/** Names of images as people write them, in the rules of Docker's reference grammar. */
import { CoppiceError } from '../../contract/errors.ts';
import { parseDigest } from './digest.ts';

export interface ImageReference {
  /** Host, with its port if one is named; `docker.io` where none was given. */
  readonly registry: string;
  /** e.g. `library/debian`. */
  readonly repository: string;
  /** Absent when a digest alone was given. */
  readonly tag?: string;
  readonly digest?: string;
}

export const DOCKER_HUB = 'docker.io';
const HUB_NAMES = [DOCKER_HUB, 'index.docker.io', 'registry-1.docker.io'];
const LONGEST = 1_024;
const LONGEST_REPOSITORY = 255;
const HOST =
  /^(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?$/;
const COMPONENT = /^[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*$/;
const TAG = /^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$/;

/** `debian`, `debian:12`, `ghcr.io/owner/name@sha256:…`. Anything else: bad_request. */
export function parseImageReference(text: string): ImageReference {
  const bad = (why: string) => new CoppiceError('bad_request', `'${text.slice(0, 200)}' names no image: ${why}`);
  if (text.length > LONGEST) throw bad('it is too long');
  const [named = '', digestText, ...more] = text.split('@');
  if (more.length > 0) throw bad('it has more than one @');
  const digest = digestText === undefined ? undefined : parseDigest(digestText);
  const slash = named.indexOf('/');
  const first = named.slice(0, Math.max(slash, 0));
  const hasHost = /[.:]/.test(first) || first === 'localhost' || first.startsWith('[');
  const host = hasHost ? first : DOCKER_HUB;
  if (!HOST.test(host)) throw bad(`'${host}' is no host`);
  const registry = HUB_NAMES.includes(host.toLowerCase()) ? DOCKER_HUB : host.toLowerCase();
  const rest = hasHost ? named.slice(slash + 1) : named;
  const colon = rest.indexOf(':');
  const path = colon < 0 ? rest : rest.slice(0, colon);
  const tag = colon < 0 ? undefined : rest.slice(colon + 1);
  if (tag !== undefined && !TAG.test(tag)) throw bad('its tag has characters that tags do not have');
  const repository = registry === DOCKER_HUB && !path.includes('/') ? `library/${path}` : path;
  if (repository.length > LONGEST_REPOSITORY) throw bad('its repository is too long');
  if (!path.split('/').every((component) => COMPONENT.test(component)))
    throw bad('its repository has characters that repositories do not have');
  if (digest === undefined) return { registry, repository, tag: tag ?? 'latest' };
  return { registry, repository, ...(tag === undefined ? {} : { tag }), digest };
}

export function formatImageReference({ registry, repository, tag, digest }: ImageReference): string {
  return `${registry}/${repository}${tag === undefined ? '' : `:${tag}`}${digest === undefined ? '' : `@${digest}`}`;
}
