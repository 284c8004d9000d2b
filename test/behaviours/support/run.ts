/** Runs the table on one kind: one service, a subtest a row, nothing of it left on the host afterwards. */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { Sandbox as CodeSandbox } from '@e2b/code-interpreter';
import { Sandbox } from 'e2b';
import { startService, type TestService } from '../../helpers/service.ts';
import type { Behaviour, BehaviourContext } from './behaviour.ts';
import { KINDS, type Kind } from './kinds.ts';
import { openWorld, type World } from './world.ts';

/** Most of a row is waiting; more at once than this only makes emulated guests slower. */
const AT_ONCE = 3;
const ROW_MS = 240_000;
const KILL_MS = 30_000;
const SETTINGS = { COPPICE_POOL: '1', COPPICE_POOL_MOST: '3' };

export function runTable(kind: Kind, table: readonly Behaviour[]): void {
  describe(kind.name, () => {
    let world: World;
    let shared: TestService;
    before(async () => {
      world = await openWorld();
      // A wish for a kind may name another kind's template.
      shared = await openService(kind, [...KINDS.map((one) => one.base), kind.code]);
    });
    after(async () => {
      await shared?.stop().then((left) => assert.deepEqual(left.details, []));
      await world?.close();
    });
    const row = (behaviour: Behaviour): void => {
      const unsupported = behaviour.on === 'every kind' ? undefined : behaviour.on[kind.name];
      const name = unsupported ? `${behaviour.name}: refused, ${unsupported.reason}` : behaviour.name;
      it(name, { timeout: ROW_MS }, () =>
        withEnds(async (ends) => {
          const service = behaviour.ownService ? await openService(kind, [kind.base, kind.code]) : shared;
          if (service !== shared) ends.push(async () => assert.deepEqual((await service.stop()).details, []));
          const context = contextOf(kind, service, world, ends);
          await (unsupported ? unsupported.refused(context) : behaviour.run(context));
        }),
      );
    };
    describe('beside each other', { concurrency: AT_ONCE }, () => {
      for (const behaviour of table) if (!behaviour.alone) row(behaviour);
    });
    describe('alone', () => {
      for (const behaviour of table) if (behaviour.alone) row(behaviour);
    });
  });
}

async function openService(kind: Kind, templates: readonly string[]): Promise<TestService> {
  const service = await startService(SETTINGS, templates);
  const { backends } = await service.node.status();
  if (!backends.some((one) => one.isolation === kind.name)) {
    await service.stop();
    assert.fail(`this host runs no ${kind.name}s; \`coppice doctor\` says why, COPPICE_TEST_KINDS leaves them out`);
  }
  return service;
}

/** Runs `work`, then what it left to be done at its end, last first; every failure is told. */
async function withEnds(work: (ends: (() => unknown)[]) => Promise<void>): Promise<void> {
  const ends: (() => unknown)[] = [];
  const failures: unknown[] = [];
  const tried = async (step: () => unknown): Promise<void> => {
    try {
      await step();
    } catch (error) {
      failures.push(error);
    }
  };
  await tried(() => work(ends));
  for (const end of ends.reverse()) await tried(end);
  if (failures.length === 1) throw failures[0];
  if (failures.length > 1) throw new AggregateError(failures, failures.map(String).join('; and then '));
}

function contextOf(kind: Kind, service: TestService, world: World, ends: (() => unknown)[]): BehaviourContext {
  const killed = <T extends Sandbox>(sandbox: T): T => {
    ends.push(() => sandbox.kill({ requestTimeoutMs: KILL_MS }));
    return sandbox;
  };
  const options = { ...service.sdk, timeoutMs: 600_000 };
  return {
    kind,
    service,
    world,
    sandbox: async (more) => killed(await Sandbox.create(kind.base, { ...options, ...more })),
    codeSandbox: async (more) => killed(await CodeSandbox.create(kind.code, { ...options, ...more })),
    atEnd: (end) => void ends.push(end),
  };
}
