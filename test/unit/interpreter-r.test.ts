/** R on the bridge: printed values, tables, plots, warnings and errors, interrupts, environment, seeds. */
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
  lacksProgram,
  results,
  runInterrupted,
  texts,
} from '../helpers/interpreter-python.ts';

const options = { skip: lacksProgram('/usr/bin/R') };
const cwd = fs.realpathSync(fs.mkdtempSync(path.join(os.tmpdir(), 'coppice-interpreter-')));
let r: Driver;
before(async () => {
  if (!options.skip) r = await driveKernel(HOST_KERNELS.r!, cwd);
});
after(async () => {
  await r?.stop();
  fs.rmSync(cwd, { recursive: true, force: true });
});

const printed = async (code: string, more: Record<string, unknown> = {}): Promise<string> =>
  results(await r.run(code, more)).at(-1)?.fields.text;

test('keeps state; the last visible value is the main result, those before it are displayed', options, async () => {
  assert.deepEqual(results(await r.run('x <- 5; invisible(x)')), []);
  const values = results(await r.run('x + 1\ny <- 2\nc(a = x, b = y)'));
  assert.deepEqual(
    values.map(({ main, fields }) => [main, fields.text]),
    [
      [false, '[1] 6'],
      [true, 'a b \n5 2 '],
    ],
  );
});

test('a data frame is text, table and columns; a list is JSON too', options, async () => {
  const frame =
    'data.frame(n = c(1.5, NA), s = c("é<", NA), d = as.Date(c("2024-01-02", NA)), f = factor(c("u", "v")))';
  const [table] = results(await r.run(frame));
  assert.match(table!.fields.html, /<table>[\s\S]*é&lt;/);
  assert.deepEqual(table!.fields.data, { n: [1.5, null], s: ['é<', null], d: ['2024-01-02', null], f: ['u', 'v'] });
  const [list] = results(await r.run('list(a = 1:2, b = list("q\\n\\"", TRUE), c = NULL)'));
  assert.deepEqual(list!.fields.json, { a: [1, 2], b: ['q\n"', true], c: null });
});

test('a page of plots is a picture, in the order in which it was drawn', options, async () => {
  const pictures = results(await r.run('plot(1:3)\nhist(c(1, 2, 2))\n7'));
  assert.deepEqual(
    pictures.map(({ main, fields }) => [main, Object.keys(fields)]),
    [
      [false, ['png']],
      [false, ['png']],
      [true, ['text']],
    ],
  );
  assert.match(pictures[0]!.fields.png, /^iVBORw0KGgo/);
  const own = await r.run('png("mine.png"); plot(1); invisible(dev.off())');
  assert.deepEqual(results(own), []);
  assert.ok(fs.statSync(path.join(cwd, 'mine.png')).size > 0);
});

test('streams: print, message, warning, children; there is nobody to type', options, async () => {
  const events = await r.run('print("é"); message("m"); warning("w"); system("echo child"); readline("? ")');
  assert.match(texts(events, 'stdout'), /^\[1\] "é"\nchild\n/);
  assert.match(texts(events, 'stderr'), /^m\nWarning message:\nw\n/);
});

test('errors: of the code, of its text, of its own classes', options, async () => {
  const error = errorOf(await r.run('f <- function() g()\ng <- function() stop("deep")\nf()'))!;
  assert.deepEqual([error.name, error.value], ['Error', 'deep']);
  assert.equal(error.traceback, 'Error in g(): deep\n  f()\n  g()\n  stop("deep")');
  assert.match(errorOf(await r.run('1 +'))!.value, /unexpected end of input/);
  const classed = 'stop(structure(class = c("mine", "error", "condition"), list(message = "m", call = NULL)))';
  assert.equal(errorOf(await r.run(classed))!.name, 'mine');
  assert.equal(await printed('tryCatch(stop("q"), error = function(e) "caught")'), '[1] "caught"');
});

test('an interrupt ends a run, and the state stays', options, async () => {
  await r.run('kept <- 1');
  for (const code of ['while (TRUE) {}', 'Sys.sleep(60)']) {
    const events = await runInterrupted(r, 300, code);
    assert.equal(errorOf(events)!.name, 'Interrupted', code);
  }
  for (let count = 0; count < 5; count += 1) process.kill(-r.pid, 'SIGINT');
  assert.equal(await printed('kept'), '[1] 1');
});

test('interrupts at any moment: every run ends, and the next one works', options, async () => {
  for (let round = 0; round < 15; round += 1) {
    const events = await runInterrupted(r, 1 + (round % 7), 'Sys.sleep(60)');
    assert.equal(events.at(-1)!.type, 'end_of_execution');
  }
  // One that is on its way may still hit the next run.
  await new Promise((resolve) => setTimeout(resolve, 300));
  assert.equal(await printed('kept'), '[1] 1');
});

test('the environment: global set, per run, and back again', options, async () => {
  const read = 'cat(Sys.getenv("COPPICE_A"), Sys.getenv("COPPICE_B", NA), "\\n")';
  const said = async (more = {}): Promise<string> => texts(await r.run(read, more), 'stdout');
  r.send({ op: 'env', set: { COPPICE_A: '1' } });
  assert.equal(await said(), '1 NA \n');
  assert.equal(await said({ env_vars: { COPPICE_A: 'é=', COPPICE_B: 'b' } }), 'é= b \n');
  assert.equal(await said(), '1 NA \n');
  r.send({ op: 'env', set: {} });
  assert.equal(await said(), ' NA \n');
});

test('reseeding: seeds that were given may stay', options, async () => {
  const entropy = randomBytes(32).toString('base64');
  const reseed = async (more: Record<string, unknown>): Promise<void> => {
    r.send({ op: 'reseed', id: 'seed', entropy, ...more });
    assert.deepEqual(await r.next(), { type: 'ack', id: 'seed' });
  };
  await r.run('set.seed(1); a <- runif(2); set.seed(1)');
  await reseed({ keep_given: true });
  assert.equal(await printed('runif(2) == a'), '[1] TRUE TRUE');
  await r.run('set.seed(1)');
  await reseed({});
  assert.equal(await printed('runif(2) == a'), '[1] FALSE FALSE');
  await reseed({ keep_given: true });
  assert.match(await printed('runif(1)'), /^\[1\] 0\.\d/);
});

test('quit ends the context, with its status as error', options, async () => {
  const own = await driveKernel(HOST_KERNELS.r!, cwd);
  assert.equal(errorOf(await own.run('quit(status = 3)'))!.value, '3');
  await assert.rejects(own.next());
});
