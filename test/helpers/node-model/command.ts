/** A command of the model, what may trouble it, and how fast-check runs it. */
import assert from 'node:assert/strict';
import type fc from 'fast-check';
import type { Point } from '../crash-points.ts';
import type { NodeRig } from '../node-rig.ts';
import type { Model } from './belief.ts';
import { agree, type World } from './world.ts';

export interface Command {
  readonly name: string;
  /** Of which sandbox or snapshot, if of any. */
  readonly of?: 'sandboxes' | 'snapshots';
  readonly grows?: boolean;
  readonly run: (model: Model, world: World) => Promise<void>;
}

const MOST = 10;

/** As fast-check has them. */
export class Step implements fc.AsyncCommand<Model, World> {
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

export interface Trouble {
  readonly cut?: Point;
  /** Thrown by the next step of that name. */
  readonly fault?: Parameters<NodeRig['host']['failNext']['add']>[0];
}

export const told = ({ cut, fault }: Trouble): string =>
  `${cut ? `, cut ${cut.moment} ${cut.step}` : ''}${fault ? `, ${fault} fails` : ''}`;

/**
 * A verb with trouble. `done`: how the model changes when the verb was heard to be done. `cut`: when it was cut. Only a fault
 * may make it fail, and then nothing has changed.
 */
export async function attempt<T>(
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
