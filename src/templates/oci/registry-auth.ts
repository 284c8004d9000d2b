/** Who asks a registry: what E2B's contract calls `fromImageRegistry`, and the answer to a registry's challenge. */
import { z } from 'zod';
import { CoppiceError } from '../../contract/errors.ts';
import { collect } from './digest.ts';
import { parseJson } from './manifest.ts';
import type { RegistryHttp } from './registry-http.ts';

export interface RegistryCredentials {
  readonly username: string;
  readonly password: string;
}

export interface Challenge {
  readonly scheme: 'basic' | 'bearer';
  readonly parameters: ReadonlyMap<string, string>;
}

const CHALLENGE_BYTES = 4_096;
const TOKEN_ANSWER_BYTES = 256 * 1024;
/** What a header may carry, and as long as servers take one. */
const TOKEN = /^[\x21-\x7e]{1,16384}$/;

const text = z.string().min(1).max(65_536);
const wire = z.discriminatedUnion('type', [
  z.object({ type: z.literal('registry'), username: text, password: text }),
  z.object({ type: z.literal('gcp'), serviceAccountJson: text }),
  z.object({ type: z.literal('aws') }),
]);

/** E2B's credentials. `aws` is refused by name (not_implemented): a token is to be fetched with its own signatures. */
export function parseRegistryCredentials(input: unknown): RegistryCredentials {
  const parsed = wire.safeParse(input);
  if (!parsed.success)
    throw new CoppiceError('bad_request', 'fromImageRegistry wants a type (registry, gcp) and its credentials');
  const given = parsed.data;
  if (given.type === 'aws') {
    throw new CoppiceError(
      'not_implemented',
      "fromImageRegistry of type aws is not there yet; use type registry with username 'AWS' and the password that " +
        '`aws ecr get-login-password` prints',
    );
  }
  // Google's registries take a key file as it is.
  if (given.type === 'gcp') return { username: '_json_key', password: given.serviceAccountJson };
  return { username: given.username, password: given.password };
}

function basicAuthorization({ username, password }: RegistryCredentials): string {
  return `Basic ${Buffer.from(`${username}:${password}`).toString('base64')}`;
}

/** The first challenge of a WWW-Authenticate header that can be met. */
export function parseChallenge(header: string | undefined): Challenge | undefined {
  if (header === undefined || header.length > CHALLENGE_BYTES) return undefined;
  const match = /^\s*(basic|bearer)(?:\s+(.*))?$/is.exec(header);
  if (match === null) return undefined;
  const parameters = new Map<string, string>();
  for (const [, name, quoted, plain] of (match[2] ?? '').matchAll(/([a-z0-9_-]{1,64})=(?:"([^"]*)"|([^\s,"]+))/gi))
    if (!parameters.has(name!.toLowerCase())) parameters.set(name!.toLowerCase(), quoted ?? plain ?? '');
  return { scheme: match[1]!.toLowerCase() === 'basic' ? 'basic' : 'bearer', parameters };
}

/**
 * What to send with the next request. The place that gives tokens is the registry's choice, and it is sent the credentials:
 * they are for that registry and nobody else's. undefined: there is nothing that would satisfy it.
 */
export async function answerChallenge(
  http: RegistryHttp,
  challenge: Challenge,
  scope: string,
  credentials: RegistryCredentials | undefined,
  signal?: AbortSignal,
): Promise<string | undefined> {
  if (challenge.scheme === 'basic') return credentials && basicAuthorization(credentials);
  const realm = URL.parse(challenge.parameters.get('realm') ?? '');
  if (realm === null) return undefined;
  const service = challenge.parameters.get('service');
  if (service !== undefined) realm.searchParams.set('service', service);
  // To pull this repository, whatever the registry proposes to ask for.
  realm.searchParams.set('scope', scope);
  const authorization = credentials && basicAuthorization(credentials);
  const { status, body } = await http.get(realm, { authorization, signal });
  if (status !== 200) {
    body.destroy();
    return undefined;
  }
  const answer = parseJson(await collect(body, TOKEN_ANSWER_BYTES, `the answer of ${realm.host}`), 'the token');
  const token = answer.token ?? answer.access_token;
  return typeof token === 'string' && TOKEN.test(token) ? `Bearer ${token}` : undefined;
}
