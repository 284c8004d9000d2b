/** What control keeps on disk: teams, keys and the answers to idempotent requests, in one database. */
import { openDatabase } from '../store/database.ts';
import { createIdempotency, type Idempotency } from './idempotency.ts';
import { type ApiKeys, createKeys, type KeyOptions } from './keys.ts';
import { CONTROL_MIGRATIONS } from './migrations.ts';
import { createTeams, type Teams } from './teams.ts';

export interface ControlStore {
  readonly keys: ApiKeys;
  readonly teams: Teams;
  readonly idempotency: Idempotency;
  close(): void;
}

/** Opens the control database (a file path or `:memory:`) and makes the default team if there is none. */
export function openControlStore(path: string, options: KeyOptions = {}): ControlStore {
  const database = openDatabase(path, CONTROL_MIGRATIONS);
  try {
    const teams = createTeams(database);
    const keys = createKeys(database, options);
    const idempotency = createIdempotency(database, options.now);
    return Object.freeze({
      keys,
      teams,
      idempotency,
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
