/** What an owner does with snapshots, and what is one for a moment: forks and rollbacks. */
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type Believed, type Condition, other, pick, running, type Taken, TEAMS } from './belief.ts';
import { attempt, type Command, type Trouble, told } from './command.ts';
import { adopt, choose } from './world.ts';

export function snapshot(index: number, alias: string | undefined, trouble: Trouble): Command {
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

export function remove(index: number, { cut }: Trouble): Command {
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

export function fork(index: number, count: number, trouble: Trouble): Command {
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

export function rollBack(index: number, trouble: Trouble): Command {
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
