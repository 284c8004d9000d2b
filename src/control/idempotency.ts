/**
 * Idempotency keys of `POST /v2/sandboxes`: the first request with a key does the work, a repetition within 24 hours
 * gets the stored answer. Only successes are stored, so a failed request may be tried again with its key.
 *
 * A claim whose process died is free again: its caller got no answer, and the sandbox that it may have made ends at its
 * own deadline. At most once therefore holds for the life of one control process.
 */
import { randomUUID } from 'node:crypto';
import { CoppiceError } from '../contract/errors.ts';
import type { Database } from '../store/database.ts';

const LIFETIME_MS = 24 * 3600 * 1000;
/** Rows kept at most; the oldest go first. One row is about a kilobyte. */
const ROWS_MAX = 100_000;
const PRUNE_EVERY = 256;

export interface StoredAnswer {
  readonly status: number;
  readonly body: string;
}

/** `answer` is set when the work was done before; otherwise do it and call exactly one of the two functions. */
export type Claim =
  | { readonly answer: StoredAnswer }
  | { readonly answer?: undefined; complete(answer: StoredAnswer): void; release(): void };

export interface Idempotency {
  /**
   * `fingerprint` identifies the request body. Throws `idempotency_in_progress` while another request with this key is
   * at work, `idempotency_request_mismatch` when the key was used with another body.
   */
  claim(teamID: string, key: string, fingerprint: string): Claim;
}

interface Row {
  readonly fingerprint: string;
  readonly boot_id: string;
  readonly created_at_ms: number;
  readonly status: number | null;
  readonly response: string | null;
}

export function createIdempotency(database: Database, now: () => number = Date.now): Idempotency {
  const bootID = randomUUID();
  let claims = 0;

  const prune = () => {
    database.prepare('DELETE FROM idempotency WHERE created_at_ms <= ?').run(now() - LIFETIME_MS);
    database
      .prepare(
        'DELETE FROM idempotency WHERE (team_id, key) IN ' +
          '(SELECT team_id, key FROM idempotency ORDER BY created_at_ms DESC LIMIT -1 OFFSET ?)',
      )
      .run(ROWS_MAX);
  };

  const claim = (teamID: string, key: string, fingerprint: string): Claim =>
    database.transaction(() => {
      if (claims++ % PRUNE_EVERY === 0) prune();
      const row = database
        .prepare(
          'SELECT fingerprint, boot_id, created_at_ms, status, response FROM idempotency WHERE team_id = ? AND key = ?',
        )
        .get(teamID, key) as Row | undefined;
      if (row !== undefined && row.created_at_ms > now() - LIFETIME_MS) {
        const done = row.status !== null && row.response !== null;
        const alive = done || row.boot_id === bootID;
        if (alive && row.fingerprint !== fingerprint)
          throw new CoppiceError(
            'idempotency_request_mismatch',
            'this Idempotency-Key was used with a different request body',
          );
        if (row.status !== null && row.response !== null) return { answer: { status: row.status, body: row.response } };
        if (alive)
          throw new CoppiceError(
            'idempotency_in_progress',
            'a request with this Idempotency-Key is still being processed',
          );
      }
      database
        .prepare(
          'INSERT OR REPLACE INTO idempotency (team_id, key, fingerprint, boot_id, created_at_ms) VALUES (?, ?, ?, ?, ?)',
        )
        .run(teamID, key, fingerprint, bootID, now());
      return {
        complete: (answer: StoredAnswer) => {
          database
            .prepare('UPDATE idempotency SET status = ?, response = ? WHERE team_id = ? AND key = ?')
            .run(answer.status, answer.body, teamID, key);
        },
        release: () => {
          database.prepare('DELETE FROM idempotency WHERE team_id = ? AND key = ? AND status IS NULL').run(teamID, key);
        },
      };
    });

  return Object.freeze({ claim });
}
