/** Where a team wants to be told of what happens to its sandboxes. The secret is kept as it is: bodies are signed with it. */
import { randomBytes, randomUUID } from 'node:crypto';
import { CoppiceError } from '../contract/errors.ts';
import type { EventKind } from '../contract/node-api.ts';
import type { Database } from '../store/database.ts';

export interface Webhook {
  readonly webhookID: string;
  readonly teamID: string;
  readonly name: string;
  /** http or https. */
  readonly url: string;
  readonly secret: string;
  readonly kinds: readonly EventKind[];
  readonly enabled: boolean;
  /** Position of the newest event that was looked at for it. */
  readonly seen: number;
  readonly createdAtMs: number;
}

export type WebhookWish = Pick<Webhook, 'name' | 'url' | 'kinds' | 'enabled'> & { readonly secret?: string };

export interface Webhooks {
  /** `seen`: it is told of what comes after. Without a secret it is given one. */
  create(teamID: string, wish: WebhookWish, seen: number): Webhook;
  /** Throw `webhook_not_found` when the team has no such. */
  get(teamID: string, webhookID: string): Webhook;
  update(teamID: string, webhookID: string, change: Partial<WebhookWish>): Webhook;
  delete(teamID: string, webhookID: string): void;
  list(teamID: string): readonly Webhook[];
  all(): readonly Webhook[];
  /** Called when there may be something to do that there was not before. */
  onChange: () => void;
}

const MOST_PER_TEAM = 20;

interface Row {
  readonly webhook_id: string;
  readonly team_id: string;
  readonly name: string;
  readonly url: string;
  readonly secret: string;
  readonly kinds: string;
  readonly enabled: number;
  readonly seen: number;
  readonly created_at_ms: number;
}

export function createWebhooks(database: Database, now: () => number = Date.now): Webhooks {
  const select = (where: string, ...values: string[]): Webhook[] =>
    (database.prepare(`SELECT * FROM webhooks ${where}`).all(...values) as unknown as Row[]).map(toWebhook);
  const get = (teamID: string, webhookID: string): Webhook => {
    const found = select('WHERE webhook_id = ? AND team_id = ?', webhookID, teamID)[0];
    if (found) return found;
    throw new CoppiceError('webhook_not_found', `Webhook "${webhookID.slice(0, 64)}" doesn't exist`);
  };

  const webhooks: Webhooks = {
    onChange: () => {},
    get,
    list: (teamID) => select('WHERE team_id = ? ORDER BY created_at_ms, webhook_id', teamID),
    all: () => select('ORDER BY created_at_ms, webhook_id'),
    create: (teamID, wish, seen) => {
      if (webhooks.list(teamID).length >= MOST_PER_TEAM)
        throw new CoppiceError('bad_request', `there are ${MOST_PER_TEAM} webhooks already; delete some`);
      const webhook: Webhook = {
        ...wish,
        webhookID: randomUUID(),
        teamID,
        secret: wish.secret ?? `whsec_${randomBytes(24).toString('hex')}`,
        seen,
        createdAtMs: now(),
      };
      const { webhookID, name, url, secret, kinds, enabled, createdAtMs } = webhook;
      database
        .prepare(
          'INSERT INTO webhooks (webhook_id, team_id, name, url, secret, kinds, enabled, seen, created_at_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)',
        )
        .run(webhookID, teamID, name, url, secret, JSON.stringify(kinds), enabled ? 1 : 0, seen, createdAtMs);
      webhooks.onChange();
      return webhook;
    },
    update: (teamID, webhookID, change) => {
      const { name, url, secret, kinds, enabled } = { ...get(teamID, webhookID), ...change };
      database
        .prepare('UPDATE webhooks SET name = ?, url = ?, secret = ?, kinds = ?, enabled = ? WHERE webhook_id = ?')
        .run(name, url, secret, JSON.stringify(kinds), enabled ? 1 : 0, webhookID);
      webhooks.onChange();
      return get(teamID, webhookID);
    },
    delete: (teamID, webhookID) => {
      get(teamID, webhookID);
      database.prepare('DELETE FROM webhooks WHERE webhook_id = ?').run(webhookID);
    },
  };
  return webhooks;
}

function toWebhook(row: Row): Webhook {
  return {
    webhookID: row.webhook_id,
    teamID: row.team_id,
    name: row.name,
    url: row.url,
    secret: row.secret,
    kinds: JSON.parse(row.kinds) as EventKind[],
    enabled: row.enabled === 1,
    seen: row.seen,
    createdAtMs: row.created_at_ms,
  };
}
