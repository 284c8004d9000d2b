/** Forks of a sandbox: generators that user code has seeded go on alike, all others differ; and programs that are at work. */
import assert from 'node:assert/strict';
import { randomBytes, randomUUID } from 'node:crypto';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import test, { after, before } from 'node:test';
import { prestartInterpreter, reseedInterpreters } from '../../src/envd/interpreter/index.ts';
import { silentLog } from '../../src/telemetry/log.ts';
import { type HostAgent, startHostAgent } from '../helpers/host-agent.ts';
import { type Driver, drive, errorOf, KERNELS, lacks, results } from '../helpers/interpreter-python.ts';
import { mainText, openExecution, serveInterpreter, stdoutOf } from '../helpers/interpreter-server.ts';

const options = { skip: lacks('IPython') };
const withNumpy = { skip: lacks('IPython', 'numpy') };
const cwd = fs.mkdtempSync(path.join(os.tmpdir(), 'coppice-seeds-'));
let python: Driver;
before(async () => {
  if (!options.skip) python = await drive({ cwd });
});
after(async () => {
  await python?.stop();
  fs.rmSync(cwd, { recursive: true, force: true });
});

async function value(code: string): Promise<string> {
  const events = await python.run(code);
  assert.equal(errorOf(events), undefined, code);
  return results(events)[0]?.fields.text;
}

async function reseed(more: Record<string, unknown> = { keep_given: true }): Promise<void> {
  const id = randomUUID();
  python.send({ op: 'reseed', id, entropy: randomBytes(32).toString('base64'), ...more });
  assert.deepEqual(await python.next(), { type: 'ack', id });
}

const RANDOM = { draw: 'random.random()', peek: 'import copy; copy.deepcopy(random._inst).random()' };
const NUMPY = {
  draw: 'np.random.random_sample()',
  peek: 'import copy; copy.deepcopy(np.random.mtrand._rand).random_sample()',
};

/** Whether the number that comes after `prepare` is the same with and without a reseed between. */
async function goesOnAlike(
  prepare: string,
  generator: typeof RANDOM,
  more?: Record<string, unknown>,
): Promise<boolean> {
  await python.run(prepare);
  const expected = await value(generator.peek);
  await reseed(more);
  return (await value(generator.draw)) === expected;
}

test('what user code has seeded stays in a fork, and is seeded anew in a clone of a template', options, async () => {
  await python.run('import random');
  assert.equal(await goesOnAlike('', RANDOM), false, 'never seeded');
  assert.equal(await goesOnAlike('random.seed(42)', RANDOM), true, 'seeded');
  assert.equal(await goesOnAlike('', RANDOM), true, 'and still');
  assert.equal(await goesOnAlike('', RANDOM, {}), false, 'a clone of a template');
  assert.equal(await goesOnAlike('', RANDOM), false, 'that seed was not of user code');
  assert.equal(await goesOnAlike('random.seed(a="text", version=2)', RANDOM), true, 'by name');
  assert.equal(await goesOnAlike('random.seed()', RANDOM), false, 'seeded by the kernel');
  assert.equal(await goesOnAlike('from random import seed\nseed(1)', RANDOM), true, 'imported by itself');
});

test('a state that is set again stands as it stood when it was saved', options, async () => {
  await python.run('import random\nrandom.seed()');
  const borrowed = 'saved = random.getstate(); random.seed(0); random.random(); random.setstate(saved)';
  assert.equal(await goesOnAlike(borrowed, RANDOM), false, 'a library that borrowed the generator');
  assert.equal(await goesOnAlike(`random.seed(7); ${borrowed}`, RANDOM), true, 'after a seed of the user');
  await python.run('random.seed()');
  assert.equal(
    await goesOnAlike('random.setstate(random.Random(5).getstate())', RANDOM),
    true,
    'a state from elsewhere',
  );
  const many = 'random.seed()\nfor i in range(100): random.getstate(); random.random()';
  assert.equal(await goesOnAlike(many, RANDOM), false, 'many states saved');
});

test('numpy alike, also where it is imported later than the program starts', withNumpy, async () => {
  await python.run('import numpy as np');
  assert.equal(await goesOnAlike('', NUMPY), false);
  assert.equal(await goesOnAlike('np.random.seed(42)', NUMPY), true);
  assert.equal(await goesOnAlike('', NUMPY, {}), false);
  const borrowed = 'saved = np.random.get_state(); np.random.seed(0); np.random.set_state(saved)';
  assert.equal(await goesOnAlike(borrowed, NUMPY), false);
  assert.equal(await goesOnAlike(`np.random.seed(3); ${borrowed}`, NUMPY), true);
  const legacy = 'np.random.seed(None); saved = np.random.get_state(legacy=False); np.random.seed(0)';
  assert.equal(await goesOnAlike(`${legacy}; np.random.set_state(saved)`, NUMPY), false);
});

test('the functions are what they were: names, help, pickles', withNumpy, async () => {
  assert.equal(await value('import pickle, inspect; pickle.loads(pickle.dumps(random.seed)) is random.seed'), 'True');
  assert.equal(await value('pickle.loads(pickle.dumps(np.random.seed)) is np.random.seed'), 'True');
  assert.equal(await value('str(inspect.signature(random.seed))'), '(a=None, version=2)');
  assert.equal(await value('"Initialize internal state" in random.seed.__doc__'), 'True');
  assert.equal(await value('random.seed(5); a = random.random(); random.seed(5); a == random.random()'), 'True');
  assert.equal(errorOf(await python.run('random.seed([])'))!.name, 'TypeError');
  assert.equal(await value('random.random.__self__ is random._inst'), 'True');
});

test('a generator that cannot be seeded does not keep the others from it, and is told', withNumpy, async () => {
  await python.run('random.seed(); np.random.set_bit_generator(np.random.PCG64(1))');
  const next = await value(RANDOM.peek);
  await reseed();
  assert.notEqual(await value(RANDOM.draw), next, 'given, so it is not touched');
  await python.run('real, np.random.seed = np.random.seed, None');
  const then = await value(RANDOM.peek);
  python.send({ op: 'reseed', id: 'all', entropy: randomBytes(32).toString('base64') });
  assert.equal((await python.next()).type, 'refused');
  assert.notEqual(await value(RANDOM.draw), then);
  await python.run('np.random.seed = real; np.random.set_bit_generator(np.random.MT19937())');
});

test('the generation goes into the environment', options, async () => {
  const generation = randomUUID();
  await reseed({ generation });
  assert.equal(await value('import os; os.environ["COPPICE_GENERATION"]'), generation);
  await reseed({});
  assert.equal(await value('os.environ["COPPICE_GENERATION"]'), generation);
});

test('a program that is at work is late, and is reseeded before it takes the next run', options, async (t) => {
  const agent: HostAgent = await startHostAgent();
  t.after(() => agent.stop());
  const home = `${agent.root}/home/user`;
  const server = await serveInterpreter(() => agent.client, { cwd: home });
  t.after(() => server.stop());
  const kernels = { python: { ...KERNELS.python!, warmArgs: [] } };
  await prestartInterpreter(agent.client, 'python', { log: silentLog, kernels, cwd: home });
  const code =
    'import random, time\nrandom.seed()\nstate = random.getstate()\nprint("on")\ntime.sleep(1.5)\nover = True';
  const running = await openExecution(server.url, { code });
  while ((await running.next()).type !== 'stdout');
  // As after a restore: another session, and the run goes on in the guest.
  await agent.reconnect();
  const entropy = randomBytes(32).toString('base64');
  const generation = randomUUID();
  const wish = { log: silentLog, generation, keepGiven: true, timeoutMs: 50 };
  const started = performance.now();
  assert.deepEqual(await reseedInterpreters(agent.client, entropy, wish), { reseeded: 0, late: 1 });
  assert.ok(performance.now() - started < 1_400);
  await agent.reconnect();
  const next = await server.execute({
    code: 'import os\nprint(over, os.environ["COPPICE_GENERATION"])\nrandom.getstate() == state',
  });
  assert.equal(stdoutOf(next), `True ${generation}\n`);
  assert.equal(mainText(next), 'False');
  const again = { ...wish, timeoutMs: 30_000 };
  assert.deepEqual(await reseedInterpreters(agent.client, entropy, again), { reseeded: 1, late: 0 });
  const aborted = AbortSignal.abort(new Error('nobody waits'));
  await assert.rejects(reseedInterpreters(agent.client, entropy, { ...wish, signal: aborted }), /nobody waits/);
});
