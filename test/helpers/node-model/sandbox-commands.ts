/** What an owner does with a sandbox, and what happens to it. */
import assert from 'node:assert/strict';
import { setImmediate as turn } from 'node:timers/promises';
import { isCoppiceError } from '../../../src/contract/errors.ts';
import { createRequest } from '../node-rig.ts';
import { type Believed, type Condition, type Kind, other, pausedAs, pick, resumedAs, running } from './belief.ts';
import { attempt, type Command, type Trouble, told } from './command.ts';
import { adopt, choose } from './world.ts';

const soon = { timeoutSeconds: 60 } as const;

type Wishes = Pick<Believed, 'internet' | 'onTimeout' | 'pauseMemory' | 'autoResume'>;

function request(team: string, template: string, { internet, ...wishes }: Wishes) {
  return createRequest({ teamID: team, template, ...wishes, network: internet ? {} : { allowInternetAccess: false } });
}

export function create(team: string, kind: Kind, wishes: Wishes, trouble: Trouble): Command {
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

export function createFrom(index: number, wishes: Wishes, trouble: Trouble): Command {
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

export function kill(index: number, { cut }: Trouble): Command {
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

export function die(index: number): Command {
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

export function end(index: number): Command {
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

export function write(index: number, word: string): Command {
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

export function pause(index: number, memory: boolean, trouble: Trouble): Command {
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

export function connect(index: number, memory: boolean, trouble: Trouble): Command {
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

export function wake(index: number, trouble: Trouble): Command {
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

/** Waits for what the node does by itself. */
async function wait(what: string, condition: () => boolean): Promise<void> {
  const end = Date.now() + 20_000;
  while (!condition()) {
    assert.ok(Date.now() < end, `not in time: ${what}`);
    await turn();
  }
}
