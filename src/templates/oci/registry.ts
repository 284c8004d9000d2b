/** Images of a registry, by the distribution protocol (`/v2/`), with the one token that it asks for. */
import { CoppiceError } from '../../contract/errors.ts';
import { collect, digestOf } from './digest.ts';
import { type ImageSource, scopeOf } from './image-source.ts';
import { DOCUMENT_BYTES, MEDIA_TYPES } from './manifest.ts';
import { DOCKER_HUB, formatImageReference, type ImageReference } from './reference.ts';
import { answerChallenge, parseChallenge, type RegistryCredentials } from './registry-auth.ts';
import { createRegistryHttp, type RegistryAnswer, type RegistryHttpOptions } from './registry-http.ts';

export interface RegistryOptions extends RegistryHttpOptions {
  readonly credentials?: RegistryCredentials;
}

const HUB_HOST = 'registry-1.docker.io';
const ACCEPT = [...MEDIA_TYPES.index, ...MEDIA_TYPES.manifest].join(', ');

export function registrySource(reference: ImageReference, options: RegistryOptions = {}): ImageSource {
  const http = createRegistryHttp(options);
  const { registry, repository } = reference;
  const name = formatImageReference(reference);
  const host = registry === DOCKER_HUB ? HUB_HOST : registry;
  const base = `${http.isPlain(host) ? 'http' : 'https'}://${host}/v2/${repository}`;
  const scope = `repository:${repository}:pull`;
  let authorization: string | undefined;

  const get = async (path: string, accept: string, signal: AbortSignal | undefined): Promise<RegistryAnswer> => {
    const ask = () => http.get(new URL(`${base}/${path}`), { headers: { accept }, authorization, signal });
    let answer = await ask();
    if (answer.status === 401) {
      answer.body.destroy();
      const challenge = parseChallenge(answer.headers['www-authenticate']);
      authorization = challenge && (await answerChallenge(http, challenge, scope, options.credentials, signal));
      if (authorization === undefined) throw denied(name);
      answer = await ask();
    }
    if (answer.status === 200) return answer;
    answer.body.destroy();
    throw failure(name, host, answer.status);
  };

  return {
    name,
    // The manifest is asked for each time, so a wrong password ends there.
    scope: scopeOf(registry, options.credentials?.username ?? ''),
    close: http.close,
    async head(signal) {
      const { body } = await get(`manifests/${reference.digest ?? reference.tag}`, ACCEPT, signal);
      const bytes = await collect(body, DOCUMENT_BYTES, `the manifest of ${name}`);
      const got = digestOf(bytes);
      if (reference.digest !== undefined && got !== reference.digest)
        throw new CoppiceError('bad_request', `the manifest of ${name} is ${got}`);
      return bytes;
    },
    async open({ digest }, kind, signal) {
      const isManifest = kind === 'manifest';
      const path = `${isManifest ? 'manifests' : 'blobs'}/${digest}`;
      return (await get(path, isManifest ? ACCEPT : '*/*', signal)).body;
    },
  };
}

function failure(name: string, host: string, status: number): CoppiceError {
  if (status === 401 || status === 403) return denied(name);
  if (status === 404) {
    return new CoppiceError(
      'bad_request',
      `image '${name}' not found: the image or tag does not exist, or needs credentials`,
    );
  }
  if (status === 429)
    return new CoppiceError('unavailable', `${host} limits how often it is asked; try '${name}' later`);
  if (status >= 500) return new CoppiceError('unavailable', `${host} answers with ${status} for '${name}'`);
  return new CoppiceError('bad_request', `${host} answers with ${status} for '${name}'`);
}

function denied(name: string): CoppiceError {
  return new CoppiceError(
    'bad_request',
    `access denied to '${name}': it does not exist, or the credentials do not allow to pull it`,
  );
}
