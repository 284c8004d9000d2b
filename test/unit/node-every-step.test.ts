/**
 * Crash-only, step by step. Each verb is run once to see what it does to what outlives the node, then again and again, with
 * the node killed before and after each of those acts, and again with the machines killed there. Whatever is cut, the next
 * node finds sandboxes, snapshots and volumes as they were before the verb or as they are after it, whole, and nothing else.
 */
import assert from 'node:assert/strict';
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import type { NodeOptions } from '../../src/node/node.ts';
import type { MachineRow } from '../../src/node/rows.ts';
import { type Life, MortalRig, type Point } from '../helpers/crash-points.ts';
import { fakeTemplate } from '../helpers/fake-backend.ts';
import { BOTH_KINDS, createRequest, type NodeRig, TEAM } from '../helpers/node-rig.ts';
import { until } from '../helpers/until.ts';

/** Room for this many microVMs, in memory and in users: what is not given back is missed. */
const ROOM = 3;
/** Takes all of the memory. */
const WHOLE = fakeTemplate('whole', { memoryMB: ROOM * (512 + 64) - 64 });
/** Nothing is made ahead. */
const QUIET = { templates: [...BOTH_KINDS, WHOLE], pool: { least: 0, most: 0 }, ahead: false } as const;
const soon = { timeoutSeconds: 60 } as const;
type Wish = Parameters<typeof createRequest>[0];
/** Of a pause. */
const memory: { readonly memory: boolean } = { memory: true };

class Stage {
  readonly #mortal: MortalRig;
  readonly #options: Partial<NodeOptions>;
  /** What a test calls its sandboxes, by id. Others are new. */
  readonly #names = new Map<string, string>();

  private constructor(mortal: MortalRig, options: Partial<NodeOptions>) {
    this.#mortal = mortal;
    this.#options = options;
  }

  static async open(): Promise<Stage> {
    const options: Partial<NodeOptions> = {
      ...QUIET,
      uids: { microvm: { first: 60_200, slots: ROOM }, jail: { first: 1_000_000, slots: ROOM } },
      memoryBudgetMB: ROOM * (512 + 64),
    };
    return new Stage(await MortalRig.open(options), options);
  }

  get rig(): NodeRig {
    return this.#mortal.rig;
  }

  get life(): Life {
    return this.#mortal.life;
  }

  get node(): NodeRig['node'] {
    return this.rig.node;
  }

  /** Of a sandbox that a test has named. */
  id(name: string): string {
    return [...this.#names].find(([, one]) => one === name)![0];
  }

  /** One that has its name on its disk and in its memory. */
  async create(name: string, wish: Wish = {}): Promise<void> {
    const { sandbox } = await this.life.run(() => this.node.createSandbox(createRequest(wish)));
    this.#names.set(sandbox.sandboxID, name);
    this.write(name, name);
  }

  write(name: string, word: string): void {
    const { disk, memory } = this.rig.host.machines.get(this.id(name))!;
    disk.push(word);
    memory.push(word);
  }

  pause(name: string, wish = memory): Promise<unknown> {
    return this.life.run(() => this.node.pauseSandbox(TEAM, this.id(name), wish));
  }

  snapshot(name: string, as: string): Promise<unknown> {
    return this.life.run(() => this.node.createSnapshot(TEAM, this.id(name), { name: as }));
  }

  /** The node is killed, if it is not dead yet, and another starts, which `plan` may end on its way. */
  async next(plan?: (life: Life) => void, wish: Partial<NodeOptions> = QUIET): Promise<void> {
    Object.assign(this.#options, wish);
    await this.#mortal.next(plan);
  }

  /** Resolves when nothing is under way, and nothing is due. */
  async quiet(): Promise<void> {
    await until('nothing is under way', () =>
      this.rig.rows.all().every(({ state, owner, kept, uid, record }) => {
        if (state === 'running') return owner!.endAtMs > Date.now();
        if (state === 'paused') return !kept || (uid === undefined && record === undefined);
        return state === 'hot' || state === 'preparing';
      }),
    );
  }

  /** What an owner would find, a line each: every sandbox, snapshot and volume. Nothing else is there. */
  async found(): Promise<string[]> {
    await this.quiet();
    const { rig } = this;
    const rows = rig.rows.all().filter(({ state }) => state !== 'hot' && state !== 'preparing');
    const snapshots = rig.rows.snapshots.all().filter(({ state }) => state !== 'deleted');
    const lines = await Promise.all([
      ...rows.map(async (row) => `${this.#names.get(row.id) ?? 'new'}: ${row.state} ${await this.#contentOf(row)}`),
      ...snapshots.map(async ({ buildID, alias, state }) => {
        const content = await contentAt(join(rig.snapshotsFolder, buildID, 'checkpoint'));
        return `snapshot ${alias}: ${state} ${content}`;
      }),
    ]);
    const volumes = rig.rows.volumes.all();
    lines.push(...volumes.map(({ name, state }) => `volume ${name}: ${state} `));
    assert.deepEqual((await this.node.leaks()).details, []);
    const known = new Set(rig.rows.all().map(({ id }) => id));
    for (const id of [...rig.host.machines.keys(), ...rig.host.attachments.keys()]) assert.ok(known.has(id), id);
    for (const id of await readdir(rig.machinesFolder)) assert.ok(known.has(id), `folder of machine ${id}`);
    assert.deepEqual(
      (await readdir(rig.snapshotsFolder)).toSorted(),
      snapshots.map(({ buildID }) => buildID).toSorted(),
    );
    assert.deepEqual(
      (await readdir(rig.volumesFolder)).toSorted(),
      volumes.map(({ volumeID }) => `${volumeID}.ext4`).toSorted(),
    );
    const kept = rows.flatMap((row) => (row.kept ? [join(row.id, row.kept.name)] : []));
    assert.deepEqual(await leavesOf(rig.pausedFolder), kept.toSorted());
    return lines.toSorted();
  }

  async #contentOf(row: MachineRow): Promise<string> {
    const machine = this.rig.host.machines.get(row.id);
    const internet = this.rig.host.attachments.get(row.id)?.policy.allowInternet;
    if (row.kept) {
      assert.equal(row.state, 'paused', 'nothing else is kept on disk');
      assert.ok(!machine && internet === undefined && !row.uid && !row.record, 'nothing of it is on the host');
      return `on disk ${await contentAt(join(this.rig.pausedFolder, row.id, row.kept.name))}`;
    }
    assert.ok(machine, `${row.state} without a machine`);
    assert.equal(machine.parked, row.state === 'paused');
    assert.equal(internet, row.owner?.allowInternet !== false);
    assert.equal(this.node.member(row.id) !== undefined, row.state === 'running');
    return textOf(machine);
  }

  /** Everything that is there can be used and ended. */
  async clear(): Promise<void> {
    const { rig, life } = this;
    await life.run(async () => {
      const kill = (id: string): Promise<void> => this.node.killSandbox(TEAM, id);
      const owned = rig.rows.all().filter(({ owner }) => owner);
      for (const { id, state } of owned) if (state !== 'paused') await kill(id);
      for (const { id, state, kept } of owned) {
        if (state !== 'paused') continue;
        const content = kept && (await contentAt(join(rig.pausedFolder, id, kept.name)));
        await this.node.connectSandbox(TEAM, id, soon);
        if (content) assert.equal(textOf(rig.host.machines.get(id)!), content);
        await kill(id);
      }
      for (const { alias } of rig.rows.snapshots.all()) if (alias) await this.node.deleteSnapshot(TEAM, alias);
      for (const { volumeID } of rig.rows.volumes.all()) await this.node.deleteVolume(TEAM, volumeID);
      assert.deepEqual(await this.found(), []);
      assert.deepEqual(rig.rows.snapshots.all(), []);
    });
    this.#names.clear();
    rig.host.lost.clear();
  }

  /** Nothing is taken that is not given back. */
  async fill(): Promise<void> {
    await this.life.run(async () => {
      const { sandbox } = await this.node.createSandbox(createRequest({ template: 'whole' }));
      await this.node.killSandbox(TEAM, sandbox.sandboxID);
    });
  }

  async end(): Promise<void> {
    await this.#mortal.end();
    const { machines, attachments } = this.rig.host;
    assert.deepEqual([machines.size, attachments.size], [0, 0]);
  }
}

async function contentAt(folder: string): Promise<string> {
  return textOf(JSON.parse(await readFile(join(folder, 'content.json'), 'utf8')));
}

function textOf({ disk, memory }: { readonly disk: readonly string[]; readonly memory: readonly string[] }): string {
  return `disk ${disk.join('+')} memory ${memory.join('+')}`;
}

/** Folders of two levels, the second's paths. */
async function leavesOf(folder: string): Promise<string[]> {
  const leaves = (await readdir(folder)).map(async (name) => {
    const inner = await readdir(join(folder, name));
    // An empty one is a leaf too: nothing needs it.
    return inner.length === 0 ? [name] : inner.map((leaf) => join(name, leaf));
  });
  return (await Promise.all(leaves)).flat().toSorted();
}

interface Scene {
  readonly verb: string;
  readonly options?: Partial<NodeOptions>;
  readonly set: (stage: Stage) => Promise<unknown>;
  /** Or `starts`. */
  readonly act?: (stage: Stage) => Promise<unknown>;
  /** The verb is the start of a node with these options. */
  readonly starts?: Partial<NodeOptions>;
  /** The verb throws. */
  readonly fails?: boolean;
  /** The verb ends the node. */
  readonly ends?: boolean;
  /** What is to be on disk afterwards is in a machine alone, and gone if that dies. */
  readonly mortal?: boolean;
  /** What may be found besides what was there before and what is there after. */
  readonly also?: readonly string[];
}

interface Outcomes {
  readonly before: readonly string[];
  readonly after: readonly string[];
  readonly steps: readonly string[];
  readonly points: Life['passed'];
}

async function set(scene: Scene, stage: Stage): Promise<void> {
  if (scene.options) await stage.next(undefined, scene.options);
  await scene.set(stage);
}

/** Plays the verb of a scene that is set, watched as `watch` says, until it or its life is over. What it throws is returned. */
async function play(scene: Scene, stage: Stage, watch: (life: Life) => void): Promise<unknown> {
  if (scene.starts) await stage.next(watch, scene.starts);
  else watch(stage.life);
  const { life } = stage;
  if (life.over || !scene.act) return undefined;
  const played = life
    .run(async () => scene.act!(stage))
    .then(
      () => undefined,
      (error: unknown) => error,
    );
  return Promise.race([played, life.ended]);
}

async function record(scene: Scene): Promise<Outcomes> {
  const stage = spare.pop() ?? (await Stage.open());
  await set(scene, stage);
  const before = scene.starts ? undefined : await stage.found();
  const error = await play(scene, stage, (life) => life.watch());
  if (!scene.fails) assert.ifError(error);
  const { steps } = stage.life;
  // Between an act that is done and the next that begins nothing changes outside: one of the two is enough.
  const points = stage.life.passed.filter(
    ({ moment }, index, all) => moment === 'before' || all[index + 1]?.moment !== 'before',
  );
  await stage.next();
  const after = await stage.found();
  await stage.clear();
  spare.push(stage);
  return { before: before ?? after, after, steps, points };
}

/** Names of what is found. */
const nameOf = (line: string): string => line.slice(0, line.indexOf(': '));

/** Each is as it was, as it is to be, or as the scene allows besides; there unless one of the two lacks it. */
function assertOneOf({ before, after }: Outcomes, also: readonly string[], found: readonly string[]): void {
  const allowed = new Set([...before, ...after, ...also]);
  for (const line of found) assert.ok(allowed.has(line), `found ${line}; allowed ${[...allowed].join(', ')}`);
  const counted = (lines: readonly string[], name: string) => lines.filter((line) => nameOf(line) === name).length;
  for (const name of new Set([...allowed].map(nameOf))) {
    const [least, most] = [counted(before, name), counted(after, name)].toSorted() as [number, number];
    const count = counted(found, name);
    assert.ok(least <= count && count <= most, `${count} of ${name}`);
  }
}

/** So many at once: what waits for a timer or the disk waits together. */
const STAGES = 8;
/** Those that are not in use, with nothing on them: what one verb did not give back would be missed by the next. */
const spare: Stage[] = [];
test.after(() => Promise.all(spare.map((stage) => stage.end())));

/** What the same node has come to, unhindered; the next, if it has ended. */
async function foundLater(stage: Stage, { options, starts, ends }: Scene): Promise<string[]> {
  stage.life.unwatch();
  stage.rig.host.failNext.clear();
  if (ends) await stage.next();
  const found = await stage.life.run(() => stage.found());
  if (options || starts) await stage.next();
  return found;
}

interface Trial {
  readonly scene: Scene;
  readonly stage: Stage;
  readonly outcomes: Outcomes;
  readonly at: Life['passed'][number];
  /** Different for each point of one verb. */
  readonly number: number;
}

/** The node is killed there, and the one after it at some point of its start as well. */
async function killNode({ scene, stage, outcomes, at, number }: Trial): Promise<void> {
  await set(scene, stage);
  await play(scene, stage, (life) => life.watch(at));
  await stage.next((life) => life.watch({ step: number % 9, moment: 'before' }));
  stage.life.unwatch();
  if (stage.life.over) await stage.next();
  assertOneOf(outcomes, scene.also ?? [], await stage.found());
  await stage.clear();
  await stage.fill();
}

const ON_DISK = /: (paused on disk|ready) /;

/** Every machine dies there: what its sandbox was is gone with it, what is on disk is not. */
async function killMachines({ scene, stage, outcomes, at }: Trial): Promise<void> {
  const { machines } = stage.rig.host;
  await set(scene, stage);
  const error = await play(scene, stage, (life) =>
    life.watch(at, () => {
      for (const { die } of [...machines.values()]) die('SIGKILL');
    }),
  );
  const { before, after, steps } = outcomes;
  // A verb that failed before its sandbox ran again has changed nothing.
  const ran = steps.slice(0, at.step + 1).includes('rows.settleResume');
  const found = await foundLater(stage, scene);
  const lasting = (error === undefined || ran ? after : before).filter((line) => ON_DISK.test(line)).map(nameOf);
  const sure = before.filter((line) => !scene.mortal && ON_DISK.test(line) && lasting.includes(nameOf(line)));
  assertOneOf({ ...outcomes, before: sure }, [...(scene.also ?? []), ...before], found);
  await stage.clear();
}

/** The owner of the one sandbox kills it there: whatever the verb was at, nothing of that sandbox is left. */
async function killSandbox({ scene, stage, outcomes, at }: Trial): Promise<void> {
  const kills: Promise<unknown>[] = [];
  await set(scene, stage);
  await play(scene, stage, (life) =>
    life.watch(at, () => kills.push(stage.node.killSandbox(TEAM, stage.id('one')).catch(() => {}))),
  );
  await Promise.all(kills);
  const found = await foundLater(stage, scene);
  if (kills.length > 0) assert.ok(!found.some((line) => nameOf(line) === 'one'), found.join(', '));
  const allowed = new Set([...outcomes.before, ...outcomes.after]);
  for (const line of found) assert.ok(nameOf(line) === 'one' || allowed.has(line), `found ${line}`);
  await stage.clear();
}

/** The trial at every point of the scene's verb. */
async function everywhere(
  t: TestContext,
  scene: Scene,
  trial: (trial: Trial) => Promise<void>,
  moments: readonly Point['moment'][],
): Promise<void> {
  const outcomes = await record(scene);
  const { steps } = outcomes;
  t.diagnostic(`${steps.length} steps`);
  const left = outcomes.points.filter(({ moment }) => moments.includes(moment)).entries();
  const onOneStage = async (): Promise<void> => {
    const stage = spare.pop() ?? (await Stage.open());
    for (const [number, at] of left) {
      try {
        await trial({ scene, stage, outcomes, at, number });
      } catch (error) {
        const where = `${scene.verb}, ${at.moment} step ${at.step} (${steps[at.step]})`;
        throw new Error(`${where}: ${(error as Error).message}`, { cause: error });
      }
    }
    await stage.fill();
    spare.push(stage);
  };
  await Promise.all(Array.from({ length: STAGES }, onOneStage));
}

const FROZEN = { template: 'base-jail' } as const;

/** The steps, one after the other. */
const all =
  (...steps: readonly ((stage: Stage) => Promise<unknown>)[]) =>
  async (stage: Stage): Promise<void> => {
    for (const step of steps) await step(stage);
  };
const one =
  (wish: Wish = {}) =>
  (stage: Stage) =>
    stage.create('one', wish);
const pause =
  (wish = memory) =>
  (stage: Stage) =>
    stage.pause('one', wish);
const snapshot = (stage: Stage) => stage.snapshot('one', 'good');
const write = (word: string) => async (stage: Stage) => stage.write('one', word);
const connect = (stage: Stage) => stage.node.connectSandbox(TEAM, stage.id('one'), soon);
const reboot = (stage: Stage) => stage.node.connectSandbox(TEAM, stage.id('one'), { ...soon, memory: false });
const kill = (stage: Stage) => stage.node.killSandbox(TEAM, stage.id('one'));
const rollBack = (stage: Stage) => stage.node.rollbackSandbox(TEAM, stage.id('one'), 'good');
const forget = (stage: Stage) => stage.node.deleteSnapshot(TEAM, 'good');
const fork = (stage: Stage) => stage.node.forkSandbox(TEAM, stage.id('one'), { count: 2, timeoutSeconds: 60 });
const makeVolume = (stage: Stage) => stage.life.run(() => stage.node.createVolume(TEAM, 'data'));
const deleteVolume = async ({ node, rig }: Stage) => node.deleteVolume(TEAM, rig.rows.volumes.all()[0]!.volumeID);
const having = { volumeMounts: [{ name: 'data', path: '/data' }] } as const;
const disk = { memory: false };
const hot = { templates: BOTH_KINDS, pool: { least: 1, most: 1 }, ahead: false } as const;
const ahead = { templates: BOTH_KINDS, pool: { least: 0, most: 0 }, ahead: true } as const;

async function place(stage: Stage): Promise<void> {
  await until('a place', () => {
    if (stage.life.over) return true;
    return stage.rig.rows.all().some(({ state, record }) => state === 'preparing' && record !== undefined);
  });
}

const timeIsUp = (state: 'paused' | undefined) => async (stage: Stage) => {
  const id = stage.id('one');
  await stage.node.setSandboxTimeout(TEAM, id, 0);
  const now = () => stage.rig.rows.get(id)?.state;
  await until('its time was up', () => stage.life.over || now() === undefined || now() === 'paused');
  if (!stage.life.over) assert.equal(now(), state);
};

const failing =
  (step: Parameters<NodeRig['host']['failNext']['add']>[0], verb: (stage: Stage) => Promise<unknown>) =>
  (stage: Stage): Promise<unknown> => {
    stage.rig.host.failNext.add(step);
    return verb(stage);
  };
const make =
  (wish: Wish = {}) =>
  (stage: Stage) =>
    stage.node.createSandbox(createRequest(wish));
const warm = (stage: Stage) => stage.node.warm(1);
const nothing = async (): Promise<void> => {};

/** Begins the verb and kills its node at an act of that name. */
const cut =
  (moment: Point['moment'], step: string, verb: (stage: Stage) => Promise<unknown>) => async (stage: Stage) => {
    const { life } = stage;
    life.watch({ step, moment });
    life.run(() => verb(stage)).catch(() => {});
    await life.ended;
  };

async function loseHost({ life, rig }: Stage): Promise<void> {
  life.end();
  rig.host.loseAll();
}

const SCENES: readonly Scene[] = [
  { verb: 'create', set: nothing, act: make() },
  { verb: 'create a jail', set: nothing, act: make(FROZEN) },
  { verb: 'create without internet', set: nothing, act: make({ network: { allowInternetAccess: false } }) },
  { verb: 'create that fails', fails: true, set: nothing, act: failing('clone', make()) },
  { verb: 'create from the hot tier', options: hot, set: warm, act: make() },
  { verb: 'create in a shell', options: ahead, set: all(one(), place), act: make() },
  { verb: 'create from a snapshot', set: all(one(), snapshot), act: make({ template: 'good' }) },
  { verb: 'growth of the hot tier', set: one(), starts: hot, act: warm },
  { verb: 'making a shell', options: ahead, set: one(), act: place },
  { verb: 'kill', set: one(), act: kill },
  { verb: 'kill of a frozen one', set: all(one(FROZEN), pause()), act: kill },
  { verb: 'kill of one on disk', set: all(one(), pause()), act: kill },
  { verb: 'pause', set: one(), act: pause() },
  { verb: 'pause without memory', set: one(), act: pause(disk) },
  { verb: 'pause of a jail', set: one(FROZEN), act: pause() },
  { verb: 'pause of a jail without memory', set: one(FROZEN), act: pause(disk) },
  {
    verb: 'pause that fails',
    fails: true,
    also: ['one: paused on disk disk one memory one'],
    set: one(),
    act: failing('capture', pause()),
  },
  { verb: 'connect', set: all(one(), pause()), act: connect },
  { verb: 'connect to a frozen one', set: all(one(FROZEN), pause()), act: connect },
  { verb: 'connect without memory', set: all(one(), pause()), act: reboot },
  {
    verb: 'connect to a frozen one without memory',
    set: all(one(FROZEN), pause()),
    act: reboot,
    also: ['one: paused on disk disk one memory '],
  },
  { verb: 'connect to one paused without memory', set: all(one(), pause(disk)), act: connect },
  { verb: 'connect that fails', fails: true, set: all(one(), pause()), act: failing('clone', connect) },
  {
    verb: 'connect that fails to a frozen one',
    fails: true,
    set: all(one(FROZEN), pause()),
    act: failing('unpark', connect),
  },
  {
    verb: 'traffic that resumes',
    set: all(one({ autoResume: true }), pause()),
    act: async (stage) => stage.node.wake(stage.id('one'), { port: 80 }),
  },
  { verb: 'snapshot', set: one(), act: snapshot },
  { verb: 'snapshot of a jail', set: one(FROZEN), act: snapshot },
  { verb: 'snapshot of one on disk', set: all(one(), pause()), act: snapshot },
  { verb: 'snapshot of a frozen one', set: all(one(FROZEN), pause()), act: snapshot },
  { verb: 'snapshot in the place of another', set: all(one(), snapshot, write('more')), act: snapshot },
  { verb: 'snapshot that fails', fails: true, set: one(), act: failing('capture', snapshot) },
  { verb: 'delete of a snapshot', set: all(one(), snapshot), act: forget },
  { verb: 'fork', set: one(), act: fork },
  {
    verb: 'rollback',
    also: ['one: paused on disk disk one memory one'],
    set: all(one(), snapshot, write('more')),
    act: rollBack,
  },
  {
    verb: 'rollback of one on disk',
    also: ['one: paused on disk disk one memory one'],
    set: all(one(), snapshot, write('more'), pause()),
    act: rollBack,
  },
  {
    verb: 'rollback of a jail',
    also: ['one: paused on disk disk one memory '],
    set: all(one(FROZEN), snapshot, write('more')),
    act: rollBack,
  },
  {
    verb: 'rollback of a frozen one',
    also: ['one: paused on disk disk one memory '],
    set: all(one(FROZEN), snapshot, write('more'), pause()),
    act: rollBack,
  },
  {
    verb: 'rollback that fails',
    fails: true,
    also: ['one: paused on disk disk one memory one'],
    set: all(one(), snapshot, write('more')),
    act: failing('clone', rollBack),
  },
  { verb: 'make a volume', set: one(), act: makeVolume },
  { verb: 'delete of a volume', set: all(one(), makeVolume), act: deleteVolume },
  { verb: 'create with a volume', set: all(one(), makeVolume), act: make(having) },
  { verb: 'create of a jail with a volume', set: all(one(), makeVolume), act: make({ ...FROZEN, ...having }) },
  { verb: 'connect to one with a volume', set: all(makeVolume, one(having), pause()), act: connect },
  {
    verb: 'connect to one with a volume without memory',
    set: all(makeVolume, one(having), pause(disk)),
    act: connect,
  },
  { verb: 'fork of one with a volume', set: all(makeVolume, one(having)), act: fork },
  { verb: 'deadline', set: one(), act: timeIsUp(undefined) },
  { verb: 'deadline that pauses', set: one({ onTimeout: 'pause' }), act: timeIsUp('paused') },
  {
    verb: 'end of the service',
    set: all(
      (stage) => stage.create('four'),
      (stage) => stage.pause('four'),
      one({ onTimeout: 'pause' }),
      (stage) => stage.create('two'),
      (stage) => stage.create('three', FROZEN),
      (stage) => stage.pause('three'),
    ),
    act: (stage) => stage.node.stop(),
    ends: true,
  },
  {
    verb: 'start after the host ended',
    set: all(
      (stage) => stage.create('four'),
      (stage) => stage.pause('four'),
      one({ onTimeout: 'pause' }),
      (stage) => stage.create('two'),
      (stage) => stage.create('three', FROZEN),
      (stage) => stage.pause('three'),
      loseHost,
    ),
    starts: QUIET,
  },
  {
    verb: 'start after a crash that leaves all as it is',
    set: all(
      (stage) => stage.create('two'),
      (stage) => stage.pause('two'),
      one(),
      snapshot,
      (stage) => stage.create('three', FROZEN),
      (stage) => stage.pause('three'),
    ),
    starts: QUIET,
  },
  { verb: 'start in a create', set: cut('after', 'rows.claim', make()), starts: QUIET },
  { verb: 'start in a kill', set: all(one(), cut('after', 'rows.intendKill', kill)), starts: QUIET },
  { verb: 'start in a pause', mortal: true, set: all(one(), cut('before', 'microvm.capture', pause())), starts: QUIET },
  {
    verb: 'start in a half written pause',
    mortal: true,
    set: all(one(), cut('before', 'files.rename in paused', pause())),
    starts: QUIET,
  },
  { verb: 'start in a written pause', set: all(one(), cut('after', 'files.rename in paused', pause())), starts: QUIET },
  { verb: 'start in a resume', set: all(one(), pause(), cut('after', 'microvm.clone', connect)), starts: QUIET },
  { verb: 'start in a thaw', set: all(one(FROZEN), pause(), cut('after', 'machine.unpark', connect)), starts: QUIET },
  { verb: 'start in a snapshot', set: all(one(), cut('after', 'files.rename in snapshots', snapshot)), starts: QUIET },
  {
    verb: 'start in a delete',
    set: all(one(), snapshot, cut('after', 'snapshot rows.intendDelete', forget)),
    starts: QUIET,
  },
  {
    verb: 'start in the making of a volume',
    set: all(one(), cut('after', 'volume rows.plan', makeVolume)),
    starts: QUIET,
  },
  {
    verb: 'start in the delete of a volume',
    set: all(one(), makeVolume, cut('after', 'volume rows.move', deleteVolume)),
    starts: QUIET,
  },
  { verb: 'start in a fork', set: all(one(), cut('after', 'rows.setRecord', fork)), starts: QUIET },
  {
    verb: 'start in a rollback',
    set: all(one(), snapshot, write('more'), cut('after', 'rows.beginRollback', rollBack)),
    starts: QUIET,
  },
];

test('killed at any step of any verb, a node loses nothing that it promised, and leaves nothing behind', async (t) => {
  for (const scene of SCENES) await t.test(scene.verb, (t) => everywhere(t, scene, killNode, ['before', 'after']));
});

test('when machines die at any step of any verb, what is on disk stays, and nothing is left of the rest', async (t) => {
  for (const scene of SCENES) await t.test(scene.verb, (t) => everywhere(t, scene, killMachines, ['before']));
});

test('killed by its owner at any step of any verb, a sandbox is gone with all that it had', async (t) => {
  const named = SCENES.filter(({ set, starts }) => set !== nothing && set !== warm && !starts);
  for (const scene of named) await t.test(scene.verb, (t) => everywhere(t, scene, killSandbox, ['before']));
});

test('a pause that is finished after a crash has its guest write out its disk first, as any pause', async () => {
  const stage = spare.pop() ?? (await Stage.open());
  await one()(stage);
  await cut('before', 'microvm.capture', pause())(stage);
  await stage.next((life) => life.watch());
  const { steps } = stage.life;
  // The backend is told at once what it waits for before it makes its first file.
  const [asked, captured] = [steps.indexOf('agent.sync'), steps.indexOf('files.mkdir in paused')];
  assert.ok(asked >= 0 && asked < captured, steps.join(', '));
  await stage.clear();
  spare.push(stage);
});
