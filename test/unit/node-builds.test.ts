/** Templates that teams build: durable through every death of the node, theirs alone, and gone without a trace. */
import assert from 'node:assert/strict';
import { existsSync, readdirSync } from 'node:fs';
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import type { BuildTicket, BuildView } from '../../src/contract/build-api.ts';
import { type ErrorCode, isCoppiceError } from '../../src/contract/errors.ts';
import { stepError } from '../../src/templates/build-steps.ts';
import { FakeBuilder } from '../helpers/fake-builder.ts';
import { createRequest, type NodeRig, OTHER_TEAM, startNodeRig, TEAM } from '../helpers/node-rig.ts';
import { until } from '../helpers/until.ts';

const REQUEST = JSON.stringify({ fromTemplate: 'base', steps: [{ type: 'RUN', args: ['true'] }] });
const AT_ONCE = Math.max(1, Math.floor(availableParallelism() / 2));

async function rig(t: TestContext) {
  const folder = await mkdtemp(join(tmpdir(), 'coppice-builds-'));
  const [buildsFolder, stepsFolder, uploadsFolder, imagesFolder] = ['builds', 'steps', 'uploads', 'images'].map(
    (name) => join(folder, name),
  ) as [string, string, string, string];
  for (const one of [buildsFolder, stepsFolder, uploadsFolder, imagesFolder]) await mkdir(one);
  const builder = new FakeBuilder();
  const host = await startNodeRig({
    building: { buildsFolder, stepsFolder, uploadsFolder, imagesFolder, insecureRegistries: [], builder },
    pool: { least: 0, most: 2 },
  });
  t.after(async () => {
    await host.end();
    await rm(folder, { recursive: true, force: true });
  });
  return { host, builder, buildsFolder, uploadsFolder };
}

const begin = async (host: NodeRig, name: string, request = REQUEST): Promise<BuildTicket> => {
  const ticket = await host.node.requestBuild({ teamID: TEAM, name, tags: [] });
  await host.node.startBuild({ teamID: TEAM, ...ticket }, request);
  return ticket;
};

const read = (host: NodeRig, { templateID, buildID }: BuildTicket, offset = 0, limit = 100): Promise<BuildView> =>
  host.node.getBuild({ teamID: TEAM, templateID, buildID, offset, limit });

async function ended(host: NodeRig, ticket: BuildTicket): Promise<BuildView> {
  let view = await read(host, ticket);
  await until('the build ends', async () => {
    view = await read(host, ticket);
    return view.status === 'ready' || view.status === 'error';
  });
  return view;
}

const refused = (code: ErrorCode, message?: RegExp) => (error: unknown) =>
  isCoppiceError(error, code) && (message === undefined || message.test(error.message));

const create = (host: NodeRig, template: string, teamID = TEAM) =>
  host.node.createSandbox(createRequest({ template, teamID }));

test('a build waits, is built, and is something that its team makes sandboxes of', async (t) => {
  const { host } = await rig(t);
  const ticket = await host.node.requestBuild({ teamID: TEAM, name: 'Mine:V1', tags: ['other'], cpuCount: 1 });
  assert.deepEqual({ name: ticket.name, tags: ticket.tags }, { name: 'mine', tags: ['v1', 'other'] });
  assert.equal((await read(host, ticket)).status, 'waiting');
  await assert.rejects(create(host, 'mine:v1'), refused('template_not_found'));
  await host.node.startBuild({ teamID: TEAM, ...ticket }, REQUEST);
  await assert.rejects(
    host.node.startBuild({ teamID: TEAM, ...ticket }, REQUEST),
    refused('bad_request', /build is not in waiting state/),
  );
  assert.equal((await ended(host, ticket)).status, 'ready');
  for (const name of ['mine:v1', 'MINE:other', `${ticket.templateID}:v1`, `mine:${ticket.buildID}`]) {
    const { sandbox } = await create(host, name);
    assert.equal(sandbox.templateID, ticket.templateID, name);
    assert.equal(sandbox.alias, 'mine');
  }
  await assert.rejects(create(host, 'mine'), refused('template_not_found'), 'it has no tag default');
  const listed = (await host.node.listTemplates()).find(({ templateID }) => templateID === ticket.templateID)!;
  assert.equal(listed.teamID, TEAM);
  assert.equal(listed.spawnCount, 4);
});

test('logs are told once, in order, and end', async (t) => {
  const { host, builder } = await rig(t);
  builder.act = async (_job, log) => {
    const output = log.output('1');
    output.write(Buffer.from('one\ntw'));
    output.write(Buffer.from('o\r\nhalf'));
    output.write(Buffer.from('é').subarray(0, 1));
    output.write(Buffer.from('é').subarray(1));
    output.end();
    log.say('debug', 'x'.repeat(9_000), '1');
  };
  const ticket = await begin(host, 'mine');
  await ended(host, ticket);
  const all = (await read(host, ticket)).logs;
  const said = all.map(({ message }) => message);
  assert.deepEqual(said.slice(0, 4), ['building mine', 'one', 'two', 'halfé']);
  assert.deepEqual(
    said.slice(4, 7).map(({ length }) => length),
    [4_000, 4_000, 1_000],
  );
  assert.equal(all[1]?.step, '1');
  const paged: string[] = [];
  for (;;) {
    const { logs } = await read(host, ticket, paged.length, 3);
    if (logs.length === 0) break;
    paged.push(...logs.map(({ message }) => message));
  }
  assert.deepEqual(paged, said);
  const { templateID, buildID } = ticket;
  const query = { teamID: TEAM, templateID, buildID, offset: 0, limit: 100 };
  assert.equal((await host.node.getBuild({ ...query, level: 'info' })).logs.length, said.length - 3);
  const backward = (await host.node.getBuild({ ...query, direction: 'backward' })).logs.map(({ message }) => message);
  assert.deepEqual(backward, said.toReversed());
  assert.deepEqual((await host.node.getBuild({ ...query, cursorMs: Date.now() + 60_000 })).logs, []);
});

test('builds of a team are cancelled: those that wait for their files and those under way, and nobody else’s', async (t) => {
  const { host, builder } = await rig(t);
  const { reached } = builder.hold();
  const running = await begin(host, 'mine');
  await reached;
  const waiting = await host.node.requestBuild({ teamID: TEAM, name: 'later', tags: [] });
  assert.equal(await host.node.cancelBuilds('another'), 0);
  assert.equal(await host.node.cancelBuilds(TEAM), 2);
  for (const ticket of [running, waiting]) {
    const { status, reason } = await ended(host, ticket);
    assert.deepEqual(
      { status, reason },
      { status: 'error', reason: { message: 'the build was cancelled by the operator' } },
    );
  }
  await assert.rejects(host.node.startBuild({ teamID: TEAM, ...waiting }, '{"fromTemplate":"base"}'), /waiting state/);
  assert.equal(await host.node.cancelBuilds(TEAM), 0);
  assert.deepEqual((await host.node.leaks()).details, []);
});

test('what a build says is bounded, but not why it failed', async (t) => {
  const { host, builder } = await rig(t);
  builder.act = async (_job, log) => {
    const output = log.output('1');
    for (let count = 0; count < 30; count++) output.write(Buffer.from('line\n'.repeat(1_000)));
    throw stepError('1', 'it failed');
  };
  const ticket = await begin(host, 'mine');
  const { status, reason } = await ended(host, ticket);
  assert.deepEqual({ status, reason }, { status: 'error', reason: { message: 'it failed', step: '1' } });
  assert.deepEqual((await host.node.leaks()).details, []);
  const last = (await read(host, ticket, 20_000)).logs.map(({ message }) => message);
  assert.deepEqual(last, ['more than 20000 lines: what follows is left out', 'Build failed: it failed']);
});

test('a step that cannot be fails its build; a base that cannot be is refused', async (t) => {
  const { host, builder } = await rig(t);
  const bad = JSON.stringify({ fromTemplate: 'base', steps: [{ type: 'RUN', args: ['a'] }, { type: 'JUMP' }] });
  const ticket = await begin(host, 'mine', bad);
  const { status, reason } = await ended(host, ticket);
  assert.equal(status, 'error');
  assert.equal(reason?.step, '2');
  assert.deepEqual(builder.jobs, []);
  const other = await host.node.requestBuild({ teamID: TEAM, name: 'mine', tags: [] });
  assert.equal(other.templateID, ticket.templateID, 'a further build of the same template');
  for (const request of ['{}', '[', JSON.stringify({ fromImage: 'a', fromTemplate: 'b' })])
    await assert.rejects(host.node.startBuild({ teamID: TEAM, ...other }, request), refused('bad_request'));
  assert.equal((await read(host, other)).status, 'waiting');
});

test("names, tags and sizes that cannot be, in E2B's words", async (t) => {
  const { host } = await rig(t);
  const ask = (wish: object) => host.node.requestBuild({ teamID: TEAM, name: 'mine', tags: [], ...wish });
  for (const [wish, code, message] of [
    [{ name: 'base' }, 'conflict', /belongs to a built-in template/],
    [{ name: 'team/mine' }, 'bad_request', /invalid template name/],
    [{ name: '' }, 'bad_request', /invalid template name/],
    [{ name: 'mine:' }, 'bad_request', /invalid template name/],
    [{ tags: ['ok', 'not ok'] }, 'bad_request', /invalid tag 'not ok'/],
    [{ tags: [crypto.randomUUID()] }, 'bad_request', /a tag cannot be a UUID/],
    [{ cpuCount: 0 }, 'bad_request', /^CPU count must be at least 1$/],
    [{ cpuCount: 34 }, 'bad_request', /^CPU count must be at most 32$/],
    [{ cpuCount: 3 }, 'bad_request', /^CPU count must be 1 or an even number$/],
    [{ memoryMB: 127 }, 'bad_request', /^Memory must be at least 128 MiB$/],
    [{ memoryMB: 513 }, 'bad_request', /^Memory must be divisible by 2$/],
    [{ memoryMB: 2 ** 30 }, 'bad_request', /^Memory can't be higher than/],
  ] as const)
    await assert.rejects(ask(wish), refused(code, message), JSON.stringify(wish));
  assert.equal((await host.node.listTemplates()).length, 2, 'none was made');
});

test("templates are their team's alone until they are public", async (t) => {
  const { host } = await rig(t);
  const ticket = await begin(host, 'mine');
  await ended(host, ticket);
  const { templateID, buildID } = ticket;
  await assert.rejects(
    create(host, 'mine', OTHER_TEAM),
    refused('forbidden', /you don't have access to template 'mine'/),
  );
  await assert.rejects(
    host.node.getBuild({ teamID: OTHER_TEAM, templateID, buildID, offset: 0, limit: 1 }),
    refused('forbidden'),
  );
  await assert.rejects(host.node.buildFile(OTHER_TEAM, templateID, 'a'.repeat(64)), refused('forbidden'));
  await assert.rejects(host.node.publishTemplate(OTHER_TEAM, 'mine', true), refused('forbidden'));
  await assert.rejects(host.node.deleteSnapshot(OTHER_TEAM, 'mine'), refused('forbidden'));
  assert.deepEqual(await host.node.publishTemplate(TEAM, 'mine', true), ['mine']);
  assert.equal((await create(host, 'mine', OTHER_TEAM)).sandbox.templateID, templateID);
  await assert.rejects(host.node.tagTemplate(OTHER_TEAM, 'mine', ['theirs']), refused('forbidden'));
  const theirs = await host.node.requestBuild({ teamID: OTHER_TEAM, name: 'mine', tags: [] });
  assert.notEqual(theirs.templateID, templateID, 'each team has its own names');
  await host.node.startBuild({ teamID: OTHER_TEAM, ...theirs }, REQUEST);
  await until('it is ready', async () =>
    create(host, 'mine', OTHER_TEAM).then(
      ({ sandbox }) => sandbox.templateID === theirs.templateID,
      () => false,
    ),
  );
  await host.node.publishTemplate(TEAM, 'mine', false);
  assert.equal((await create(host, 'mine')).sandbox.templateID, templateID);
});

test('a node that dies in any state of a build goes on with it', async (t) => {
  const { host, builder } = await rig(t);
  const waiting = await host.node.requestBuild({ teamID: TEAM, name: 'waiting', tags: [] });
  await host.crash();
  assert.equal((await read(host, waiting)).status, 'waiting');
  await host.node.startBuild({ teamID: TEAM, ...waiting }, REQUEST);
  assert.equal((await ended(host, waiting)).status, 'ready');

  const { reached } = builder.hold();
  const building = await begin(host, 'building');
  await reached;
  builder.free();
  await host.crash();
  const view = await ended(host, building);
  assert.equal(view.status, 'ready');
  assert.ok(view.logs.some(({ message }) => /begins again/.test(message)));
  assert.equal(builder.jobs.filter(({ name }) => name === 'building').length, 2);

  const published = Promise.withResolvers<void>();
  builder.afterwards = () => {
    published.resolve();
    return new Promise(() => {});
  };
  const captured = await begin(host, 'captured');
  await published.promise;
  builder.free();
  await host.crash();
  assert.equal((await ended(host, captured)).status, 'ready');
  for (const name of ['waiting', 'building', 'captured']) await create(host, name);
  await host.crash();
  for (const name of ['waiting', 'building', 'captured']) await create(host, name);
  assert.deepEqual((await host.node.leaks()).details, []);
});

test('a build that takes the node down each time is given up, and an end in good order does not count as failing', async (t) => {
  const { host, builder } = await rig(t);
  const deadly = builder.hold();
  const ticket = await begin(host, 'deadly');
  await deadly.reached;
  for (const end of [host.restart, host.crash, host.restart, host.restart, host.crash]) {
    const { reached } = builder.hold();
    await end();
    await reached;
  }
  builder.free();
  await host.crash();
  const { status, reason } = await ended(host, ticket);
  assert.equal(status, 'error');
  assert.match(reason!.message, /cut off 3 times/);
});

test('a deletion ends what is being built, and nothing of it is left', async (t) => {
  const { host, builder, buildsFolder, uploadsFolder } = await rig(t);
  const first = await begin(host, 'mine');
  await ended(host, first);
  await mkdir(join(uploadsFolder, first.templateID));
  const { reached } = builder.hold();
  const second = await begin(host, 'mine');
  await reached;
  assert.equal(second.templateID, first.templateID);
  await host.node.deleteSnapshot(TEAM, 'mine');
  assert.equal(builder.signals.at(-1)!.aborted, true);
  await assert.rejects(read(host, second), refused('template_not_found'));
  await assert.rejects(create(host, 'mine'), refused('template_not_found'));
  await until('its files are gone', () => readdirSync(buildsFolder).length + readdirSync(uploadsFolder).length === 0);
  await assert.rejects(host.node.deleteSnapshot(TEAM, 'mine'), refused('template_not_found'));
  await assert.rejects(host.node.deleteSnapshot(TEAM, 'base'), refused('forbidden'));
});

test('sandboxes of an older build go on, paused ones too, and its files go with the last of them', async (t) => {
  const { host, buildsFolder } = await rig(t);
  const old = await begin(host, 'mine');
  await ended(host, old);
  const { sandbox } = await create(host, 'mine');
  const newer = await begin(host, 'mine');
  await ended(host, newer);
  assert.equal(existsSync(join(buildsFolder, old.buildID)), true);
  await host.node.pauseSandbox(TEAM, sandbox.sandboxID, { memory: true });
  await host.crash();
  assert.equal(existsSync(join(buildsFolder, old.buildID)), true);
  const resumed = await host.node.connectSandbox(TEAM, sandbox.sandboxID, { timeoutSeconds: 60 });
  assert.equal(resumed.resumed, true);
  assert.equal(resumed.sandbox.templateID, old.templateID);
  await host.node.deleteSnapshot(TEAM, 'mine');
  assert.equal(existsSync(join(buildsFolder, newer.buildID)), false);
  assert.equal(existsSync(join(buildsFolder, old.buildID)), true);
  await host.crash();
  assert.equal((await host.node.getSandbox(TEAM, sandbox.sandboxID)).state, 'running');
  await host.node.killSandbox(TEAM, sandbox.sandboxID);
  await host.restart();
  assert.deepEqual(readdirSync(buildsFolder), []);
});

test('tags mean builds, and the last tag of a build was its hold on the disk', async (t) => {
  const { host, buildsFolder } = await rig(t);
  const one = await begin(host, 'mine:one');
  await ended(host, one);
  const two = await begin(host, 'mine:two');
  await ended(host, two);
  assert.deepEqual(await host.node.tagTemplate(TEAM, 'mine:one', ['default', 'Stable']), {
    buildID: one.buildID,
    tags: ['default', 'stable'],
  });
  const meant = async (): Promise<Record<string, string>> =>
    Object.fromEntries((await host.node.listTags(TEAM, 'mine')).map(({ tag, buildID }) => [tag, buildID]));
  assert.deepEqual(await meant(), { one: one.buildID, two: two.buildID, default: one.buildID, stable: one.buildID });
  await host.node.tagTemplate(TEAM, 'mine:two', ['default']);
  await assert.rejects(host.node.untagTemplate(TEAM, 'mine', ['default']), refused('bad_request', /'default'/));
  await assert.rejects(host.node.tagTemplate(TEAM, 'mine:three', ['x']), refused('template_not_found'));
  await assert.rejects(host.node.tagTemplate(TEAM, 'nobody', ['x']), refused('template_not_found'));
  await assert.rejects(host.node.tagTemplate(TEAM, 'base', ['x']), refused('forbidden'));
  await host.node.untagTemplate(TEAM, 'mine', ['one', 'stable', 'never']);
  assert.deepEqual(await meant(), { two: two.buildID, default: two.buildID });
  assert.equal(existsSync(join(buildsFolder, one.buildID)), false);
  assert.equal(existsSync(join(buildsFolder, two.buildID)), true);
});

test('so many at once, the rest in turn; and so many of one team', async (t) => {
  const { host, builder } = await rig(t);
  const held: BuildTicket[] = [];
  const { release } = builder.hold();
  for (let count = 0; count < 20; count++) held.push(await begin(host, `held-${count}`));
  await until('as many as may are at work', () => builder.jobs.length === AT_ONCE);
  assert.equal((await read(host, held.at(-1)!)).status, 'building');
  await assert.rejects(begin(host, 'beyond'), refused('too_many_builds', /maximum number of concurrent/));
  assert.equal(builder.jobs.length, AT_ONCE);
  builder.free();
  release();
  for (const ticket of held) assert.equal((await ended(host, ticket)).status, 'ready');
  assert.equal((await ended(host, await begin(host, 'beyond'))).status, 'ready');
});

test('the name of a snapshot is none for a template, nor the other way round', async (t) => {
  const { host } = await rig(t);
  const ticket = await begin(host, 'mine');
  await ended(host, ticket);
  const { sandbox } = await create(host, 'mine');
  await assert.rejects(host.node.createSnapshot(TEAM, sandbox.sandboxID, { name: 'mine' }), refused('conflict'));
  await host.node.createSnapshot(TEAM, sandbox.sandboxID, { name: 'taken' });
  await assert.rejects(host.node.requestBuild({ teamID: TEAM, name: 'taken', tags: [] }), refused('conflict'));
  const { sandbox: again } = await create(host, 'taken');
  assert.ok(again.sandboxID);
  await host.node.deleteSnapshot(TEAM, 'mine');
  assert.ok((await create(host, 'taken')).sandbox, 'a snapshot outlives the template that it lies on');
});
