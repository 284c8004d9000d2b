import assert from 'node:assert/strict';
import { rmSync } from 'node:fs';
import test from 'node:test';
import { KINDS } from '../behaviours/support/kinds.ts';
import { coppice, freshHome } from '../helpers/service.ts';

test('coppice start --once --json proves itself, tears down and says so', async (t) => {
  const home = freshHome();
  t.after(() => rmSync(home.folder, { recursive: true, force: true }));
  const { stdout } = await coppice(['start', '--once', '--json'], { COPPICE_HOME: home.folder, COPPICE_PORT: '0' });
  const panel = JSON.parse(stdout.trim().split('\n').at(-1)!);
  assert.equal(panel.ok, true, panel.reason);
  assert.equal(panel.backend, 'qemu');
  assert.deepEqual(
    panel.backends.map((one: { isolation: string }) => one.isolation),
    KINDS.map((kind) => kind.name),
  );
  assert.match(panel.accelerator, /^(kvm|tcg)$/);
  for (const field of ['create_ms', 'first_exec_ms', 'first_run_code_ms']) assert.ok(panel[field] > 0, field);
  assert.ok(panel.receipt.guest > 0, 'the receipt has the stage in which the guest answered');
  assert.deepEqual(panel.leaks, {
    processes: 0,
    taps: 0,
    addresses: 0,
    rules: 0,
    mounts: 0,
    files: 0,
    cgroups: 0,
    details: [],
  });
  assert.equal(panel.proof.length, 11, 'eight steps in a microVM, three in a jail');
  const { stdout: later } = await coppice(['leaks', '--json'], { COPPICE_HOME: home.folder });
  assert.deepEqual(JSON.parse(later), panel.leaks);
});
