/**
 * What may go wrong on a host while sandboxes are captured and resumed: a full disk, a VMM that hangs, no memory left, a
 * checkpoint that is not what it was. Whoever asked is told so, the sandbox is as it was, and others notice nothing.
 */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync, renameSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { Sandbox } from 'e2b';
import { say } from '../behaviours/support/asks.ts';
import { firstProcessOf, processesOf } from '../behaviours/support/processes.ts';
import { Patient } from '../clients/support/patient.ts';
import { assertRefused, type Rest, restOf } from '../clients/support/rest.ts';
import { SmallDisk } from '../clients/support/small-disk.ts';
import { type StartOptions, startService, type TestService } from '../helpers/service.ts';

const POOL = { COPPICE_POOL: '1', COPPICE_POOL_MOST: '1' };
/** Each ends by itself within this, however the host fares. */
const NOBODY_WAITS_LONGER_MS = 60_000;

async function serviceFor(
  t: TestContext,
  env: Readonly<Record<string, string>> = {},
  options: StartOptions = {},
): Promise<TestService> {
  const service = await startService({ ...POOL, ...env }, ['base'], options);
  t.after(async () => assert.deepEqual((await service.stop()).details, []));
  return service;
}

async function listed(rest: Rest, path: string): Promise<number> {
  return ((await rest('GET', path)).body as unknown[]).length;
}

test('a full disk', async (t) => {
  let paused!: SmallDisk;
  let snapshots!: SmallDisk;
  const service = await serviceFor(
    t,
    {},
    {
      prepare: (home) => {
        paused = new SmallDisk(home.paused, { size: '256k' });
        snapshots = new SmallDisk(home.snapshots, { size: '1m' });
        return () => {
          paused.end();
          snapshots.end();
        };
      },
    },
  );
  const { home } = service;
  const rest = restOf(service);
  const [patient, other] = [await Patient.create(service), await Patient.create(service)];

  await t.test('no room for its files: not paused, and it runs as before', async () => {
    for (const memory of [true, false]) {
      assertRefused(await patient.post('pause', { memory }), 503, /no space .*delete/);
      await patient.assertWell();
    }
  });
  await t.test('not even for a folder', async () => {
    paused.resize({ size: '64m', files: 0 });
    assertRefused(await patient.post('pause'), 503, /no space .*delete/);
    await patient.assertWell();
  });
  await t.test('no room for a snapshot or a fork', async () => {
    assertRefused(await patient.post('snapshots'), 503, /no room for a snapshot.*delete/);
    assertRefused(await patient.post('fork'), 503, /no room for a snapshot.*delete/);
    await patient.assertWell();
  });
  await t.test('it ends while a snapshot is written', async () => {
    // With room for the folder of the snapshot, and for so many files in it.
    for (const files of [0, 1, 2, 3, 4, 5]) {
      snapshots.resize({ size: '1g', files });
      assertRefused(await patient.post('snapshots'), 503, /no space .*delete/);
      assertRefused(await patient.post('fork'), 503, /no space .*delete/);
    }
    assert.deepEqual(readdirSync(home.snapshots), []);
    assert.equal(await listed(rest, '/snapshots'), 0);
    assert.equal(await listed(rest, '/v2/sandboxes'), 2);
    await patient.assertWell();
  });
  await t.test('no room to roll back: it stays what it was', async () => {
    snapshots.resize({ size: '1g' });
    const taken = await patient.post('snapshots');
    assert.equal(taken.status, 201);
    const { snapshotID } = taken.body as { readonly snapshotID: string };
    assertRefused(await patient.post('rollback', { snapshotID }), 503, /no space .*delete/);
    await patient.assertWell();
    paused.resize({ size: '64m' });
    await say(patient.sandbox, 'echo spoilt > file');
    assert.equal((await patient.post('rollback', { snapshotID })).status, 201);
    await patient.assertWell();
    assert.equal((await rest('DELETE', `/templates/${snapshotID}`)).status, 204);
  });
  await t.test('with room it is paused and resumed', async () => {
    assert.equal((await patient.post('pause')).status, 204);
    assert.equal((await patient.connect()).status, 201);
    await patient.assertWell();
  });
  await other.assertWell();
  await patient.end();
  await other.end();
  assert.deepEqual([readdirSync(home.paused), readdirSync(home.snapshots)], [[], []]);
});

test('a VMM that hangs', async (t) => {
  const service = await serviceFor(t);
  const rest = restOf(service);
  const other = await Patient.create(service);
  const hang = ({ id }: Patient): (() => void) => {
    const pid = firstProcessOf(id);
    process.kill(pid, 'SIGSTOP');
    return () => void process.kill(pid, 'SIGCONT');
  };

  await t.test('what captures it is refused in time, and it goes on as before when it wakes', async () => {
    const verbs = ['pause', 'snapshots', 'fork'] as const;
    const patients = await Promise.all(verbs.map(() => Patient.create(service)));
    const wakes = patients.map(hang);
    const begun = Date.now();
    const answers = patients.map((patient, index) => patient.post(verbs[index]!));
    await other.assertWell();
    for (const answer of answers) assertRefused(await answer, 503, /was not captured: .*no answer from the VMM/);
    const tookMs = Date.now() - begun;
    assert.ok(tookMs < NOBODY_WAITS_LONGER_MS, `${tookMs} ms`);
    t.diagnostic(`refused after ${tookMs} ms`);
    for (const wake of wakes) wake();
    for (const patient of patients) {
      await patient.assertWell();
      // All of it: what comes next is as ever.
      assert.equal((await patient.post('pause')).status, 204);
      assert.equal((await patient.connect()).status, 201);
      await patient.assertWell();
      await patient.end();
    }
    assert.equal(await listed(rest, '/snapshots'), 0);
  });
  await t.test('a command in it ends at its limit, and works again when it wakes', async () => {
    const patient = await Patient.create(service);
    const wake = hang(patient);
    await assert.rejects(patient.sandbox.commands.run('echo anybody', { timeoutMs: 2_000, requestTimeoutMs: 4_000 }));
    await other.assertWell();
    wake();
    await patient.assertWell();
    await patient.end();
  });
  await t.test('it can be killed', async () => {
    const patient = await Patient.create(service);
    hang(patient);
    await patient.end();
    assert.deepEqual(processesOf(patient.id), []);
  });
  await other.assertWell();
  await other.end();
});

test('no memory left', async (t) => {
  const template = { memoryMB: 512, overheadMB: 64 };
  const room = 2;
  const budget = String(room * (template.memoryMB + template.overheadMB));
  const service = await serviceFor(t, { COPPICE_POOL: '0', COPPICE_POOL_MOST: '0', COPPICE_MEMORY_MB: budget });
  t.after(() => delete process.env.COPPICE_MEMORY_MB);
  const rest = restOf(service);
  const [patient, other] = [await Patient.create(service), await Patient.create(service)];
  const create = () => rest('POST', '/v2/sandboxes', { templateID: 'base' });
  const full = /no room for a sandbox .*MiB left/;

  const refused = await create();
  assertRefused(refused, 503, full);
  assert.equal((refused.body as { error_code: string }).error_code, 'sandbox_capacity_unavailable');
  const forked = await patient.post('fork', { count: 2 });
  assert.equal(forked.status, 201);
  for (const { error } of forked.body as { error: { code: number; message: string } }[]) {
    assert.equal(error.code, 503);
    assert.match(error.message, full);
  }
  await patient.assertWell();
  assert.equal((await patient.post('pause')).status, 204);
  const taker = await create();
  assert.equal(taker.status, 201, 'a paused one takes no room');
  assertRefused(await patient.connect(), 503, full);
  assert.equal(await patient.state(), 'paused');
  await other.assertWell();
  await Sandbox.kill((taker.body as { sandboxID: string }).sandboxID, service.sdk);
  assert.equal((await patient.connect()).status, 201);
  await patient.assertWell();
  await patient.end();
  await other.end();
});

/** What is done to a file of a checkpoint, and what its owner is told. */
interface Damage {
  readonly name: string;
  readonly file: string;
  readonly damage: (path: string) => void;
  readonly told: RegExp;
}

function flip(at: (size: number) => number): (path: string) => void {
  return (path) => {
    const bytes = readFileSync(path);
    const place = at(bytes.length);
    bytes[place]! ^= 1;
    writeFileSync(path, bytes);
  };
}

function halve(path: string): void {
  truncateSync(path, Math.floor(readFileSync(path).length / 2));
}

/** Where the table of a page file begins. */
const PAGE = 4_096;
const SEEN: readonly Damage[] = [
  {
    name: 'made by another QEMU',
    file: 'manifest.json',
    damage: (path) => {
      const manifest = JSON.parse(readFileSync(path, 'utf8'));
      writeFileSync(path, JSON.stringify({ ...manifest, vmm: { ...manifest.vmm, version: '1.2.3' } }));
    },
    told: /made with QEMU 1\.2\.3, and this host has \d+\.\d+\.\d+: use it where QEMU is 1\.2\.3/,
  },
  { name: 'a manifest that ends early', file: 'manifest.json', damage: halve, told: /manifest\.json is not JSON/ },
  {
    name: 'a manifest that is not there',
    file: 'manifest.json',
    damage: (path) => renameSync(path, `${path}.gone`),
    told: /manifest\.json cannot be read/,
  },
  { name: 'pages that end early', file: 'pages', damage: halve, told: /pages has \d+ bytes instead of \d+/ },
  {
    name: 'pages that are not there',
    file: 'pages',
    damage: (path) => renameSync(path, `${path}.gone`),
    told: /pages is missing/,
  },
  { name: 'another bit in the header of pages', file: 'pages', damage: flip(() => 24), told: /instead of|checksum/ },
  { name: 'another bit in the table of pages', file: 'pages', damage: flip(() => PAGE), told: /another checksum/ },
  {
    name: 'a disk that ends early',
    file: 'overlay.qcow2',
    damage: halve,
    told: /overlay\.qcow2 has \d+ bytes instead/,
  },
  {
    name: 'another bit in the header of the disk',
    file: 'overlay.qcow2',
    damage: flip(() => 31),
    told: /another size/,
  },
  { name: 'devices that end early', file: 'state', damage: halve, told: /state has \d+ bytes instead/ },
  { name: 'devices that are none', file: 'state', damage: flip(() => 0), told: /state has another hash/ },
  {
    name: 'another bit in a page',
    file: 'pages',
    damage: flip((size) => size - PAGE / 2),
    told: /pages has another hash/,
  },
  {
    name: 'another bit in a block of the disk',
    file: 'overlay.qcow2',
    damage: flip((size) => size - 1),
    told: /overlay\.qcow2 has another hash/,
  },
];

test('a checkpoint that is not what it was', async (t) => {
  const service = await serviceFor(t);
  const rest = restOf(service);
  const [patient, other] = [await Patient.create(service), await Patient.create(service)];
  const taken = await patient.post('snapshots');
  const { snapshotID } = taken.body as { readonly snapshotID: string };
  assert.equal((await patient.post('pause')).status, 204);
  const [build] = readdirSync(service.home.snapshots);
  const snapshot = join(service.home.snapshots, build!, 'checkpoint');

  for (const { name, file, damage, told } of SEEN)
    await t.test(`${name}: refused, and paused as before`, async () => {
      const path = join(patient.checkpoint(), file);
      const bytes = readFileSync(path);
      damage(path);
      try {
        assertRefused(await patient.connect(), 500, told);
        assert.equal(await patient.state(), 'paused');
        assert.deepEqual(processesOf(patient.id), []);
      } finally {
        writeFileSync(path, bytes);
      }
    });
  await t.test('put right, it goes on', async () => {
    assert.equal((await patient.connect()).status, 201);
    await patient.assertWell();
  });
  await t.test('of a snapshot: nothing is made of it, and it can be deleted', async () => {
    halve(join(snapshot, 'pages'));
    const refused = await rest('POST', '/v2/sandboxes', { templateID: snapshotID });
    assertRefused(refused, 500, /pages has \d+ bytes instead of/);
    assertRefused(await patient.post('rollback', { snapshotID }), 500, /pages has \d+ bytes instead of/);
    await patient.assertWell();
    assert.equal((await rest('DELETE', `/templates/${snapshotID}`)).status, 204);
  });
  await patient.end();
  await other.assertWell();
  await other.end();
});
