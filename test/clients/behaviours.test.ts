/**
 * Every behaviour on every kind of isolation. COPPICE_TEST_KINDS names the kinds to run, by default all; one row alone:
 * `--test-name-pattern='jail .*two commands'`.
 */
import assert from 'node:assert/strict';
import { KINDS } from '../behaviours/support/kinds.ts';
import { runTable } from '../behaviours/support/run.ts';
import { readTable } from '../behaviours/support/table.ts';

const wanted = process.env.COPPICE_TEST_KINDS?.split(',') ?? KINDS.map((kind) => kind.name);
const unknown = wanted.filter((name) => !KINDS.some((kind) => kind.name === name));
assert.deepEqual(unknown, [], 'COPPICE_TEST_KINDS names kinds that there are not');
const table = await readTable();
for (const kind of KINDS) if (wanted.includes(kind.name)) runTable(kind, table);
