/**
 * What is to be told to whom, until it has been told: one row for each event and webhook, written together with how far the
 * node's events have been looked at, so that none is missed whatever dies. One that was on its way when a process died is
 * told again.
 */
import { randomUUID } from 'node:crypto';
import { encodeEvent } from '../contract/e2b/activity-encode.ts';
import type { EventKind, LifecycleEvent } from '../contract/node-api.ts';
import type { Database } from '../store/database.ts';
import type { Webhook } from './webhooks.ts';

export interface Delivery {
  readonly deliveryID: string;
  readonly webhookID: string;
  readonly eventID: string;
  readonly kind: EventKind;
  /** JSON, as it is signed and sent. */
  readonly body: string;
  readonly state: 'pending' | 'delivered' | 'dead';
  /** That were made. */
  readonly attempts: number;
  /** Of the last attempt: HTTP status, or why there was none. */
  readonly status: number | undefined;
  readonly error: string | undefined;
  readonly createdAtMs: number;
}

export interface Outcome {
  readonly status?: number;
  readonly error?: string;
}

/** One that is due, and where it goes. */
export interface Due {
  readonly delivery: Delivery;
  readonly teamID: string;
  readonly url: string;
  readonly secret: string;
}

export interface Deliveries {
  /** Queues each event for every webhook that wants it and has not seen it. `head`: position of the node's newest. */
  queue(webhooks: readonly Webhook[], events: readonly LifecycleEvent[], head: number): void;
  /** Queues one again, or for the first time. Its id. */
  replay(webhook: Webhook, event: LifecycleEvent): string;
  /** The one that has been due for longest, of no webhook and no team named. */
  due(except: { readonly webhooks: readonly string[]; readonly teams: readonly string[] }): Due | undefined;
  /** When the next is due, of any. ms since the epoch. */
  nextAtMs(): number | undefined;
  delivered(deliveryID: string, outcome: Outcome): void;
  /** `retryAtMs` undefined: it is dead. */
  failed(deliveryID: string, outcome: Outcome, retryAtMs: number | undefined): void;
  /** Newest first. */
  list(webhookID: string, limit: number): readonly Delivery[];
  /** Called when something was queued. */
  onQueued: () => void;
}

/** Waiting for one webhook; the oldest are dead beyond that. */
const PENDING_MOST = 10_000;
/** Kept once they are settled. */
const SETTLED_MOST = 1_000;
const SETTLED_MS = 7 * 24 * 3_600_000;
const PRUNE_EVERY = 64;

interface Row {
  readonly delivery_id: string;
  readonly webhook_id: string;
  readonly event_id: string;
  readonly kind: EventKind;
  readonly body: string;
  readonly state: Delivery['state'];
  readonly attempts: number;
  readonly status: number | null;
  readonly error: string | null;
  readonly created_at_ms: number;
}

export function createDeliveries(database: Database, now: () => number = Date.now): Deliveries {
  let queued = 0;
  const insert = (webhookID: string, event: LifecycleEvent): string => {
    const deliveryID = randomUUID();
    const atMs = now();
    database
      .prepare(
        `INSERT INTO deliveries (delivery_id, webhook_id, event_id, kind, body, state, attempts, next_at_ms, created_at_ms)
         VALUES (?, ?, ?, ?, ?, 'pending', 0, ?, ?)`,
      )
      .run(deliveryID, webhookID, event.id, event.kind, JSON.stringify(encodeEvent(event)), atMs, atMs);
    if (queued++ % PRUNE_EVERY === 0) prune(webhookID);
    return deliveryID;
  };
  const prune = (webhookID: string): void => {
    database.prepare(`DELETE FROM deliveries WHERE state <> 'pending' AND created_at_ms < ?`).run(now() - SETTLED_MS);
    database
      .prepare(
        `DELETE FROM deliveries WHERE delivery_id IN (SELECT delivery_id FROM deliveries
           WHERE webhook_id = ? AND state <> 'pending' ORDER BY created_at_ms DESC LIMIT -1 OFFSET ?)`,
      )
      .run(webhookID, SETTLED_MOST);
    database
      .prepare(
        `UPDATE deliveries SET state = 'dead', error = 'too many were waiting' WHERE delivery_id IN
           (SELECT delivery_id FROM deliveries WHERE webhook_id = ? AND state = 'pending'
            ORDER BY created_at_ms DESC LIMIT -1 OFFSET ?)`,
      )
      .run(webhookID, PENDING_MOST);
  };
  const settle = (deliveryID: string, state: Delivery['state'], { status, error }: Outcome, nextAtMs: number): void => {
    database
      .prepare(
        `UPDATE deliveries SET state = ?, attempts = attempts + 1, status = ?, error = ?, next_at_ms = ?
         WHERE delivery_id = ? AND state = 'pending'`,
      )
      .run(state, status ?? null, error ?? null, nextAtMs, deliveryID);
  };

  const deliveries: Deliveries = {
    onQueued: () => {},
    queue: (webhooks, events, head) => {
      database.transaction(() => {
        for (const { webhookID, teamID, kinds, enabled, seen } of webhooks) {
          // A node that has begun anew counts from the start.
          const from = Math.min(seen, head);
          const last = events.at(-1)?.position ?? from;
          for (const event of events)
            if (enabled && event.position > from && event.teamID === teamID && kinds.includes(event.kind))
              insert(webhookID, event);
          const upTo = Math.max(from, last);
          if (upTo !== seen) database.prepare('UPDATE webhooks SET seen = ? WHERE webhook_id = ?').run(upTo, webhookID);
        }
      });
      deliveries.onQueued();
    },
    replay: ({ webhookID }, event) => {
      const deliveryID = insert(webhookID, event);
      deliveries.onQueued();
      return deliveryID;
    },
    due: ({ webhooks, teams }) => {
      const row = database
        .prepare(
          `SELECT d.*, w.team_id, w.url, w.secret FROM deliveries d JOIN webhooks w USING (webhook_id)
           WHERE d.state = 'pending' AND d.next_at_ms <= ? AND w.enabled = 1
             AND d.webhook_id NOT IN (SELECT value FROM json_each(?)) AND w.team_id NOT IN (SELECT value FROM json_each(?))
           ORDER BY d.next_at_ms, d.rowid LIMIT 1`,
        )
        .get(now(), JSON.stringify(webhooks), JSON.stringify(teams)) as
        | (Row & { team_id: string; url: string; secret: string })
        | undefined;
      return row && { delivery: toDelivery(row), teamID: row.team_id, url: row.url, secret: row.secret };
    },
    nextAtMs: () => {
      const row = database
        .prepare(
          `SELECT min(d.next_at_ms) AS at FROM deliveries d JOIN webhooks w USING (webhook_id)
           WHERE d.state = 'pending' AND w.enabled = 1`,
        )
        .get() as { at: number | null };
      return row.at ?? undefined;
    },
    delivered: (deliveryID, outcome) => settle(deliveryID, 'delivered', outcome, now()),
    failed: (deliveryID, outcome, retryAtMs) =>
      settle(deliveryID, retryAtMs === undefined ? 'dead' : 'pending', outcome, retryAtMs ?? now()),
    list: (webhookID, limit) =>
      (
        database
          .prepare('SELECT * FROM deliveries WHERE webhook_id = ? ORDER BY created_at_ms DESC, rowid DESC LIMIT ?')
          .all(webhookID, limit) as unknown as Row[]
      ).map(toDelivery),
  };
  return deliveries;
}

function toDelivery(row: Row): Delivery {
  return {
    deliveryID: row.delivery_id,
    webhookID: row.webhook_id,
    eventID: row.event_id,
    kind: row.kind,
    body: row.body,
    state: row.state,
    attempts: row.attempts,
    status: row.status ?? undefined,
    error: row.error ?? undefined,
    createdAtMs: row.created_at_ms,
  };
}
