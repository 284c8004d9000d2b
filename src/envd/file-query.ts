/** What the /files routes read from a query or body, checked. */
import { HttpFailure } from './failures.ts';
import type { EnvdSandbox } from './sandbox.ts';

const MAX_PATH = 4_096;
const MAX_USERNAME = 256;

/** The path as the agent takes it: unresolved. Throws HttpFailure 400. */
export function filePath(path: string): string {
  if (path.includes('\0')) throw new HttpFailure(400, 'the path contains a NUL character');
  if (path.length > MAX_PATH) throw new HttpFailure(400, `the path is longer than ${MAX_PATH}`);
  return path;
}

/** The user that `username` names, else the default. Throws HttpFailure 401. */
export function fileUser(sandbox: EnvdSandbox, query: URLSearchParams): string {
  return userOr(sandbox, query.get('username') ?? '');
}

export function userOr(sandbox: EnvdSandbox, username: string): string {
  if (username === '') return sandbox.defaultUser;
  if (username.length > MAX_USERNAME || username.includes('\0')) throw new HttpFailure(401, 'invalid username');
  return username;
}
