/** Who a jail is, written into its layer from a template that somebody else has made. */
import assert from 'node:assert/strict';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { writeIdentity } from '../../src/isolation/jail/oci/identity-files.ts';

const IDENTITY = { hostname: 'mine', machineID: '0123456789abcdef0123456789abcdef' };

function folders(t: TestContext) {
  const top = mkdtempSync(join(tmpdir(), 'cpi-'));
  t.after(() => rmSync(top, { recursive: true, force: true }));
  const made = { template: join(top, 'template'), upper: join(top, 'upper'), elsewhere: join(top, 'elsewhere') };
  for (const folder of Object.values(made)) mkdirSync(folder);
  const read = (name: string): string => readFileSync(join(made.upper, name), 'utf8');
  return { ...made, read };
}

test('names, and the table of hosts of the template with its own name', (t) => {
  const { template, upper, read } = folders(t);
  mkdirSync(join(template, 'etc'));
  writeFileSync(join(template, 'etc/hosts'), '127.0.0.1\tlocalhost\n10.0.0.1 db\n127.0.1.1 old\n');
  mkdirSync(join(template, 'var/lib/dbus'), { recursive: true });
  writeFileSync(join(template, 'var/lib/dbus/machine-id'), 'old\n');
  writeIdentity(template, upper, IDENTITY);
  assert.equal(read('etc/hostname'), 'mine\n');
  assert.equal(read('etc/machine-id'), `${IDENTITY.machineID}\n`);
  assert.equal(read('var/lib/dbus/machine-id'), `${IDENTITY.machineID}\n`);
  assert.equal(read('etc/hosts'), '127.0.0.1\tlocalhost\n10.0.0.1 db\n127.0.1.1\tmine\n');
});

test('no link of a template is followed, wherever in the path it is', (t) => {
  const { template, upper, elsewhere, read } = folders(t);
  writeFileSync(join(elsewhere, 'hosts'), '10.9.9.9 secret\n');
  writeFileSync(join(elsewhere, 'machine-id'), 'theirs\n');
  symlinkSync(elsewhere, join(template, 'etc'));
  mkdirSync(join(template, 'var/lib'), { recursive: true });
  symlinkSync(elsewhere, join(template, 'var/lib/dbus'));
  writeIdentity(template, upper, IDENTITY);
  assert.doesNotMatch(read('etc/hosts'), /secret/);
  assert.match(read('etc/hosts'), /^127\.0\.0\.1\tlocalhost$/m);
  assert.equal(existsSync(join(upper, 'var')), false);
});

test('a template without any of it gets the usual table of hosts', (t) => {
  const { template, upper, read } = folders(t);
  writeIdentity(template, upper, IDENTITY);
  assert.match(read('etc/hosts'), /^127\.0\.0\.1\tlocalhost$/m);
  assert.match(read('etc/hosts'), /^127\.0\.1\.1\tmine$/m);
});
