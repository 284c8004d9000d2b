/** The Python program alone, over pipes: state, output, errors, environment, interrupts, reseeding. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import test, { after, before } from 'node:test';
import { type Driver, drive, errorOf, lacks, results, texts } from '../helpers/interpreter-python.ts';

const options = { skip: lacks('IPython') };
const cwd = fs.mkdtempSync(path.join(os.tmpdir(), 'coppice-interpreter-'));
let python: Driver;
before(async () => {
  if (!options.skip) python = await drive({ cwd });
});
after(async () => {
  await python?.stop();
  fs.rmSync(cwd, { recursive: true, force: true });
});

test('keeps state, counts runs from 1, and gives the last expression as the main result', options, async () => {
  const first = await python.run('x = 1; x += 1');
  assert.deepEqual(
    first.map((event) => event.type),
    ['number_of_executions', 'end_of_execution'],
  );
  assert.equal(first[0]!.execution_count, 1);
  const second = await python.run('x');
  assert.equal(second[0]!.execution_count, 2);
  assert.deepEqual(results(second), [{ type: 'result', id: second[0]!.id, main: true, fields: { text: '2' } }]);
});

test('keeps the order of print, child output and stderr', options, async () => {
  const events = await python.run(
    ['import os, sys', 'print("a")', 'os.system("echo b")', 'print("c")', 'os.write(1, b"d\\n")', '!echo e'].join('\n'),
  );
  assert.equal(texts(events, 'stdout'), 'a\nb\nc\nd\ne\n');
  const mixed = await python.run('for i in range(3):\n    print(i)\n    print(i, file=sys.stderr)');
  const order = mixed.filter((event) => event.type.startsWith('std')).map((event) => `${event.type} ${event.text}`);
  assert.deepEqual(order, ['stdout 0\n', 'stderr 0\n', 'stdout 1\n', 'stderr 1\n', 'stdout 2\n', 'stderr 2\n']);
});

test('streams output while the cell runs', options, async () => {
  python.send({ op: 'execute', id: 'slow', code: 'import time\nprint("early")\ntime.sleep(60)' });
  const seen = [];
  for (let event = await python.next(); ; event = await python.next()) {
    seen.push(event);
    if (event.type === 'stdout') break;
  }
  assert.equal(seen.at(-1)!.text, 'early\n');
  process.kill(-python.pid, 'SIGINT');
  for (;;) {
    const event = await python.next();
    seen.push(event);
    if (event.type === 'end_of_execution') break;
  }
  assert.equal(errorOf(seen)!.name, 'KeyboardInterrupt');
});

test('an interrupt between runs changes nothing', options, async () => {
  await python.run('kept = "kept"');
  for (let i = 0; i < 5; i += 1) process.kill(-python.pid, 'SIGINT');
  const events = await python.run('kept');
  assert.equal(results(events)[0]!.fields.text, 'kept');
  assert.equal(errorOf(events), undefined);
});

test('large output arrives whole, in bounded pieces', options, async () => {
  const events = await python.run('!head -c 3000000 /dev/zero | tr "\\0" x\nprint("é" * 1_000_000)');
  const text = texts(events, 'stdout');
  assert.equal(text.length, 3_000_000 + 1_000_001);
  assert.ok(events.every((event) => (event.text ?? '').length <= 32_768 * 2 + 65_536));
});

test('a long text field of a result comes in parts', options, async () => {
  const events = await python.run('"x" * 500_000');
  assert.equal(results(events)[0]!.fields.text.length, 500_000);
});

test('tells the first error only, without colours, and ends the run', options, async () => {
  const events = await python.run('print("before")\n1/0');
  const error = errorOf(events)!;
  assert.equal(error.name, 'ZeroDivisionError');
  assert.equal(error.value, 'division by zero');
  assert.match(error.traceback, /----> 2 1\/0/);
  assert.ok(!error.traceback.includes('\u001b'));
  assert.equal(events.at(-1)!.type, 'end_of_execution');
  assert.equal(errorOf(await python.run('def f(:'))!.name, 'SyntaxError');
  assert.equal(errorOf(await python.run('%nosuchmagic'))!.name, 'UsageError');
});

test('input() fails, sys.exit() and exit() do not end the context', options, async () => {
  await python.run('alive = 7');
  assert.equal(errorOf(await python.run('input("name? ")'))!.name, 'StdinNotImplementedError');
  assert.equal(errorOf(await python.run('import sys; sys.exit(3)'))!.name, 'SystemExit');
  assert.equal(errorOf(await python.run('exit()'))!.name, 'SystemExit');
  assert.equal(results(await python.run('alive'))[0]!.fields.text, '7');
  assert.equal(results(await python.run('sys.stdin.read()'))[0]!.fields.text, '');
});

test('magics, shell escapes, indented code and top-level await', options, async () => {
  assert.equal(texts(await python.run('!pwd'), 'stdout'), `${fs.realpathSync(cwd)}\n`);
  assert.deepEqual(results(await python.run('y = !echo hi\ny'))[0]!.fields.json, ['hi']);
  assert.equal(results(await python.run('    z = 5\n    z'))[0]!.fields.text, '5');
  const awaited = await python.run('import asyncio\nawait asyncio.sleep(0.001)\n"done"');
  assert.equal(results(awaited)[0]!.fields.text, 'done');
  assert.equal(texts(await python.run('%%bash\necho from bash'), 'stdout'), 'from bash\n');
});

test('lists and dicts carry JSON beside text; quotes around text go', options, async () => {
  const [list] = results(await python.run('[1, 2.5, None, float("nan"), {"a": (1, 2), 3: True}]'));
  assert.deepEqual(list!.fields.json, [1, 2.5, null, null, { a: [1, 2], 3: true }]);
  assert.ok(list!.fields.text.startsWith('[1, 2.5'));
  const [recursive] = results(await python.run('r = []; r.append(r); r'));
  assert.equal(recursive!.fields.json, undefined);
  assert.equal(results(await python.run('"quoted"'))[0]!.fields.text, 'quoted');
});

test('display() of each kind goes to the field of its MIME type', options, async () => {
  const events = await python.run(
    [
      'from IPython.display import *',
      'display(Markdown("# m"), Latex("$l$"), HTML("<b>"), Javascript("1"), JSON({"a": [1]}))',
      'display(SVG("<svg xmlns=\'http://www.w3.org/2000/svg\'/>"))',
      'display({"application/vnd.x+json": {"k": 1}, "application/pdf": b"%PDF", "image/jpeg": b"jpg"}, raw=True)',
    ].join('\n'),
  );
  const fields = results(events).map((event) => event.fields);
  assert.equal(fields[0].markdown, '# m');
  assert.equal(fields[1].latex, '$l$');
  assert.equal(fields[2].html, '<b>');
  assert.equal(fields[3].javascript, '1');
  assert.deepEqual(fields[4].json, { a: [1] });
  assert.match(fields[5].svg, /^<svg/);
  assert.deepEqual(fields[6], { extra: { 'application/vnd.x+json': { k: 1 } }, pdf: 'JVBERg==', jpeg: 'anBn' });
  assert.ok(results(events).every((event) => event.main === false));
});

test('the environment: global set, per run, and back again', options, async () => {
  const read = async (more = {}): Promise<string> =>
    results(
      await python.run(
        '[os.environ.get("COPPICE_A"), os.environ.get("COPPICE_B"), os.environ.get("HOME") is not None]',
        more,
      ),
    )
      .map((event) => JSON.stringify(event.fields.json))
      .join();
  await python.run('import os');
  python.send({ op: 'env', set: { COPPICE_A: '1', HOME: '/nowhere' } });
  assert.equal(await read(), '["1",null,true]');
  assert.equal(await read({ env_vars: { COPPICE_A: 'run', COPPICE_B: 'b' } }), '["run","b",true]');
  assert.equal(await read(), '["1",null,true]');
  python.send({ op: 'env', set: {} });
  assert.equal(await read(), '[null,null,true]');
  assert.equal(results(await python.run('os.environ["HOME"]'))[0]!.fields.text, cwd);
});

test('a run without a trace leaves nothing', options, async () => {
  const before = await python.run('sorted(k for k in globals() if not k.startswith("_"))');
  const hidden = await python.run('leak = 5\nprint(leak)\nleak', { trace: false });
  assert.equal(results(hidden)[0]!.fields.text, '5');
  const later = await python.run('sorted(k for k in globals() if not k.startswith("_"))');
  assert.deepEqual(results(later)[0]!.fields.json, results(before)[0]!.fields.json);
  assert.equal(later[0]!.execution_count, before[0]!.execution_count + 1);
});

test('reseeding makes the generators of two equal states differ', options, async () => {
  const entropy = randomBytes(32).toString('base64');
  const seeded = 'import random, tempfile; random.seed(1); s = random.random(); random.seed(1)';
  const fixed = results(await python.run(`${seeded}; s`))[0]!.fields.text;
  python.send({ op: 'reseed', id: 'seed', entropy });
  const ack = await python.next();
  assert.deepEqual(ack, { type: 'ack', id: 'seed' });
  assert.notEqual(results(await python.run('random.random()'))[0]!.fields.text, fixed);
});

test('a child that user code forks prints and ends; it does not serve requests', options, async () => {
  const events = await python.run(
    'pid = os.fork()\nif pid: os.waitpid(pid, 0)\nprint("parent" if pid else "child", flush=True)',
  );
  assert.equal(texts(events, 'stdout'), 'child\nparent\n');
  assert.equal(events.filter((event) => event.type === 'end_of_execution').length, 1);
  const pool =
    'import multiprocessing as mp\nwith mp.get_context("fork").Pool(2) as pool: print(pool.map(abs, [-1, -2]))';
  assert.equal(texts(await python.run(pool), 'stdout'), '[1, 2]\n');
});

test('no thread is left between runs, and none is visible during one', options, async (t) => {
  const fresh = await drive({ cwd });
  t.after(() => fresh.stop());
  const events = await fresh.run('import os, threading\nlen(threading.enumerate())');
  assert.equal(results(events)[0]!.fields.text, '1');
  const [during] = results(await fresh.run('len(os.listdir("/proc/self/task"))'));
  // The answer to a ping comes from the idle loop, after the thread of the run before has been told to end.
  fresh.send({ op: 'ping', id: 'p' });
  await fresh.next();
  const deadline = performance.now() + 5_000;
  const threads = (): number => fs.readdirSync(`/proc/${fresh.pid}/task`).length;
  while (threads() !== 1 && performance.now() < deadline) await new Promise((resolve) => setTimeout(resolve, 5));
  assert.equal(threads(), 1);
  assert.equal(during!.fields.text, '2');
});

test('output that comes between runs is dropped, and its writer is not blocked', options, async () => {
  await python.run('import subprocess\nchild = subprocess.Popen("head -c 3000000 /dev/zero", shell=True)');
  const events = await python.run('child.wait()');
  assert.equal(results(events)[0]!.fields.text, '0');
});

test('requests that make no sense are refused, and the program goes on', options, async () => {
  python.raw('this is not json\n[1]\n');
  assert.equal((await python.next()).type, 'refused');
  assert.equal((await python.next()).type, 'refused');
  python.send({ op: 'execute', id: 'bad', code: '1', env_vars: { A: 1 } });
  const refused = await python.next();
  assert.equal(refused.type, 'refused');
  assert.equal(refused.id, 'bad');
  assert.equal(results(await python.run('1+1'))[0]!.fields.text, '2');
});

test('an interrupt during output leaves whole events behind', options, async () => {
  for (let round = 0; round < 5; round += 1) {
    const done = python.run('while True: print("x" * 1000)');
    await new Promise((resolve) => setTimeout(resolve, 60));
    const again = setInterval(() => process.kill(-python.pid, 'SIGINT'), 200);
    process.kill(-python.pid, 'SIGINT');
    const events = await done;
    clearInterval(again);
    assert.equal(errorOf(events)!.name, 'KeyboardInterrupt');
  }
});
