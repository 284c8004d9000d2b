/** The table itself: every file of rows/, in order of its name. */
import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import type { Behaviour } from './behaviour.ts';

const ROWS = join(import.meta.dirname, '..', 'rows');

/** Each file's default export is its rows. */
export async function readTable(): Promise<readonly Behaviour[]> {
  const rows: Behaviour[] = [];
  for (const file of readdirSync(ROWS).sort()) {
    const { default: found } = (await import(join(ROWS, file))) as { default?: readonly Behaviour[] };
    assert.ok(Array.isArray(found) && found.length > 0, `${file} has no rows`);
    rows.push(...found);
  }
  const names = rows.map((row) => row.name);
  assert.equal(new Set(names).size, names.length, 'two rows have one name');
  return rows;
}
