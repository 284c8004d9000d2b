/** What control keeps on disk: teams, what clients present, answers to idempotent requests, what is told and what is never told, in one database. */
import { openDatabase } from '../store/database.ts';
import { type AccessTokens, createAccessTokens } from './access-tokens.ts';
import { type AdminToken, createAdminToken } from './admin-token.ts';
import { createDeliveries, type Deliveries } from './deliveries.ts';
import { createIdempotency, type Idempotency } from './idempotency.ts';
import { type ApiKeys, createKeys, type KeyOptions } from './keys.ts';
import { CONTROL_MIGRATIONS } from './migrations.ts';
import { createNodeStates, type NodeStates } from './node-states.ts';
import { createTeamPoints, type TeamPoints } from './team-points.ts';
import { createSecrets, openSecretKey, type Secrets } from './team-secrets.ts';
import { createTeams, type Teams } from './teams.ts';
import { createWebhooks, type Webhooks } from './webhooks.ts';

export interface ControlStore {
  readonly keys: ApiKeys;
  readonly tokens: AccessTokens;
  readonly admin: AdminToken;
  readonly teams: Teams;
  readonly points: TeamPoints;
  readonly nodes: NodeStates;
  readonly idempotency: Idempotency;
  readonly secrets: Secrets;
  readonly webhooks: Webhooks;
  readonly deliveries: Deliveries;
  close(): void;
}

/** Opens the control database (a file path or `:memory:`) and makes the default team if there is none. */
export function openControlStore(path: string, options: KeyOptions = {}): ControlStore {
  const database = openDatabase(path, CONTROL_MIGRATIONS);
  try {
    const { now } = options;
    const teams = createTeams(database);
    const keys = createKeys(database, options);
    return Object.freeze({
      keys,
      tokens: createAccessTokens(database, keys, now),
      admin: createAdminToken(database, now),
      teams,
      points: createTeamPoints(database, now),
      nodes: createNodeStates(database, now),
      idempotency: createIdempotency(database, now),
      secrets: createSecrets(database, openSecretKey(path), now),
      webhooks: createWebhooks(database, now),
      deliveries: createDeliveries(database, now),
      close: () => {
        keys.close();
        database.close();
      },
    });
  } catch (error) {
    database.close();
    throw error;
  }
}
