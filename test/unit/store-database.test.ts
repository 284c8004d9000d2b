/** The embedded store: modes, migrations, transactions, death of a writer. */
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import { type Migration, openDatabase } from '../../src/store/database.ts';

const ONE: Migration = { version: 1, name: 'test-one', sql: 'CREATE TABLE a (x INTEGER PRIMARY KEY) STRICT' };
const TWO: Migration = {
  version: 2,
  name: 'test-two',
  sql: 'CREATE TABLE b (x INTEGER NOT NULL REFERENCES a (x)) STRICT; INSERT INTO a VALUES (1)',
};
const MODULE = new URL('../../src/store/database.ts', import.meta.url).href;

function folder(t: test.TestContext): string {
  const path = mkdtempSync(join(tmpdir(), 'coppice-store-'));
  t.after(() => rmSync(path, { recursive: true, force: true }));
  return path;
}

test('a file is private, in WAL, synchronous NORMAL, with foreign keys', (t) => {
  const path = join(folder(t), 'deep', 'x.db');
  const database = openDatabase(path, [ONE, TWO]);
  const pragma = (name: string) => Object.values(database.prepare(`PRAGMA ${name}`).get()!)[0];
  assert.equal(pragma('journal_mode'), 'wal');
  assert.equal(pragma('synchronous'), 1);
  assert.equal(pragma('foreign_keys'), 1);
  assert.equal(pragma('busy_timeout'), 5000);
  assert.throws(() => database.exec('INSERT INTO b VALUES (99)'), /FOREIGN KEY/);
  for (const suffix of ['', '-wal', '-shm']) assert.equal(statSync(path + suffix).mode & 0o777, 0o600);
  database.close();
  database.close();
});

test('migrations run once and in order, and later ones are added', (t) => {
  const path = join(folder(t), 'x.db');
  openDatabase(path, [ONE]).close();
  for (let round = 0; round < 2; round++) {
    using database = openDatabase(path, [ONE, TWO]);
    assert.equal(database.prepare('SELECT count(*) AS n FROM a').get()!.n, 1);
  }
});

test('a failing migration leaves nothing of itself', (t) => {
  const path = join(folder(t), 'x.db');
  const bad: Migration = { version: 2, name: 'bad', sql: 'CREATE TABLE half (x); SELECT * FROM nowhere' };
  assert.throws(() => openDatabase(path, [ONE, bad]), { code: 'host_unfit' });
  using database = openDatabase(path, [ONE, TWO]);
  assert.equal(database.prepare("SELECT count(*) AS n FROM sqlite_master WHERE name = 'half'").get()!.n, 0);
});

test("a newer schema, another room's file and a file that is no database are refused clearly", (t) => {
  const path = join(folder(t), 'x.db');
  openDatabase(path, [ONE, TWO]).close();
  assert.throws(() => openDatabase(path, [ONE]), {
    code: 'host_unfit',
    message: /written by a newer Coppice \(schema 2, this one knows 1\)/,
  });
  assert.throws(() => openDatabase(path, [{ ...ONE, name: 'other' }, TWO]), {
    code: 'host_unfit',
    message: /is another database/,
  });
  openDatabase(path, [ONE, TWO]).close();
  const text = join(folder(t), 'text.db');
  writeFileSync(text, 'this is not a database, it is a text of some length'.repeat(100));
  assert.throws(() => openDatabase(text, [ONE]), { code: 'host_unfit', message: /cannot open the database/ });
  assert.throws(() => openDatabase(folder(t), [ONE]), { code: 'host_unfit' });
  assert.throws(() => openDatabase(':memory:', [TWO]), TypeError);
});

test('transactions commit, roll back, nest, and refuse promises', () => {
  using database = openDatabase(':memory:', [ONE]);
  const insert = (x: number) => database.prepare('INSERT INTO a VALUES (?)').run(x);
  const all = () =>
    database
      .prepare('SELECT x FROM a ORDER BY x')
      .all()
      .map((row) => row.x);
  const result = database.transaction(() => {
    insert(1);
    return 'value';
  });
  assert.equal(result, 'value');
  assert.throws(
    () =>
      database.transaction(() => {
        insert(2);
        throw new Error('no');
      }),
    /no/,
  );
  assert.deepEqual(all(), [1]);
  database.transaction(() => {
    insert(3);
    assert.throws(
      () =>
        database.transaction(() => {
          insert(4);
          throw new Error('inner');
        }),
      /inner/,
    );
    database.transaction(() => insert(5));
  });
  assert.deepEqual(all(), [1, 3, 5]);
  assert.throws(() => database.transaction(async () => insert(6)), /must be synchronous/);
  assert.deepEqual(all(), [1, 3, 5]);
});

test('statements are cached by their text, within bounds', () => {
  using database = openDatabase(':memory:', [ONE]);
  const first = database.prepare('SELECT 1');
  assert.equal(database.prepare('SELECT 1'), first);
  for (let index = 0; index < 300; index++) database.prepare(`SELECT ${index} AS n`);
  assert.notEqual(database.prepare('SELECT 1'), first);
});

test('a commit survives the death of its process', (t) => {
  const path = join(folder(t), 'x.db');
  const script = `
    const { openDatabase } = await import(${JSON.stringify(MODULE)});
    const database = openDatabase(${JSON.stringify(path)}, [${JSON.stringify(ONE)}]);
    for (let x = 0; x < 100; x++) database.transaction(() => database.prepare('INSERT INTO a VALUES (?)').run(x));
    database.exec('BEGIN'); database.exec('INSERT INTO a VALUES (1000)');
    process.kill(process.pid, 'SIGKILL');`;
  const died = spawnSync(process.execPath, ['--input-type=module', '-e', script]);
  assert.equal(died.signal, 'SIGKILL', died.stderr.toString());
  using database = openDatabase(path, [ONE]);
  assert.equal(database.prepare('SELECT count(*) AS n FROM a').get()!.n, 100);
});

test('processes that open and write one new file at once all succeed', async (t) => {
  const path = join(folder(t), 'x.db');
  const script = `
    const { openDatabase } = await import(${JSON.stringify(MODULE)});
    const database = openDatabase(${JSON.stringify(path)}, ${JSON.stringify([ONE, TWO])});
    for (let n = 0; n < 50; n++) database.transaction(() => database.prepare('INSERT INTO b VALUES (1)').run());
    database.close();`;
  const codes = await Promise.all(
    Array.from({ length: 4 }, () => {
      const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
        stdio: ['ignore', 'ignore', 'inherit'],
      });
      return new Promise((resolve) => child.on('exit', resolve));
    }),
  );
  assert.deepEqual(codes, [0, 0, 0, 0]);
  using database = openDatabase(path, [ONE, TWO]);
  assert.equal(database.prepare('SELECT count(*) AS n FROM b').get()!.n, 200);
});
