/** The node that a model is held against, and what is really there. */
import assert from 'node:assert/strict';
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Life, MortalRig, Point } from '../crash-points.ts';
import type { NodeRig } from '../node-rig.ts';
import { type Believed, type Condition, type Model, sameCondition, TEAMS } from './belief.ts';

export class World {
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

/** Of what may have become of it, the model believes what has. */
export async function choose(
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

/** A new sandbox that was made of this, if it was made. */
export async function adopt(model: Model, world: World, make: () => Believed, most: number): Promise<void> {
  const { sandboxes } = world.unknown(model);
  assert.ok(sandboxes.length <= most);
  for (const id of sandboxes) {
    const believed = make();
    model.sandboxes.set(id, believed);
    await choose(model, world, id, [believed.now]);
  }
}

export async function agree(model: Model, world: World): Promise<void> {
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
