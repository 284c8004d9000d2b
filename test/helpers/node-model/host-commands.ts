/** How a node or its whole host ends, and another node starts. */
import type { Point } from '../crash-points.ts';
import { keptAs, pausedAs } from './belief.ts';
import { type Command, type Trouble, told } from './command.ts';
import { choose } from './world.ts';

/** All nodes of a host, or the host itself, end at once. */
export function crash(again: Point | undefined): Command {
  return {
    name: `crash${again ? `, cut ${again.moment} ${again.step}` : ''}`,
    run: async (_, world) => {
      await world.mortal.next((life) => again && life.watch(again));
      world.life.unwatch();
      if (world.life.over) await world.mortal.next();
    },
  };
}

export function loseHost(again: Point | undefined): Command {
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

export function restart({ cut }: Trouble): Command {
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
