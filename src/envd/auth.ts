/**
 * Who may call: the sandbox's access token, or for /files a signature made with it; and as which user of the sandbox.
 *
 * A signature is `v1_` + base64 (standard alphabet, no padding) of SHA-256 over
 * `path:read|write:username:token[:expiry]`, with path and username exactly as in the query and expiry in Unix seconds.
 */
import { createHash, timingSafeEqual } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import type { EnvdSandbox } from './sandbox.ts';

export type FileOperation = 'read' | 'write';
export type SignatureVerdict = 'ok' | 'missing' | 'invalid' | 'expired';

/** Linux allows 32 characters in a user name; anything far beyond is noise. */
const MAX_USERNAME = 256;

export function signFileURL(
  accessToken: string,
  options: {
    readonly path: string;
    readonly operation: FileOperation;
    readonly username?: string;
    /** Unix seconds. */
    readonly expiration?: number;
  },
): string {
  const { path, operation, username = '', expiration } = options;
  const text = `${path}:${operation}:${username}:${accessToken}${expiration === undefined ? '' : `:${expiration}`}`;
  return `v1_${createHash('sha256').update(text).digest('base64').replace(/=+$/, '')}`;
}

/** Equal strings, in a time that does not depend on where they differ. */
export function sameSecret(given: string, expected: string): boolean {
  const digest = (text: string): Buffer => createHash('sha256').update(text).digest();
  return timingSafeEqual(digest(given), digest(expected));
}

/**
 * Judges the signature in a /files URL (absolute, or path and query) against one sandbox. Without `operation` a
 * signature for reading or for writing will do: enough to find the sandbox that a signed URL belongs to; `handle` judges
 * again, for the method at hand. A sandbox without a token signs nothing: `invalid`.
 */
export function matchesSignature(
  sandbox: Pick<EnvdSandbox, 'accessToken'>,
  url: string | URL,
  operation?: FileOperation,
): SignatureVerdict {
  const query = typeof url === 'string' ? queryOf(url) : url.searchParams;
  return judgeSignature(sandbox.accessToken, query, operation === undefined ? ['read', 'write'] : [operation]);
}

function judgeSignature(
  accessToken: string | undefined,
  query: URLSearchParams,
  operations: readonly FileOperation[],
): SignatureVerdict {
  const signature = query.get('signature');
  if (signature === null) return 'missing';
  if (accessToken === undefined) return 'invalid';
  const expiry = query.get('signature_expiration');
  if (expiry !== null && !/^-?\d{1,15}$/.test(expiry)) return 'invalid';
  const expiration = expiry === null ? undefined : Number(expiry);
  const path = query.get('path') ?? '';
  const username = query.get('username') ?? '';
  const matches = operations.some((operation) =>
    sameSecret(signature, signFileURL(accessToken, { path, operation, username, expiration })),
  );
  if (!matches) return 'invalid';
  return expiration !== undefined && expiration < Math.floor(Date.now() / 1000) ? 'expired' : 'ok';
}

const SIGNATURE_MESSAGES: Readonly<Record<Exclude<SignatureVerdict, 'ok'>, string>> = {
  missing: 'missing signature query parameter',
  invalid: 'invalid signature',
  expired: 'signature is already expired',
};

/** The reason to refuse (for a 401), or undefined. */
export function refuseToken(sandbox: EnvdSandbox, req: IncomingMessage): string | undefined {
  if (sandbox.accessToken === undefined) return undefined;
  const given = req.headers['x-access-token'];
  if (typeof given === 'string' && sameSecret(given, sandbox.accessToken)) return undefined;
  return 'unauthorized access, please provide a valid access token or method signing if supported';
}

/** As refuseToken, for /files: a token in the header decides alone; without one the query must carry a signature. */
export function refuseFileAccess(
  sandbox: EnvdSandbox,
  req: IncomingMessage,
  query: URLSearchParams,
  operation: FileOperation,
): string | undefined {
  if (sandbox.accessToken === undefined) return undefined;
  const given = req.headers['x-access-token'];
  if (given !== undefined) {
    const matches = typeof given === 'string' && sameSecret(given, sandbox.accessToken);
    return matches ? undefined : 'access token present in header but does not match';
  }
  const verdict = judgeSignature(sandbox.accessToken, query, [operation]);
  return verdict === 'ok' ? undefined : SIGNATURE_MESSAGES[verdict];
}

/**
 * The user of `Authorization: Basic base64("<user>:")`. undefined: none was named (other schemes are not ours to judge).
 * Whether the user exists is the agent's to say.
 */
export function basicUser(authorization: string | null | undefined): string | undefined {
  const encoded = /^basic\s+([A-Za-z0-9+/=_-]*)\s*$/i.exec(authorization ?? '')?.[1];
  if (encoded === undefined) return undefined;
  const decoded = Buffer.from(encoded, 'base64').toString('utf8');
  const colon = decoded.indexOf(':');
  const user = colon === -1 ? decoded : decoded.slice(0, colon);
  return user === '' ? undefined : user.slice(0, MAX_USERNAME);
}

/** The query of a request target, however odd the target. */
export function queryOf(target: string): URLSearchParams {
  const question = target.indexOf('?');
  if (question === -1) return new URLSearchParams();
  const hash = target.indexOf('#', question);
  return new URLSearchParams(target.slice(question + 1, hash === -1 ? undefined : hash));
}
