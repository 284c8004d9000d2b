import assert from 'node:assert/strict';
import test from 'node:test';
import fc from 'fast-check';
import { createRequest, type NodeRig, OTHER_TEAM, startNodeRig, TEAM } from '../helpers/node-rig.ts';
import { until } from '../helpers/until.ts';

/** What the owner of each sandbox may believe. */
interface Model {
  readonly sandboxes: Map<string, { readonly team: string; readonly internet: boolean }>;
}

type Step = fc.AsyncCommand<Model, NodeRig>;

const TEAMS = [TEAM, OTHER_TEAM];

/** The `index`-th sandbox that the model knows. */
function pick(model: Model, index: number): string {
  const ids = [...model.sandboxes.keys()];
  return ids[index % ids.length]!;
}

async function agree(model: Model, rig: NodeRig): Promise<void> {
  for (const team of TEAMS) {
    const query = { teamID: team, states: ['running'], order: 'asc', limit: 100 } as const;
    const listed = (await rig.node.listSandboxes(query)).sandboxes.map((one) => one.sandboxID);
    const believed = [...model.sandboxes].filter(([, one]) => one.team === team).map(([id]) => id);
    assert.deepEqual(listed.toSorted(), believed.toSorted());
  }
  for (const [id, { internet }] of model.sandboxes) {
    assert.equal(rig.host.machines.get(id)?.parked, false, 'its machine lives and runs');
    assert.equal(rig.host.attachments.get(id)?.policy.allowInternet, internet);
  }
  const states = new Map(rig.rows.all().map((row) => [row.id, row.state]));
  for (const id of rig.host.machines.keys()) assert.ok(states.has(id), 'no machine without a row');
}

class Create implements Step {
  readonly #team: string;
  readonly #internet: boolean;
  readonly #fails: 'clone' | 'attach' | 'channel' | undefined;
  constructor(team: string, internet: boolean, fails: 'clone' | 'attach' | 'channel' | undefined) {
    this.#team = team;
    this.#internet = internet;
    this.#fails = fails;
  }
  check = (model: Readonly<Model>): boolean => model.sandboxes.size < 12;
  async run(model: Model, rig: NodeRig): Promise<void> {
    if (this.#fails) rig.host.failNext.add(this.#fails);
    const network = this.#internet ? {} : { allowInternetAccess: false };
    try {
      const { sandbox } = await rig.node.createSandbox(createRequest({ teamID: this.#team, network }));
      model.sandboxes.set(sandbox.sandboxID, { team: this.#team, internet: this.#internet });
    } catch (error) {
      // Only a fault that was injected may refuse a create.
      if (!this.#fails) throw error;
    } finally {
      rig.host.failNext.clear();
    }
    await agree(model, rig);
  }
  toString = (): string =>
    `create(${this.#internet ? 'internet' : 'offline'}${this.#fails ? `, ${this.#fails} fails` : ''})`;
}

class Kill implements Step {
  readonly #index: number;
  constructor(index: number) {
    this.#index = index;
  }
  check = (model: Readonly<Model>): boolean => model.sandboxes.size > 0;
  async run(model: Model, rig: NodeRig): Promise<void> {
    const id = pick(model, this.#index);
    const { team } = model.sandboxes.get(id)!;
    await assert.rejects(rig.node.killSandbox(team === TEAM ? OTHER_TEAM : TEAM, id));
    await rig.node.killSandbox(team, id);
    model.sandboxes.delete(id);
    assert.equal(rig.host.machines.has(id), false);
    assert.equal(rig.host.attachments.has(id), false);
    await agree(model, rig);
  }
  toString = (): string => `kill(${this.#index})`;
}

class Die implements Step {
  readonly #index: number;
  constructor(index: number) {
    this.#index = index;
  }
  check = (model: Readonly<Model>): boolean => model.sandboxes.size > 0;
  async run(model: Model, rig: NodeRig): Promise<void> {
    const id = pick(model, this.#index);
    rig.host.machines.get(id)!.die('SIGKILL');
    model.sandboxes.delete(id);
    await until('its row is gone', () => rig.rows.get(id) === undefined);
    await agree(model, rig);
  }
  toString = (): string => `die(${this.#index})`;
}

class End implements Step {
  readonly #index: number;
  constructor(index: number) {
    this.#index = index;
  }
  check = (model: Readonly<Model>): boolean => model.sandboxes.size > 0;
  async run(model: Model, rig: NodeRig): Promise<void> {
    const id = pick(model, this.#index);
    await rig.node.setSandboxTimeout(model.sandboxes.get(id)!.team, id, 0);
    model.sandboxes.delete(id);
    await until('it ended', () => rig.rows.get(id) === undefined);
    await agree(model, rig);
  }
  toString = (): string => `timeout 0 (${this.#index})`;
}

class Crash implements Step {
  check = (): boolean => true;
  async run(model: Model, rig: NodeRig): Promise<void> {
    await rig.crash();
    await agree(model, rig);
  }
  toString = (): string => 'crash';
}

test('whatever the order of verbs, faults and crashes: rows, host and owners agree, and nothing leaks', async () => {
  const index = fc.nat({ max: 20 });
  const fault = fc.option(fc.constantFrom('clone', 'attach', 'channel'), { nil: undefined, freq: 4 });
  const steps = [
    fc.tuple(fc.constantFrom(...TEAMS), fc.boolean(), fault).map((args) => new Create(...args)),
    fc.tuple(fc.constantFrom(...TEAMS), fc.boolean(), fault).map((args) => new Create(...args)),
    index.map((at) => new Kill(at)),
    index.map((at) => new Die(at)),
    index.map((at) => new End(at)),
    fc.constant(new Crash()),
  ];
  await fc.assert(
    fc.asyncProperty(fc.commands(steps, { maxCommands: 30 }), async (commands) => {
      const rig = await startNodeRig({ pool: { least: 1, most: 3 } });
      try {
        await fc.asyncModelRun(() => ({ model: { sandboxes: new Map() }, real: rig }), commands);
        assert.deepEqual((await rig.node.leaks()).details, []);
      } finally {
        await rig.end();
      }
      assert.equal(rig.host.machines.size, 0, 'the end leaves no machine');
      assert.equal(rig.host.attachments.size, 0);
    }),
    { numRuns: 60, interruptAfterTimeLimit: 60_000, markInterruptAsFailure: false },
  );
});
