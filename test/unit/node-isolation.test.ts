import assert from 'node:assert/strict';
import test from 'node:test';
import { isCoppiceError } from '../../src/contract/errors.ts';
import { BOTH_KINDS, createRequest, startNodeRig, TEAM } from '../helpers/node-rig.ts';

const quiet = { templates: BOTH_KINDS, pool: { least: 0, most: 0 } } as const;

test('a template is asked for by its alias, or by the name of its family and a wish for isolation', async (t) => {
  const rig = await startNodeRig(quiet);
  t.after(() => rig.end());
  const wishes = [
    [{ template: 'base' }, 'microvm', 'fake'],
    [{ template: 'base-jail' }, 'jail', 'fake-jail'],
    [{ template: 'base', isolation: 'jail' }, 'jail', 'fake-jail'],
    [{ template: 'base-jail', isolation: 'microvm' }, 'microvm', 'fake'],
  ] as const;
  for (const [wish, isolation, backend] of wishes) {
    const { sandbox } = await rig.node.createSandbox(createRequest(wish));
    assert.equal(sandbox.isolation, isolation);
    const { record, spec } = rig.host.machines.get(sandbox.sandboxID)!;
    assert.equal(record.backend, backend);
    assert.equal(spec.names.hostname, sandbox.sandboxID);
    assert.equal(spec.network?.kind, isolation === 'jail' ? 'namespace' : 'tap');
    await rig.node.killSandbox(TEAM, sandbox.sandboxID);
  }
});

test('an isolation that the template cannot have here is refused by name', async (t) => {
  const rig = await startNodeRig({ pool: { least: 0, most: 0 } });
  t.after(() => rig.end());
  await assert.rejects(
    rig.node.createSandbox(createRequest({ template: 'other', isolation: 'jail' })),
    (error) => isCoppiceError(error, 'bad_request') && /'other' cannot run as a jail/.test(error.message),
  );
});

test('an agent on demand is not spoken to by a create, and learns whose it is when it is', async (t) => {
  const rig = await startNodeRig(quiet);
  t.after(() => rig.end());
  const { sandbox, receipt } = await rig.node.createSandbox(
    createRequest({ template: 'base-jail', envVars: { MINE: 'yes' } }),
  );
  const machine = rig.host.machines.get(sandbox.sandboxID)!;
  assert.equal(receipt.path, 'cold');
  assert.equal(machine.identities.length, 0);
  await rig.node.member(sandbox.sandboxID)!.agent();
  assert.equal(machine.identities.length, 1);
  assert.equal(machine.identities[0]!.env!.MINE, 'yes');
  assert.equal(machine.identities[0]!.sandboxID, sandbox.sandboxID);
  assert.equal(machine.identities[0]!.entropy, undefined, "the kernel is the host's");
});

test('a hot entry has its agent, and the claim gives it the environment of its owner', async (t) => {
  const rig = await startNodeRig({ ...quiet, pool: { least: 1, most: 1 } });
  t.after(() => rig.end());
  await rig.node.warm(1);
  const { sandbox, receipt } = await rig.node.createSandbox(
    createRequest({ template: 'base-jail', envVars: { MINE: 'yes' } }),
  );
  assert.equal(receipt.path, 'hot');
  const { identities } = rig.host.machines.get(sandbox.sandboxID)!;
  assert.equal(identities.at(-1)!.env!.MINE, 'yes');
});

test('jails of a crashed node are adopted without waking their agents', async (t) => {
  const rig = await startNodeRig(quiet);
  t.after(() => rig.end());
  const { sandbox } = await rig.node.createSandbox(createRequest({ template: 'base-jail' }));
  await rig.crash();
  assert.deepEqual(await rig.node.getSandbox(TEAM, sandbox.sandboxID), sandbox);
  assert.deepEqual(rig.host.machines.get(sandbox.sandboxID)!.identities, []);
});

test('a jail counts for a part of its memory: more of them fit than would as microVMs', async (t) => {
  const rig = await startNodeRig({ ...quiet, memoryBudgetMB: 600 });
  t.after(() => rig.end());
  await rig.node.createSandbox(createRequest({ template: 'base' }));
  await assert.rejects(rig.node.createSandbox(createRequest({ template: 'base' })), (error) =>
    isCoppiceError(error, 'capacity'),
  );
  for (const { id } of rig.rows.all()) await rig.node.killSandbox(TEAM, id);
  for (let count = 0; count < 17; count++) await rig.node.createSandbox(createRequest({ template: 'base-jail' }));
  await assert.rejects(rig.node.createSandbox(createRequest({ template: 'base-jail' })), (error) =>
    isCoppiceError(error, 'capacity'),
  );
});

test('a session that nobody uses is let go of, and begun again when somebody does', async (t) => {
  const rig = await startNodeRig(quiet);
  t.after(() => rig.end());
  const { sandbox } = await rig.node.createSandbox(createRequest({ template: 'base-jail' }));
  const member = rig.node.member(sandbox.sandboxID)!;
  const first = await member.agent();
  member.rest();
  assert.equal(await member.agent(), first, 'it was used just now');
  member.rest(0);
  await first.closed;
  const second = await member.agent();
  assert.notEqual(second, first);
  assert.equal(rig.host.machines.get(sandbox.sandboxID)!.identities.length, 2, 'each agent learns whose it is');
});

test('the session of a machine whose agent always runs is kept', async (t) => {
  const rig = await startNodeRig(quiet);
  t.after(() => rig.end());
  const { sandbox } = await rig.node.createSandbox(createRequest({ template: 'base' }));
  const member = rig.node.member(sandbox.sandboxID)!;
  const first = await member.agent();
  member.rest(0);
  assert.equal(await member.agent(), first);
});
