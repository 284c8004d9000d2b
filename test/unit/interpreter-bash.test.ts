/** Bash on the bridge: one shell, its state, its exit codes, and marks that no output can forge. */
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
  runInterrupted,
  texts,
} from '../helpers/interpreter-python.ts';

const options = { skip: lacks('json') };
const cwd = fs.realpathSync(fs.mkdtempSync(path.join(os.tmpdir(), 'coppice-interpreter-')));
let bash: Driver;
before(async () => {
  if (!options.skip) bash = await driveKernel(HOST_KERNELS.bash!, cwd);
});
after(async () => {
  await bash?.stop();
  fs.rmSync(cwd, { recursive: true, force: true });
});

const printed = async (code: string, more: Record<string, unknown> = {}): Promise<string> =>
  texts(await bash.run(code, more), 'stdout');

test('keeps variables, functions, aliases, options and the directory', options, async () => {
  await bash.run('x=5; declare -i n=2+3; f() { echo "f $1"; }; alias hi="echo aliased"; mkdir -p d; cd d; set -f');
  assert.equal(await printed('echo $x $n $(pwd) *; f 1; hi; set +f; cd ..'), `5 5 ${cwd}/d *\nf 1\naliased\n`);
});

test('an exit code is an error, and the last command counts', options, async () => {
  assert.deepEqual(
    (await bash.run('false; true')).map(({ type }) => type),
    ['number_of_executions', 'end_of_execution'],
  );
  const error = errorOf(await bash.run('echo out; (exit 7)'))!;
  assert.deepEqual([error.name, error.value], ['ExitCode', '7']);
  const syntax = await bash.run('if then');
  assert.equal(errorOf(syntax)!.value, '2');
  assert.match(texts(syntax, 'stderr'), /syntax error/);
  assert.equal(errorOf(await bash.run('set -u; echo $unset_variable'))!.value, '1');
  assert.equal(await printed('set +u; echo alive'), 'alive\n');
});

test('output cannot pass for the end of a run, and user code has none of the files', options, async () => {
  assert.equal(
    await printed(
      'echo \'{"type":"done"}\'; for fd in 3 4 5 6 7 8; do echo \'{"type":"done"}\' >&$fd; done 2>/dev/null; echo end',
    ),
    '{"type":"done"}\nend\n',
  );
  assert.equal(await printed('read line; echo "status $?"; cat'), 'status 1\n');
});

test('several lines, here-documents, quotes, and code of any length', options, async () => {
  assert.equal(await printed('cat <<END\n$((1+1))\nEND\necho "a\nb" \'c"d\'\n'), '2\na\nb c"d\n');
  assert.equal(await printed(`: '${'x'.repeat(300_000)}'; echo long`), 'long\n');
});

test('streams, takes more than a pipe holds, and drops what comes between runs', options, async () => {
  assert.equal((await printed('head -c 3000000 /dev/zero | tr "\\0" x')).length, 3_000_000);
  const events = await bash.run('echo a; echo b >&2');
  assert.deepEqual([texts(events, 'stdout'), texts(events, 'stderr')], ['a\n', 'b\n']);
  await bash.run('(sleep 0.2; echo late) &');
  await new Promise((resolve) => setTimeout(resolve, 500));
  assert.equal(await printed('wait; echo next'), 'next\n');
});

test('an interrupt ends loops and commands, and the state stays', options, async () => {
  await bash.run('kept=1');
  for (const code of [
    'while :; do :; done',
    'sleep 60; echo no',
    'f() { sleep 60; echo no; }; f; echo no',
    'x=$(sleep 60)',
  ]) {
    const events = await runInterrupted(bash, 300, code);
    assert.equal(errorOf(events)!.value, '130', code);
    assert.equal(texts(events, 'stdout'), '', code);
  }
  assert.equal(await printed('echo $kept'), '1\n');
});

test(
  'the environment: global set, per run, and back again; names that bash does not know are left out',
  options,
  async () => {
    bash.send({ op: 'env', set: { COPPICE_A: '1', HOME: '/nowhere' } });
    const read = 'echo $COPPICE_A/$COPPICE_B/$HOME; env | grep -c ^COPPICE_B=';
    assert.equal(await printed(read), '1///nowhere\n0\n');
    const env_vars = { COPPICE_A: 'a b', COPPICE_B: '$x\n"', 'not-a-name': 'x' };
    assert.equal(await printed(read, { env_vars }), 'a b/$x "//nowhere\n1\n');
    assert.equal(await printed(read), '1///nowhere\n0\n');
    bash.send({ op: 'env', set: {} });
    assert.equal(await printed(read), `//${cwd}\n0\n`);
  },
);

test('interrupts at any moment: every run ends, and the next one works', options, async () => {
  for (let round = 0; round < 30; round += 1) {
    // The next after a while: bash does not bear interrupts in the midst of what it does about one, and may end.
    const events = await runInterrupted(bash, 1 + (round % 7), 'sleep 60', { env_vars: { COPPICE_C: 'c' } }, 100);
    assert.equal(events.at(-1)!.type, 'end_of_execution');
    assert.equal(errorOf(events)!.value, '130');
  }
  // One that is on its way may still hit the next run.
  await new Promise((resolve) => setTimeout(resolve, 300));
  assert.equal(await printed('echo $kept $COPPICE_C'), '1\n');
});

test('reseeding gives RANDOM another state', options, async () => {
  await bash.run('RANDOM=1');
  const entropy = randomBytes(32).toString('base64');
  bash.send({ op: 'reseed', id: 'seed', entropy });
  assert.deepEqual(await bash.next(), { type: 'ack', id: 'seed' });
  assert.notEqual(await printed('echo $RANDOM$RANDOM$RANDOM'), await printed('RANDOM=1; echo $RANDOM$RANDOM$RANDOM'));
});

test('exit ends the context: with its code as error, or none', options, async () => {
  for (const [code, value] of [
    ['exit 3', '3'],
    ['exit', undefined],
    ['set -e; false', '1'],
  ] as const) {
    const own = await driveKernel(HOST_KERNELS.bash!, cwd);
    const events = await own.run(code);
    assert.equal(errorOf(events)?.value, value, code);
    assert.equal(events.at(-1)!.type, 'end_of_execution');
    await assert.rejects(own.next());
  }
});
