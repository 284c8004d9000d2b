/** Java on the bridge: JShell's snippets and values, streams, errors, interrupts, environment, reseeding. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import test, { after, before } from 'node:test';
import {
  type Driver,
  driveKernel,
  errorOf,
  HOST_KERNELS,
  results,
  runInterrupted,
  texts,
} from '../helpers/interpreter-python.ts';

/** A runtime without JShell is not enough. */
function lacksJShell(): false | string {
  const { stdout } = spawnSync('/usr/bin/java', ['--list-modules'], { encoding: 'utf8' });
  return stdout?.includes('jdk.jshell') ? false : '/usr/bin/java is not a JDK with jdk.jshell on this host';
}

const options = { skip: lacksJShell() };
const cwd = fs.realpathSync(fs.mkdtempSync(path.join(os.tmpdir(), 'coppice-interpreter-')));
let java: Driver;
before(async () => {
  if (!options.skip) java = await driveKernel(HOST_KERNELS.java!, cwd);
});
after(async () => {
  await java?.stop();
  fs.rmSync(cwd, { recursive: true, force: true });
});

const printed = async (code: string, more: Record<string, unknown> = {}): Promise<string> =>
  results(await java.run(code, more)).at(-1)?.fields.text;

test('keeps state, and gives the value of the last snippet', options, async () => {
  assert.deepEqual(results(await java.run('int x = 5;\nint twice(int n) { return 2 * n; }\nrecord P(int a) {}')), []);
  assert.equal(await printed('twice(x) + new P(1).a()'), '11');
  assert.equal(await printed('var s = "quo\\"ted"; s'), 'quo\\"ted');
  assert.equal(await printed('Stream.of(1, 2).map(i -> i * 2).collect(Collectors.toList())'), '[2, 4]');
});

test('streams of this process and of children, in order', options, async () => {
  const code =
    'System.out.print("é"); System.out.println("a");\nSystem.err.println("e");\nnew ProcessBuilder("echo", "child").inheritIO().start().waitFor();\nSystem.out.print("end");';
  const events = await java.run(code);
  assert.equal(texts(events, 'stdout'), 'éa\nchild\nend');
  assert.equal(texts(events, 'stderr'), 'e\n');
});

test(
  'errors: of compilation with their line, of the code with its class; nothing after them runs',
  options,
  async () => {
    const rejected = errorOf(await java.run('int before = 1;\nint y = nowhere;\nbefore = 2;'))!;
    assert.equal(rejected.name, 'CompilationError');
    assert.match(rejected.value, /cannot find symbol/);
    assert.equal(await printed('before'), '1');
    const thrown = errorOf(await java.run('throw new IllegalStateException("bad");'))!;
    assert.deepEqual([thrown.name, thrown.value], ['IllegalStateException', 'bad']);
    assert.match(errorOf(await java.run('int open = '))!.value, /end of file/);
  },
);

test('an interrupt ends a run, and the state stays', options, async () => {
  await java.run('int kept = 1;');
  for (const code of ['while (true) {}', 'Thread.sleep(60_000);']) {
    const events = await runInterrupted(java, 500, code);
    assert.equal(errorOf(events)!.name, 'Interrupted', code);
  }
  assert.equal(await printed('kept'), '1');
});

test('interrupts at any moment: every run ends, and the next one works', options, async () => {
  for (let round = 0; round < 5; round += 1) {
    const events = await runInterrupted(java, 1 + (round % 7), 'Thread.sleep(60_000);');
    assert.equal(events.at(-1)!.type, 'end_of_execution');
  }
  // One that is on its way may still hit the next run.
  await new Promise((resolve) => setTimeout(resolve, 300));
  assert.equal(await printed('kept'), '1');
});

test('the environment: global set, per run, and back again', options, async () => {
  const read = 'System.getenv("COPPICE_A") + "/" + System.getenv("COPPICE_B")';
  java.send({ op: 'env', set: { COPPICE_A: '1' } });
  assert.equal(await printed(read), '1/null');
  assert.equal(await printed(read, { env_vars: { COPPICE_A: 'é', COPPICE_B: 'b=' } }), 'é/b=');
  assert.equal(await printed(read), '1/null');
});

test('reseeding is taken, and the shared generators go on', options, async () => {
  java.send({ op: 'reseed', id: 'seed', entropy: randomBytes(32).toString('base64') });
  assert.deepEqual(await java.next(), { type: 'ack', id: 'seed' });
  assert.match(await printed('Math.random() + ThreadLocalRandom.current().nextDouble()'), /^[01]\.\d/);
});

test('System.exit ends the context, with its status as error', options, async () => {
  assert.equal(errorOf(await java.run('System.exit(3);'))!.value, '3');
  await assert.rejects(java.next());
});
