/** The REST API as it is on the wire: every answer as it came. */
import assert from 'node:assert/strict';
import type { TestService } from '../../helpers/service.ts';

export interface Answer {
  readonly status: number;
  /** undefined: there was none. */
  readonly body: unknown;
}

export type Rest = (method: 'GET' | 'POST' | 'DELETE', path: string, body?: unknown) => Promise<Answer>;

/** Wide, since emulated guests under load are slow. */
const ANSWER_MS = 180_000;

/** Rejects when there is no answer. */
export function restOf({ url, apiKey }: TestService): Rest {
  return async (method, path, body) => {
    const response = await fetch(`${url}${path}`, {
      method,
      headers: { 'X-API-Key': apiKey, ...(body === undefined ? {} : { 'Content-Type': 'application/json' }) },
      signal: AbortSignal.timeout(ANSWER_MS),
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    const text = await response.text();
    return { status: response.status, body: text === '' ? undefined : JSON.parse(text) };
  };
}

export function succeeded({ status }: Answer): boolean {
  return status < 300;
}

/** E2B's shape: JSON, `code` equal to the status, a message that says what is the matter. */
export function assertRefused({ status, body }: Answer, wanted: number, message: RegExp): void {
  const said = JSON.stringify(body);
  assert.equal(status, wanted, said);
  const { code, message: text } = body as { readonly code: unknown; readonly message: unknown };
  assert.equal(code, wanted, said);
  assert.match(String(text), message);
}
