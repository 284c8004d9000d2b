/** JavaScript and TypeScript on the bridge: state, values, streams, errors, interrupts, environment, reseeding. */
import assert from 'node:assert/strict';
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
  lacks,
  results,
  runInterrupted,
  texts,
} from '../helpers/interpreter-python.ts';

const options = { skip: lacks('json') };
const cwd = fs.realpathSync(fs.mkdtempSync(path.join(os.tmpdir(), 'coppice-interpreter-')));
let javascript: Driver;
before(async () => {
  if (!options.skip) javascript = await driveKernel(HOST_KERNELS.javascript!, cwd);
});
after(async () => {
  await javascript?.stop();
  fs.rmSync(cwd, { recursive: true, force: true });
});

async function resultOf(code: string, more: Record<string, unknown> = {}): Promise<string | undefined> {
  const events = await javascript.run(code, more);
  assert.equal(errorOf(events), undefined, JSON.stringify(errorOf(events)));
  return results(events).find((event) => event.main)?.fields.text;
}

/** Runs code and interrupts it, as often as the host would. */
async function interrupted(code: string): Promise<string> {
  const events = await runInterrupted(javascript, 300, code);
  return errorOf(events)?.name ?? 'none';
}

test('keeps state, counts from 1, and gives the value of the last statement', options, async () => {
  const first = await javascript.run('const x = 1; let y = 2; function f() { return x + y }');
  assert.deepEqual(
    first.map(({ type }) => type),
    ['number_of_executions', 'end_of_execution'],
  );
  assert.equal(first[0]!.execution_count, 1);
  assert.equal(await resultOf('f()'), '3');
  assert.equal((await javascript.run('undefined'))[0]!.execution_count, 3);
});

test('declarations may come again: const, let, class, function', options, async () => {
  for (const value of [1, 2]) {
    assert.equal(await resultOf(`const again = ${value}; class A { v = again }; new A().v`), String(value));
  }
});

test('awaits at the top level, and the promise that is the last value', options, async () => {
  assert.equal(await resultOf('const late = await new Promise((r) => setTimeout(r, 5, 7)); late'), '7');
  assert.equal(await resultOf('(async () => { await null; return "of main" })()'), 'of main');
  assert.equal(errorOf(await javascript.run('Promise.reject(new RangeError("r"))'))!.name, 'RangeError');
});

test('values as util.inspect has them; arrays and plain objects as JSON too', options, async () => {
  for (const [code, text] of [
    ['10n', '10n'],
    ['-0', '-0'],
    ['null', 'null'],
    ["'quo\"ted'", 'quo"ted'],
    ['new Map([[1, {}]])', 'Map(1) { 1 => {} }'],
    ['Symbol("s")', 'Symbol(s)'],
  ] as const)
    assert.equal(await resultOf(code), text);
  const [object] = results(await javascript.run('{a: [1, null], b: "é"}'));
  assert.deepEqual(object!.fields.json, { a: [1, null], b: 'é' });
  const [cycle] = results(await javascript.run('var o = {}; o.o = o; o'));
  assert.equal(cycle!.fields.json, undefined);
  assert.equal((await resultOf('"x".repeat(500_000)'))!.length, 500_000);
});

test('imports of every kind, from the directory in which the cell runs', options, async () => {
  fs.writeFileSync(path.join(cwd, 'mine.mjs'), 'export const m = 1; export default "d"');
  fs.writeFileSync(path.join(cwd, 'mine.cjs'), 'module.exports = { c: 2 }');
  const code = "import d, { m } from './mine.mjs'\nimport { readFileSync as r } from 'fs'\n[d, m, typeof r].join()";
  assert.equal(await resultOf(code), 'd,1,function');
  assert.equal(await resultOf("require('./mine.cjs').c + (await import('./mine.mjs')).m"), '3');
  assert.equal(await resultOf('import.meta.dirname + __dirname + process.cwd()'), cwd.repeat(3));
});

test('keeps the order of console, of children and of the two streams', options, async () => {
  const events = await javascript.run(
    [
      'console.log("a"); console.error("b")',
      'require("child_process").execSync("echo c; echo d >&2", { stdio: "inherit" })',
      'process.stdout.write("e\\n"); console.log({ f: 1 })',
    ].join('\n'),
  );
  assert.equal(texts(events, 'stdout'), 'a\nc\ne\n{ f: 1 }\n');
  assert.equal(texts(events, 'stderr'), 'b\nd\n');
  const order = events.filter(({ type }) => type.startsWith('std')).map(({ text }) => text[0]);
  assert.deepEqual([order[0], order[1]], ['a', 'b']);
});

test('streams output while the cell runs, and takes more than a pipe holds', options, async () => {
  javascript.send({
    op: 'execute',
    id: 'slow',
    code: 'console.log("early"); await new Promise((r) => setTimeout(r, 60_000))',
  });
  for (let event = await javascript.next(); event.type !== 'stdout'; event = await javascript.next());
  process.kill(-javascript.pid, 'SIGINT');
  while ((await javascript.next()).type !== 'end_of_execution');
  const large =
    'require("child_process").execSync("head -c 3000000 /dev/zero | tr \\"\\\\0\\" x", { stdio: "inherit" })';
  assert.equal(texts(await javascript.run(large), 'stdout').length, 3_000_000);
});

test('errors: what was thrown, where in the cell, and nothing of this program', options, async () => {
  const error = errorOf(await javascript.run('function f() { throw new TypeError("no") }\n\nf()'))!;
  assert.deepEqual([error.name, error.value], ['TypeError', 'no']);
  assert.match(error.traceback, /^TypeError: no\n {4}at f \(cell-\d+\.js:1:22\)\n {4}at cell-\d+\.js:3:1$/);
  assert.match(errorOf(await javascript.run('\nlet = = 1'))!.traceback, /^SyntaxError: .*\n {4}at cell\S*:2:/);
  assert.equal(errorOf(await javascript.run('throw 5'))!.value, '5');
  const late = 'setTimeout(() => { throw new Error("late") }, 5); await new Promise((r) => setTimeout(r, 60_000))';
  assert.equal(errorOf(await javascript.run(late))!.value, 'late');
});

test('process.exit ends the cell and not the context; standard input is empty', options, async () => {
  await javascript.run('var kept = 7');
  assert.equal(errorOf(await javascript.run('process.exit(3)'))!.value, '3');
  assert.equal(errorOf(await javascript.run('process.exit()')), undefined);
  assert.equal(await resultOf('kept + require("fs").readFileSync(0, "utf8")'), '7');
});

test('display in the middle of a cell, and the bundle of an object of its own', options, async () => {
  const events = await javascript.run(
    'display.html("<b>"); display.png(Buffer.from("abc")); await display({ a: 1 });\n' +
      '({ [Symbol.for("Jupyter.display")]: () => ({ "text/html": "<i>", "application/x+y": 1 }) })',
  );
  assert.deepEqual(
    results(events).map(({ main, fields }) => ({ main, fields })),
    [
      { main: false, fields: { html: '<b>' } },
      { main: false, fields: { png: 'YWJj' } },
      { main: false, fields: { text: '{ a: 1 }', json: { a: 1 } } },
      { main: true, fields: { html: '<i>', extra: { 'application/x+y': 1 } } },
    ],
  );
});

test('an interrupt ends whatever a cell does, and the state stays', options, async () => {
  await javascript.run('var kept = "kept"');
  for (const code of [
    'while (true);',
    'await new Promise(() => {})',
    'await null; while (true);',
    'await new Promise((r) => setTimeout(r, 5)); while (true);',
    'require("child_process").execSync("sleep 60")',
    '({ [Symbol.for("Jupyter.display")]() { while (true); } })',
    'while (true) console.log("x".repeat(1000))',
  ]) {
    assert.equal(await interrupted(code), 'Interrupted', code);
    assert.equal(await resultOf('kept'), 'kept', code);
  }
  for (let count = 0; count < 5; count += 1) process.kill(-javascript.pid, 'SIGINT');
  assert.equal(await resultOf('kept'), 'kept', 'between runs it changes nothing');
});

test('interrupts at any moment: every run ends, and the next one works', options, async () => {
  for (let round = 0; round < 30; round += 1) {
    const events = await runInterrupted(javascript, 1 + (round % 7), 'await new Promise((r) => setTimeout(r, 60_000))');
    assert.equal(events.at(-1)!.type, 'end_of_execution');
  }
  // One that is on its way may still hit the next run.
  await new Promise((resolve) => setTimeout(resolve, 300));
  assert.equal(await resultOf('kept'), 'kept');
});

test('cells that were given up may be collected', options, async () => {
  for (let count = 0; count < 5; count += 1) await interrupted('await new Promise(() => {})');
  const churn = 'for (let i = 0; i < 200; i++) { new Array(100_000).fill(i); if (i % 20 === 0) await null }; "alive"';
  assert.equal(await resultOf(churn), 'alive');
});

test('the environment: global set, per run, and back again', options, async () => {
  const read = async (more = {}): Promise<string | undefined> =>
    resultOf('[process.env.COPPICE_A, process.env.COPPICE_B, process.env.HOME].join()', more);
  javascript.send({ op: 'env', set: { COPPICE_A: '1', HOME: '/nowhere' } });
  assert.equal(await read(), '1,,/nowhere');
  assert.equal(
    await read({ env_vars: { COPPICE_A: 'run', COPPICE_B: 'b\n=' } }),
    'run,b\n=,/nowhere'.replace('\n', '\\n'),
  );
  assert.equal(await read(), '1,,/nowhere');
  javascript.send({ op: 'env', set: {} });
  assert.equal(await read(), `,,${cwd}`);
});

test('reseeding changes what comes next, and names the generation', options, async () => {
  assert.match((await resultOf('Math.random() + require("crypto").randomInt(10) + crypto.randomUUID()'))!, /\d/);
  const entropy = randomBytes(32).toString('base64');
  javascript.send({ op: 'reseed', id: 'seed', entropy, generation: 'g-2' });
  assert.deepEqual(await javascript.next(), { type: 'ack', id: 'seed' });
  const code =
    'const all = Array.from({ length: 10_000 }, Math.random);\n' +
    '[Math.min(...all) >= 0, Math.max(...all) < 1, new Set(all).size, process.env.COPPICE_GENERATION].join()';
  assert.equal(await resultOf(code), 'true,true,10000,g-2');
  javascript.send({ op: 'reseed', id: 'short', entropy: 'AAAA' });
  assert.equal((await javascript.next()).type, 'refused');
});

test('a runtime that dies ends its run with an error, and the program with it', options, async () => {
  const doomed = await driveKernel(HOST_KERNELS.javascript!, cwd);
  const events = await doomed.run('process.kill(process.pid, "SIGKILL")');
  assert.equal(errorOf(events)!.name, 'UnexpectedEndOfExecution');
  assert.equal(events.at(-1)!.type, 'end_of_execution');
  await assert.rejects(doomed.next());
});

test('TypeScript: types, enums, imports, state', options, async (t) => {
  const typescript = await driveKernel(HOST_KERNELS.typescript!, cwd);
  t.after(() => typescript.stop());
  const code = "import path from 'node:path'\ninterface P { x: number }\nconst p: P = { x: 1 }; p.x as number";
  assert.equal(results(await typescript.run(code))[0]!.fields.text, '1');
  assert.equal(results(await typescript.run('enum E { A = 5, B }\nE.B + p.x'))[0]!.fields.text, '7');
  assert.equal(
    results(await typescript.run('const q = <T,>(v: T): T => v; await q(Promise.resolve(path.sep))'))[0]!.fields.text,
    '/',
  );
  assert.equal(errorOf(await typescript.run('const a: = 1'))!.name, 'SyntaxError');
});
