/**
 * Whatever the order of verbs, faults, deaths and crashes: rows, host, disk and owners agree, and nothing leaks. Ten thousand
 * commands against a model of what the owners may believe. A verb may be cut: its node is killed at one of its acts, whichever
 * comes as that number (crash-points.ts), and the model then has a choice, between what was before and what is after.
 */
import assert from 'node:assert/strict';
import test from 'node:test';
import fc from 'fast-check';
import { MortalRig } from '../helpers/crash-points.ts';
import { type Kind, type Model, TEAMS } from '../helpers/node-model/belief.ts';
import { type Command, Step, type Trouble } from '../helpers/node-model/command.ts';
import { crash, loseHost, restart } from '../helpers/node-model/host-commands.ts';
import {
  connect,
  create,
  createFrom,
  die,
  end,
  kill,
  pause,
  wake,
  write,
} from '../helpers/node-model/sandbox-commands.ts';
import { fork, remove, rollBack, snapshot } from '../helpers/node-model/snapshot-commands.ts';
import { choose, World } from '../helpers/node-model/world.ts';
import { BOTH_KINDS } from '../helpers/node-rig.ts';

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
