/**
 * Whatever the order of verbs, faults, deaths and crashes: rows, host, disk and owners agree, and nothing leaks. Ten thousand
 * commands against a model of what the owners may believe. A verb may be cut: its node is killed at one of its acts, whichever
 * comes as that number (crash-points.ts), and the model then has a choice, between what was before and what is after.
 */
import assert from 'node:assert/strict';
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'node:test';
import { setImmediate as turn } from 'node:timers/promises';
import fc from 'fast-check';
import { isCoppiceError } from '../../src/contract/errors.ts';
import { type Life, MortalRig, type Point } from '../helpers/crash-points.ts';
import { BOTH_KINDS, createRequest, type NodeRig, OTHER_TEAM, TEAM } from '../helpers/node-rig.ts';

type Kind = 'microvm' | 'jail';

/** What a sandbox is. `frozen`: paused, its machine holds it. `kept`: paused, on disk, with its memory or without. */
interface Condition {
  readonly state: 'running' | 'frozen' | 'kept';
  readonly memory: readonly string[] | undefined;
  readonly disk: readonly string[];
}

interface Believed {
  readonly team: string;
  readonly kind: Kind;
  readonly internet: boolean;
  readonly onTimeout: 'kill' | 'pause';
  readonly pauseMemory: boolean;
  readonly autoResume: boolean;
  now: Condition;
}

interface Taken {
  readonly team: string;
  readonly kind: Kind;
  readonly source: string;
  readonly memory: readonly string[] | undefined;
  readonly disk: readonly string[];
}

/** What the owner of each sandbox and snapshot may believe. */
interface Model {
  readonly sandboxes: Map<string, Believed>;
  /** By the id that clients create from. */
  readonly snapshots: Map<string, Taken>;
}

class World {
  readonly mortal: MortalRig;
  commands = 0;

  constructor(mortal: MortalRig) {
    this.mortal = mortal;
  }

  get rig(): NodeRig {
    return this.mortal.rig;
  }

  get node(): NodeRig['node'] {
    return this.rig.node;
  }

  get life(): Life {
    return this.mortal.life;
  }

  run<T>(verb: () => Promise<T>): Promise<T> {
    return this.life.run(verb);
  }

  /** Runs the verb, to be cut at that point. undefined: it was, and another node has started. */
  async cut<T>(at: Point | undefined, verb: () => Promise<T>): Promise<{ readonly result: T } | undefined> {
    const { life } = this;
    if (at) life.watch(at);
    const done = life.run(verb).then((result) => ({ result }));
    done.catch(() => {});
    const outcome = await Promise.race([done, life.ended]);
    life.unwatch();
    if (!life.over) return outcome as { readonly result: T };
    await this.mortal.next();
    return undefined;
  }

  /** What is really there of a sandbox. */
  async condition(id: string): Promise<Condition | undefined> {
    const { rig } = this;
    const row = rig.rows.get(id);
    if (!row) return undefined;
    if (row.kept) {
      assert.equal(row.state, 'paused');
      const content = JSON.parse(await readFile(join(rig.pausedFolder, id, row.kept.name, 'content.json'), 'utf8'));
      return { state: 'kept', disk: content.disk, memory: row.kept.memory ? content.memory : undefined };
    }
    const { disk, memory, parked } = rig.host.machines.get(id)!;
    assert.equal(row.state, parked ? 'paused' : 'running');
    return { state: parked ? 'frozen' : 'running', disk: [...disk], memory: [...memory] };
  }

  /** Sandboxes and snapshots that the model has not heard of. */
  unknown(model: Model): { readonly sandboxes: string[]; readonly snapshots: string[] } {
    const { rows } = this.rig;
    const ready = rows.snapshots.inState('ready').filter(({ hidden }) => !hidden);
    return {
      sandboxes: rows.all().flatMap(({ id, owner }) => (owner && !model.sandboxes.has(id) ? [id] : [])),
      snapshots: ready.map(({ alias, templateID, tag }) => `${alias ?? templateID}:${tag}`),
    };
  }
}

const TEAMS = [TEAM, OTHER_TEAM];
const soon = { timeoutSeconds: 60 } as const;
const other = (team: string): string => (team === TEAM ? OTHER_TEAM : TEAM);

/** The `index`-th thing that the model knows. */
function pick<T>(known: ReadonlyMap<string, T>, index: number): readonly [string, T] {
  return [...known][index % known.size]!;
}

/** Waits for what the node does by itself. */
async function wait(what: string, condition: () => boolean): Promise<void> {
  const end = Date.now() + 20_000;
  while (!condition()) {
    assert.ok(Date.now() < end, `not in time: ${what}`);
    await turn();
  }
}

const running = (disk: readonly string[], memory: readonly string[] = []): Condition => ({
  state: 'running',
  disk: [...disk],
  memory: [...memory],
});

/** What it is when it is paused. */
function pausedAs({ kind, now }: Believed, memory: boolean): Condition {
  if (kind === 'jail' && memory) return { ...now, state: 'frozen' };
  return { state: 'kept', disk: now.disk, memory: memory ? now.memory : undefined };
}

/** What it is when it runs again. */
const resumedAs = ({ now }: Believed, memory = true): Condition => running(now.disk, memory ? now.memory : []);

/** What is left of it when its host ends, or its node in good order. undefined: nothing. */
function keptAs(believed: Believed, how: 'lost' | 'stopped'): Condition | undefined {
  const { kind, now, onTimeout, pauseMemory } = believed;
  if (now.state === 'kept') return now;
  if (now.state === 'running' && onTimeout === 'kill') return undefined;
  const memory = how === 'stopped' && kind === 'microvm' && pauseMemory;
  return { state: 'kept', disk: now.disk, memory: memory ? now.memory : undefined };
}

/** Of what may have become of it, the model believes what has. */
async function choose(
  model: Model,
  world: World,
  id: string,
  among: readonly (Condition | undefined)[],
): Promise<void> {
  const found = await world.condition(id);
  assert.ok(
    among.some((one) => sameCondition(one, found)),
    `${id} is ${JSON.stringify(found)}, and not one of ${JSON.stringify(among)}`,
  );
  if (found) model.sandboxes.get(id)!.now = found;
  else model.sandboxes.delete(id);
}

function sameCondition(one: Condition | undefined, two: Condition | undefined): boolean {
  return (
    JSON.stringify(one && [one.state, one.disk, one.memory]) ===
    JSON.stringify(two && [two.state, two.disk, two.memory])
  );
}

async function agree(model: Model, world: World): Promise<void> {
  const { rig, node } = world;
  world.commands++;
  for (const team of TEAMS) {
    const own = [...model.sandboxes].filter(([, one]) => one.team === team);
    const query = { teamID: team, states: ['running', 'paused'], order: 'asc', limit: 100 } as const;
    const { sandboxes, totalRunning } = await node.listSandboxes(query);
    assert.deepEqual(
      sandboxes.map(({ sandboxID, state }) => `${sandboxID} ${state}`).toSorted(),
      own.map(([id, { now }]) => `${id} ${now.state === 'running' ? 'running' : 'paused'}`).toSorted(),
    );
    assert.equal(totalRunning, own.filter(([, { now }]) => now.state === 'running').length);
    const { snapshots } = await node.listSnapshots({ teamID: team, limit: 100 });
    const believed = [...model.snapshots].filter(([, one]) => one.team === team).map(([id]) => id);
    assert.deepEqual(snapshots.map(({ snapshotID }) => snapshotID).toSorted(), believed.toSorted());
  }
  for (const [id, { internet, now }] of model.sandboxes) {
    const machine = rig.host.machines.get(id);
    const kept = now.state === 'kept';
    assert.equal(rig.host.attachments.get(id)?.policy.allowInternet, kept ? undefined : internet);
    assert.equal(node.member(id) !== undefined, now.state === 'running');
    if (kept) assert.equal(machine, undefined, 'what is on disk has no machine');
    else
      assert.deepEqual(
        [machine?.disk, machine?.memory],
        [now.disk, now.memory],
        'it has what it wrote, and what it was made with',
      );
    if (!kept) assert.equal(machine?.parked, now.state === 'frozen');
  }
  const known = new Set(rig.rows.all().map(({ id }) => id));
  for (const id of [...rig.host.machines.keys(), ...rig.host.attachments.keys()])
    assert.ok(known.has(id), 'nothing without a row');
  assert.equal((await readdir(rig.snapshotsFolder)).length, model.snapshots.size);
  const kept = [...model.sandboxes].flatMap(([id, { now }]) => (now.state === 'kept' ? [id] : []));
  assert.deepEqual((await readdir(rig.pausedFolder)).toSorted(), kept.toSorted());
}

interface Command {
  readonly name: string;
  /** Of which sandbox or snapshot, if of any. */
  readonly of?: 'sandboxes' | 'snapshots';
  readonly grows?: boolean;
  readonly run: (model: Model, world: World) => Promise<void>;
}

const MOST = 10;

/** As fast-check has them. */
class Step implements fc.AsyncCommand<Model, World> {
  readonly #command: Command;

  constructor(command: Command) {
    this.#command = command;
  }

  check(model: Readonly<Model>): boolean {
    const { of, grows } = this.#command;
    return (of === undefined || model[of].size > 0) && (!grows || model.sandboxes.size < MOST);
  }

  async run(model: Model, world: World): Promise<void> {
    await this.#command.run(model, world);
    await agree(model, world);
  }

  toString(): string {
    return this.#command.name;
  }
}

interface Trouble {
  readonly cut?: Point;
  /** Thrown by the next step of that name. */
  readonly fault?: Parameters<NodeRig['host']['failNext']['add']>[0];
}

const told = ({ cut, fault }: Trouble): string =>
  `${cut ? `, cut ${cut.moment} ${cut.step}` : ''}${fault ? `, ${fault} fails` : ''}`;

/**
 * A verb with trouble. `done`: how the model changes when the verb was heard to be done. `cut`: when it was cut. Only a fault
 * may make it fail, and then nothing has changed.
 */
async function attempt<T>(
  world: World,
  { cut, fault }: Trouble,
  verb: () => Promise<T>,
  then: {
    readonly done: (result: T) => void | Promise<void>;
    readonly cut: () => Promise<void>;
    readonly failed?: () => Promise<void>;
  },
): Promise<void> {
  if (fault) world.rig.host.failNext.add(fault);
  try {
    const outcome = await world.cut(cut, verb);
    if (outcome) await then.done(outcome.result);
    else await then.cut();
  } catch (error) {
    if (!fault || error instanceof assert.AssertionError) throw error;
    await then.failed?.();
  } finally {
    world.rig.host.failNext.clear();
  }
}

/** A new sandbox that was made of this, if it was made. */
async function adopt(model: Model, world: World, make: () => Believed, most: number): Promise<void> {
  const { sandboxes } = world.unknown(model);
  assert.ok(sandboxes.length <= most);
  for (const id of sandboxes) {
    const believed = make();
    model.sandboxes.set(id, believed);
    await choose(model, world, id, [believed.now]);
  }
}

type Wishes = Pick<Believed, 'internet' | 'onTimeout' | 'pauseMemory' | 'autoResume'>;

function request(team: string, template: string, { internet, ...wishes }: Wishes) {
  return createRequest({ teamID: team, template, ...wishes, network: internet ? {} : { allowInternetAccess: false } });
}

function create(team: string, kind: Kind, wishes: Wishes, trouble: Trouble): Command {
  const template = kind === 'jail' ? 'base-jail' : 'base';
  const make = (): Believed => ({ team, kind, ...wishes, now: running([]) });
  return {
    name: `create(${template}, ${JSON.stringify(wishes)}${told(trouble)})`,
    grows: true,
    run: (model, world) =>
      attempt(world, trouble, () => world.node.createSandbox(request(team, template, wishes)), {
        done: ({ sandbox }) => void model.sandboxes.set(sandbox.sandboxID, make()),
        cut: () => adopt(model, world, make, 1),
      }),
  };
}

function createFrom(index: number, wishes: Wishes, trouble: Trouble): Command {
  return {
    name: `create from(${index}${told(trouble)})`,
    of: 'snapshots',
    grows: true,
    run: async (model, world) => {
      const [template, { team, kind, disk, memory }] = pick(model.snapshots, index);
      await assert.rejects(world.run(() => world.node.createSandbox(request(other(team), template, wishes))));
      const make = (): Believed => ({ team, kind, ...wishes, now: running(disk, memory) });
      await attempt(world, trouble, () => world.node.createSandbox(request(team, template, wishes)), {
        done: ({ sandbox }) => void model.sandboxes.set(sandbox.sandboxID, make()),
        cut: () => adopt(model, world, make, 1),
      });
    },
  };
}

function kill(index: number, { cut }: Trouble): Command {
  return {
    name: `kill(${index}${told(cut ? { cut } : {})})`,
    of: 'sandboxes',
    run: async (model, world) => {
      const [id, { team, now }] = pick(model.sandboxes, index);
      await assert.rejects(world.run(() => world.node.killSandbox(other(team), id)));
      await attempt(world, cut ? { cut } : {}, () => world.node.killSandbox(team, id), {
        done: () => void model.sandboxes.delete(id),
        cut: () => choose(model, world, id, [now, undefined]),
      });
    },
  };
}

function die(index: number): Command {
  return {
    name: `die(${index})`,
    of: 'sandboxes',
    run: async (model, world) => {
      const [id, { now }] = pick(model.sandboxes, index);
      if (now.state === 'kept') return;
      world.rig.host.machines.get(id)!.die('SIGKILL');
      await wait('its row is gone', () => world.rig.rows.get(id) === undefined);
      model.sandboxes.delete(id);
    },
  };
}

function end(index: number): Command {
  return {
    name: `timeout 0 (${index})`,
    of: 'sandboxes',
    run: async (model, world) => {
      const [id, believed] = pick(model.sandboxes, index);
      const { team, now, onTimeout, pauseMemory } = believed;
      const ending = world.run(() => world.node.setSandboxTimeout(team, id, 0));
      if (now.state !== 'running') return assert.rejects(ending);
      await ending;
      const { rows } = world.rig;
      if (onTimeout === 'kill') {
        await wait('it ended', () => rows.get(id) === undefined);
        model.sandboxes.delete(id);
      } else {
        const settled = () => {
          const { state, kept, record } = rows.get(id) ?? {};
          return state === 'paused' && !(kept && record);
        };
        await wait('it is paused', settled);
        believed.now = pausedAs(believed, pauseMemory);
      }
    },
  };
}

function write(index: number, word: string): Command {
  return {
    name: `write(${index}, ${word})`,
    of: 'sandboxes',
    run: async (model, world) => {
      const [id, believed] = pick(model.sandboxes, index);
      if (believed.now.state !== 'running') return;
      const { disk, memory } = world.rig.host.machines.get(id)!;
      disk.push(word);
      memory.push(word);
      believed.now = running(disk, memory);
    },
  };
}

function pause(index: number, memory: boolean, trouble: Trouble): Command {
  return {
    name: `pause(${index}, ${memory ? 'memory' : 'disk'}${told(trouble)})`,
    of: 'sandboxes',
    run: async (model, world) => {
      const [id, believed] = pick(model.sandboxes, index);
      const { team, now } = believed;
      const pausing = () => world.node.pauseSandbox(team, id, { memory });
      if (now.state !== 'running')
        return assert.rejects(world.run(pausing), (error) => isCoppiceError(error, 'conflict'));
      const paused = pausedAs(believed, memory);
      await attempt(world, trouble, pausing, {
        done: () => {
          believed.now = paused;
        },
        cut: () => choose(model, world, id, [now, paused]),
      });
    },
  };
}

function connect(index: number, memory: boolean, trouble: Trouble): Command {
  return {
    name: `connect(${index}${memory ? '' : ', disk'}${told(trouble)})`,
    of: 'sandboxes',
    run: async (model, world) => {
      const [id, believed] = pick(model.sandboxes, index);
      const { team, now } = believed;
      const wish = memory ? soon : { ...soon, memory };
      await attempt(world, trouble, () => world.node.connectSandbox(team, id, wish), {
        done: ({ resumed }) => {
          assert.equal(resumed, now.state !== 'running');
          if (resumed) believed.now = resumedAs(believed, memory);
        },
        cut: () => {
          if (now.state === 'running') return choose(model, world, id, [now]);
          return choose(model, world, id, [now, resumedAs(believed, memory), ...forgotten(believed, memory)]);
        },
        failed: () => choose(model, world, id, [now, ...forgotten(believed, memory)]),
      });
    },
  };
}

/** What a resume that wants no memory has made of a frozen one first. */
function forgotten({ now }: Believed, memory: boolean): readonly Condition[] {
  return now.state === 'frozen' && !memory ? [{ state: 'kept', disk: now.disk, memory: undefined }] : [];
}

function wake(index: number, trouble: Trouble): Command {
  return {
    name: `traffic(${index}${told(trouble)})`,
    of: 'sandboxes',
    run: async (model, world) => {
      const [id, believed] = pick(model.sandboxes, index);
      const { now, autoResume } = believed;
      // One that runs is reached without it.
      if (now.state === 'running') return;
      const knock = () => world.node.wake(id, { port: 8080 });
      if (!autoResume || now.memory === undefined) return assert.equal(world.life.run(knock), undefined);
      await attempt(world, trouble, async () => knock(), {
        done: (member) => {
          assert.equal(member, world.node.member(id));
          believed.now = resumedAs(believed);
        },
        cut: () => choose(model, world, id, [now, resumedAs(believed)]),
      });
    },
  };
}

function snapshot(index: number, alias: string | undefined, trouble: Trouble): Command {
  return {
    name: `snapshot(${index}, ${alias}${told(trouble)})`,
    of: 'sandboxes',
    run: async (model, world) => {
      const [id, { team, kind, now }] = pick(model.sandboxes, index);
      // Names of two teams differ here, so that the model can know snapshots by their id alone.
      const name = alias && `${alias}${TEAMS.indexOf(team)}`;
      const memory = kind === 'microvm' ? now.memory : undefined;
      const taken: Taken = { team, kind, source: id, disk: now.disk, memory };
      await attempt(world, trouble, () => world.node.createSnapshot(team, id, name ? { name } : {}), {
        done: (result) => void model.snapshots.set(result.snapshot.snapshotID, taken),
        cut: async () => {
          const found = world.unknown(model).snapshots;
          const news = found.filter((one) => !model.snapshots.has(one));
          assert.ok(news.length <= 1);
          const named = name === undefined ? news[0] : found.find((one) => one === `${name}:default`);
          if (named === undefined) return;
          // One that had the name before may still have it.
          const row = world.rig.rows.snapshots
            .inState('ready')
            .find(({ alias, templateID, tag }) => `${alias ?? templateID}:${tag}` === named)!;
          const folder = join(world.rig.snapshotsFolder, row.buildID, 'checkpoint', 'content.json');
          const content = JSON.parse(await readFile(folder, 'utf8'));
          const is = [content.disk, row.memory ? content.memory : undefined, row.sourceID];
          const before = model.snapshots.get(named);
          const among = [taken, ...(before ? [before] : [])];
          const which = among.find((one) => JSON.stringify([one.disk, one.memory, one.source]) === JSON.stringify(is));
          assert.ok(which, 'it is the new one or the one before');
          model.snapshots.set(named, which);
        },
      });
    },
  };
}

function remove(index: number, { cut }: Trouble): Command {
  return {
    name: `delete snapshot(${index}${told(cut ? { cut } : {})})`,
    of: 'snapshots',
    run: async (model, world) => {
      const [id, { team }] = pick(model.snapshots, index);
      await assert.rejects(world.run(() => world.node.deleteSnapshot(other(team), id)));
      await attempt(world, cut ? { cut } : {}, () => world.node.deleteSnapshot(team, id), {
        done: () => void model.snapshots.delete(id),
        cut: async () => {
          if (!world.unknown(model).snapshots.includes(id)) model.snapshots.delete(id);
        },
      });
    },
  };
}

function fork(index: number, count: number, trouble: Trouble): Command {
  return {
    name: `fork(${index}, ${count}${told(trouble)})`,
    of: 'sandboxes',
    grows: true,
    run: async (model, world) => {
      const [id, believed] = pick(model.sandboxes, index);
      const { team, kind, now } = believed;
      const forking = () => world.node.forkSandbox(team, id, { count, timeoutSeconds: 60 });
      if (kind === 'jail' || now.state !== 'running') return assert.rejects(world.run(forking));
      const make = (): Believed => ({ ...believed, now: running(now.disk, now.memory) });
      await attempt(world, trouble, forking, {
        done: ({ forks }) => {
          for (const one of forks) {
            if ('sandbox' in one) model.sandboxes.set(one.sandbox.sandboxID, make());
            else assert.ok(trouble.fault, one.error.message);
          }
        },
        cut: () => adopt(model, world, make, count),
      });
    },
  };
}

function rollBack(index: number, trouble: Trouble): Command {
  return {
    name: `rollback(${index}${told(trouble)})`,
    of: 'snapshots',
    run: async (model, world) => {
      const [to, { team, source, kind, disk, memory }] = pick(model.snapshots, index);
      const rolling = () => world.node.rollbackSandbox(team, source, to);
      const believed = model.sandboxes.get(source);
      if (!believed) return assert.rejects(world.run(rolling));
      const { now } = believed;
      const back = running(disk, memory);
      const kept: Condition = { state: 'kept', disk, memory: kind === 'jail' ? undefined : memory };
      await attempt(world, trouble, rolling, {
        done: () => {
          believed.now = back;
        },
        cut: () => choose(model, world, source, [now, back, kept]),
        failed: () => choose(model, world, source, [now, kept]),
      });
    },
  };
}

/** All nodes of a host, or the host itself, end at once. */
function crash(again: Point | undefined): Command {
  return {
    name: `crash${again ? `, cut ${again.moment} ${again.step}` : ''}`,
    run: async (_, world) => {
      await world.mortal.next((life) => again && life.watch(again));
      world.life.unwatch();
      if (world.life.over) await world.mortal.next();
    },
  };
}

function loseHost(again: Point | undefined): Command {
  return {
    name: `the host ends${again ? `, cut ${again.moment} ${again.step}` : ''}`,
    run: async (model, world) => {
      world.life.end();
      world.rig.host.loseAll();
      await crash(again).run(model, world);
      for (const [id, believed] of [...model.sandboxes]) await choose(model, world, id, [keptAs(believed, 'lost')]);
      world.rig.host.lost.clear();
    },
  };
}

function restart({ cut }: Trouble): Command {
  return {
    name: `restart of the service${told(cut ? { cut } : {})}`,
    run: async (model, world) => {
      const stopped = await world.cut(cut, () => world.node.stop());
      if (stopped) await world.mortal.next();
      for (const [id, believed] of [...model.sandboxes]) {
        const kept = keptAs(believed, 'stopped');
        const { now } = believed;
        // Cut on its way to the disk, it is paused where it was.
        const between = now.state === 'running' && kept ? [pausedAs(believed, believed.pauseMemory)] : [];
        await choose(model, world, id, stopped ? [kept] : [kept, now, ...between]);
      }
    },
  };
}

const index = fc.nat({ max: 20 });
const rarely = fc.oneof({ weight: 4, arbitrary: fc.constant(false) }, { weight: 1, arbitrary: fc.constant(true) });
const point = fc.record({ step: fc.nat({ max: 24 }), moment: fc.constantFrom('before', 'after') });
const sometimes = fc.option(point, { nil: undefined, freq: 2 });
const trouble = fc.oneof(
  { weight: 4, arbitrary: fc.constant<Trouble>({}) },
  { weight: 3, arbitrary: point.map((cut): Trouble => ({ cut })) },
  {
    weight: 1,
    arbitrary: fc
      .constantFrom('clone', 'attach', 'channel', 'capture', 'park', 'unpark')
      .map((fault): Trouble => ({ fault })),
  },
);
const wishes = fc.record({
  internet: fc.boolean(),
  onTimeout: fc.constantFrom('kill', 'pause'),
  pauseMemory: fc.boolean(),
  autoResume: fc.boolean(),
});
const team = fc.constantFrom(...TEAMS);
const kind = fc.constantFrom<Kind>('microvm', 'microvm', 'jail');
const alias = fc.constantFrom(undefined, 'work', 'work', 'other');

// What makes something comes more often than what ends it: else there would rarely be enough for the rest to act on.
const COMMANDS: readonly { readonly weight: number; readonly arbitrary: fc.Arbitrary<Command> }[] = [
  { weight: 8, arbitrary: fc.tuple(team, kind, wishes, trouble).map((args) => create(...args)) },
  { weight: 4, arbitrary: fc.tuple(index, wishes, trouble).map((args) => createFrom(...args)) },
  { weight: 2, arbitrary: fc.tuple(index, trouble).map((args) => kill(...args)) },
  { weight: 1, arbitrary: index.map((at) => die(at)) },
  { weight: 2, arbitrary: index.map((at) => end(at)) },
  { weight: 4, arbitrary: fc.tuple(index, fc.constantFrom('a', 'b', 'c')).map((args) => write(...args)) },
  {
    weight: 6,
    arbitrary: fc
      .tuple(
        index,
        rarely.map((disk) => !disk),
        trouble,
      )
      .map((args) => pause(...args)),
  },
  {
    weight: 6,
    arbitrary: fc
      .tuple(
        index,
        rarely.map((disk) => !disk),
        trouble,
      )
      .map((args) => connect(...args)),
  },
  { weight: 3, arbitrary: fc.tuple(index, trouble).map((args) => wake(...args)) },
  { weight: 5, arbitrary: fc.tuple(index, alias, trouble).map((args) => snapshot(...args)) },
  { weight: 2, arbitrary: fc.tuple(index, trouble).map((args) => remove(...args)) },
  { weight: 2, arbitrary: fc.tuple(index, fc.integer({ min: 1, max: 3 }), trouble).map((args) => fork(...args)) },
  { weight: 3, arbitrary: fc.tuple(index, trouble).map((args) => rollBack(...args)) },
  { weight: 1, arbitrary: sometimes.map((again) => crash(again)) },
  { weight: 1, arbitrary: sometimes.map((again) => loseHost(again)) },
  { weight: 1, arbitrary: trouble.map((how) => restart(how)) },
];

const steps = COMMANDS.flatMap(({ weight, arbitrary }) =>
  Array.from({ length: weight }, () => arbitrary.map((command) => new Step(command))),
);
const quiet = { pool: { least: 0, most: 0 }, ahead: false } as const;
const eager = { pool: { least: 1, most: 2 }, ahead: true } as const;
const ways = fc.oneof({ weight: 3, arbitrary: fc.constant(quiet) }, { weight: 1, arbitrary: fc.constant(eager) });
const LEAST = 10_000;

test('ten thousand commands in any order', async (t) => {
  let commands = 0;
  const property = fc.asyncProperty(
    fc.commands(steps, { maxCommands: 160, size: 'max' }),
    ways,
    async (run, options) => {
      const world = new World(await MortalRig.open({ templates: BOTH_KINDS, ...options }));
      const model: Model = { sandboxes: new Map(), snapshots: new Map() };
      try {
        await fc.asyncModelRun(() => ({ model, real: world }), run);
        await wind(model, world);
      } finally {
        world.life.end();
      }
      commands += world.commands;
    },
  );
  while (commands < LEAST) await fc.assert(property, { numRuns: 25 });
  t.diagnostic(`${commands} commands`);
  assert.ok(commands >= LEAST);
});

/** What is on disk is whole, and the end leaves nothing that is not. */
async function wind(model: Model, world: World): Promise<void> {
  const { rig } = world;
  for (const [id, { now }] of model.sandboxes) await choose(model, world, id, [now]);
  assert.deepEqual((await world.node.leaks()).details, []);
  await world.mortal.end();
  assert.equal(rig.host.machines.size, 0, 'the end leaves no machine');
  assert.equal(rig.host.attachments.size, 0);
}
