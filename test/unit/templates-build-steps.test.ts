/** Build steps mean what E2B's SDKs mean by them, and are planned without a builder. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import { Template } from 'e2b';
import fc from 'fast-check';
import { isCoppiceError } from '../../src/contract/errors.ts';
import { expandVariables } from '../../src/templates/build-expand.ts';
import {
  type BuildAction,
  baseKey,
  planFinish,
  planStep,
  planSteps,
  startContext,
  stepFailure,
  stepKey,
} from '../../src/templates/build-plan.ts';
import { parseBuildRequest } from '../../src/templates/build-request.ts';
import { type BuildStep, parseBuildSteps, stepOf } from '../../src/templates/build-steps.ts';
import { DEFAULT_PATH } from '../../src/templates/guest-root.ts';

const HASH = 'a'.repeat(64);
const FACTS = { shell: '/bin/bash', sudo: true } as const;
const START = startContext({ PATH: '/opt/bin', LANG: 'C' });
const plan = (steps: unknown[]) => planSteps(parseBuildSteps(steps), START, FACTS);
const step = (type: string, ...args: string[]) => ({ type, args, ...(type === 'COPY' ? { filesHash: HASH } : {}) });
const last = (steps: unknown[]) => plan(steps).at(-1)!;

/** `%` for a dollar: placeholders in plain text look like a mistake. */
const dollars = (text: string): string => text.replaceAll('%', '$');

/** Of our scripts: which, and what it is given after the busybox. */
function scriptOf(action: BuildAction | undefined): [string, ...string[]] {
  assert.ok(action?.kind === 'command');
  const [, , , name, , ...args] = action.command.args;
  assert.equal(action.command.user, 'root');
  return [name!.replace('coppice-', ''), ...args];
}

test('what the SDK sends is read, whatever else it sends along', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'coppice-steps-'));
  try {
    writeFileSync(join(folder, 'app.py'), 'print()');
    const template = Template({ fileContextPath: folder })
      .fromImage('python:3', { username: 'ann', password: 'secret' })
      .copy('app.py', '/app/', { user: 'root', mode: 0o755 })
      .copy('*.py', 'src')
      .runCmd(['echo a', 'echo b'], { user: 'root' })
      .skipCache()
      .runCmd('whoami')
      .setWorkdir('/app')
      .setUser('node')
      .setEnvs({ A: '1', B: '$A' })
      .setStartCmd('python app.py', 'curl localhost');
    const sent = JSON.parse(await Template.toJSON(template)) as unknown;
    const { base, steps, force, startCmd, readyCmd } = parseBuildRequest(sent);
    assert.deepEqual(base, {
      kind: 'image',
      reference: { registry: 'docker.io', repository: 'library/python', tag: '3' },
      credentials: { username: 'ann', password: 'secret' },
    });
    const hashes = (steps as readonly { filesHash?: string }[]).flatMap(({ filesHash }) => filesHash ?? []);
    assert.equal(new Set(hashes).size, 2);
    assert.deepEqual(
      steps.map((one) => ({ ...one, ...('filesHash' in one ? { filesHash: HASH } : {}) })),
      [
        {
          name: '1',
          force: false,
          kind: 'copy',
          source: 'app.py',
          target: '/app/',
          owner: 'root',
          mode: '0755',
          filesHash: HASH,
        },
        { name: '2', force: false, kind: 'copy', source: '.', target: 'src', filesHash: HASH },
        { name: '3', force: false, kind: 'run', command: 'echo a && echo b', user: 'root' },
        { name: '4', force: true, kind: 'run', command: 'whoami' },
        { name: '5', force: true, kind: 'workdir', path: '/app' },
        { name: '6', force: true, kind: 'user', user: 'node' },
        {
          name: '7',
          force: true,
          kind: 'env',
          pairs: [
            ['A', '1'],
            ['B', '$A'],
          ],
        },
      ],
    );
    assert.deepEqual([force, startCmd, readyCmd], [false, 'python app.py', 'curl localhost']);
    const dockerfile = Template().fromDockerfile('FROM debian:12\nENV A=b\nRUN id\nWORKDIR /x\nCMD ["run", "it"]');
    const parsed = parseBuildRequest(JSON.parse(await Template.toJSON(dockerfile)));
    assert.deepEqual(
      parsed.steps.map(({ kind }) => kind),
      ['user', 'workdir', 'env', 'run', 'workdir', 'user'],
    );
    assert.equal(parsed.startCmd, 'run it');
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test('the base: an image, a template, and what E2B calls its own', () => {
  assert.deepEqual(parseBuildRequest({ fromTemplate: 'base:v1' }).base, { kind: 'template', name: 'base:v1' });
  assert.deepEqual(parseBuildRequest({ fromImage: 'e2bdev/base', fromTemplate: '' }).base, {
    kind: 'template',
    name: 'base',
  });
  assert.deepEqual(parseBuildRequest({ fromImage: 'e2bdev/code-interpreter:latest' }).base, {
    kind: 'template',
    name: 'code-interpreter-v1',
  });
  const bad = [
    null,
    [],
    {},
    { fromImage: 'a', fromTemplate: 'b' },
    { fromImage: 'NO' },
    { fromImage: 'a', steps: {} },
    { fromImage: 'a', fromImageRegistry: {} },
    { fromImage: 'a', startCmd: 1 },
  ];
  for (const input of bad)
    assert.throws(
      () => parseBuildRequest(input),
      (error) => isCoppiceError(error, 'bad_request') && stepOf(error) === 'base',
      JSON.stringify(input),
    );
  const aws = {
    fromImage: 'a',
    fromImageRegistry: { type: 'aws', awsAccessKeyId: 'k', awsSecretAccessKey: 's', awsRegion: 'r' },
  };
  assert.throws(
    () => parseBuildRequest(aws),
    (error) => isCoppiceError(error, 'not_implemented') && stepOf(error) === 'base',
  );
});

test('a step that is none is refused by its name', () => {
  const good = step('RUN', 'true');
  const cases: [unknown, RegExp][] = [
    [null, /malformed/],
    [{ args: ['x'] }, /malformed at 'type'/],
    [{ type: 'RUN', args: [1] }, /malformed at 'args.0'/],
    [{ type: 'RUN', args: ['a\0b'] }, /zero byte/],
    [{ type: 'RUN', args: ['x'.repeat(200_000)] }, /malformed/],
    [step('EXPOSE', '80'), /'EXPOSE' is not supported/],
    [step('RUN'), /RUN requires command argument/],
    [step('RUN', 'x', 'no one'), /invalid username: 'no one'/],
    [step('RUN', 'x', '-rf'), /invalid username/],
    [step('COPY', 'a'), /COPY requires a local path/],
    [{ type: 'COPY', args: ['a', 'b'] }, /files hash/],
    [{ type: 'COPY', args: ['a', 'b'], filesHash: '../../etc/passwd' }, /files hash/],
    [step('COPY', '../a', 'b'), /below the folder of the build/],
    [step('COPY', 'a/../../b', 'b'), /below the folder/],
    [step('COPY', '/a', 'b'), /below the folder/],
    [step('COPY', '/*.txt', 'b'), /below the folder/],
    [step('COPY', 'a', 'b', '-R'), /cannot give files to/],
    [step('COPY', 'a', 'b', 'a:b:c'), /cannot give files to/],
    [step('COPY', 'a', 'b', '', '0999'), /mode '0999'/],
    [step('COPY', 'a', 'b', '', 'u+s'), /mode/],
    [step('WORKDIR'), /WORKDIR requires/],
    [step('USER', ''), /USER requires/],
    [step('USER', 'a:b'), /invalid username/],
    [step('USER', '$(id)'), /invalid username/],
    [step('ENV'), /no arguments/],
    [step('ENV', 'A'), /both a key and value/],
    [step('ENV', 'A=B', 'x'), /cannot set/],
    [step('ENV', '', 'x'), /cannot set/],
  ];
  for (const [bad, message] of cases) {
    assert.throws(
      () => parseBuildSteps([good, bad]),
      (error: Error) => isCoppiceError(error, 'bad_request') && stepOf(error) === '2' && message.test(error.message),
      JSON.stringify(bad).slice(0, 100),
    );
  }
  assert.throws(
    () => parseBuildSteps(Array.from({ length: 1_001 }, () => good)),
    (error) => stepOf(error) === 'base',
  );
  assert.deepEqual(parseBuildSteps(undefined), []);
});

test('whatever is sent, it is steps or a refusal', () => {
  const sent = fc.array(
    fc.record(
      {
        type: fc.constantFrom('COPY', 'RUN', 'WORKDIR', 'USER', 'ENV', 'copy', 'X'),
        args: fc.array(fc.string({ maxLength: 12 }), { maxLength: 5 }),
        filesHash: fc.constantFrom(HASH, 'x', null),
        force: fc.constantFrom(true, false, null),
      },
      { requiredKeys: ['type'] },
    ),
    { maxLength: 4 },
  );
  fc.assert(
    fc.property(sent, (input) => {
      try {
        for (const { after, actions } of plan(input)) {
          assert.ok(after.workdir.startsWith('/'));
          for (const action of actions)
            if (action.kind === 'command') for (const one of action.command.args) assert.equal(typeof one, 'string');
        }
      } catch (error) {
        assert.ok(isCoppiceError(error, 'bad_request'), String(error));
        assert.match(stepOf(error)!, /^[1-4]$/);
      }
    }),
    { numRuns: 500 },
  );
});

test('what holds is carried on: user, folder, environment', () => {
  const planned = plan([
    step('RUN', 'a'),
    step('USER', 'root'),
    step('WORKDIR', '/srv'),
    step('WORKDIR', 'app/../www'),
    step('ENV', 'DIR', '/data', 'SUB', '$DIR/sub', 'PATH', '/x:$PATH'),
    step('WORKDIR', dollars('%{SUB}/%{NOT:-deep}')),
    step('RUN', 'b', 'other'),
    step('RUN', 'c'),
  ]);
  const ran = planned.flatMap(({ actions }) =>
    actions.flatMap((action) => (action.kind === 'command' && action.told ? action.command : [])),
  );
  assert.deepEqual(ran, [
    {
      cmd: '/bin/bash',
      args: ['-l', '-c', 'a'],
      user: 'user',
      cwd: '/home/user',
      env: { PATH: `/opt/bin:${DEFAULT_PATH}`, LANG: 'C' },
    },
    ...['b', 'c'].map((command) => ({
      cmd: '/bin/bash',
      args: ['-l', '-c', command],
      user: command === 'b' ? 'other' : 'root',
      cwd: '/data/sub/deep',
      env: { LANG: 'C', DIR: '/data', SUB: '/data/sub', PATH: `/x:/opt/bin:${DEFAULT_PATH}` },
    })),
  ]);
  assert.deepEqual(
    planned.map(({ after }) => after.workdir),
    ['/home/user', '/home/user', '/srv', '/srv/www', '/srv/www', '/data/sub/deep', '/data/sub/deep', '/data/sub/deep'],
  );
  assert.deepEqual(scriptOf(planned[3]!.actions[0]), ['workdir', '/srv/www', 'root:']);
  assert.deepEqual(scriptOf(planned[1]!.actions[0]), ['user', 'root']);
  // A login shell's profile sets a PATH of its own.
  assert.deepEqual(scriptOf(planned[4]!.actions[0]), [
    'path',
    '/etc/profile.d/coppice-path.sh',
    "PATH='/x:/opt/bin'\nexport PATH\n",
  ]);
  assert.deepEqual(last([step('ENV', 'A', 'b')]).actions, []);
});

test('files go where they are said to go', () => {
  const archive = `/.coppice-build/${HASH}.tar`;
  const copy = (...args: string[]) => {
    const [upload, command] = last([
      step('ENV', 'D', 'data'),
      step('WORKDIR', '/w'),
      { ...step('COPY', ...args) },
    ]).actions;
    assert.deepEqual(upload, { kind: 'upload', filesHash: HASH, path: archive });
    return scriptOf(command).slice(2);
  };
  assert.deepEqual(copy('a.txt', '/x/b.txt'), ['a.txt', '/x/b.txt', '', 'user:', '']);
  assert.deepEqual(copy('./a/', 'x/'), ['a', '/w/x', 'folder', 'user:', '']);
  assert.deepEqual(copy('.', '.'), ['.', '/w', 'folder', 'user:', '']);
  assert.deepEqual(copy('src/**/*.ts', '$D', 'node:staff', '0640'), ['src', '/w/data', '', 'node:staff', '0640']);
  assert.deepEqual(copy('a/../b(1).txt', '..'), ['b(1).txt', '/', 'folder', 'user:', '']);
  for (const [source, base] of [
    ['*.txt', '.'],
    ['a{b,c}/x', '.'],
    ['a/b?', 'a'],
    ['a/+(x)', 'a'],
    ['a/[x]/b', 'a'],
  ] as const)
    assert.equal(copy(source, '/t')[0], base, source);
});

test('an image without a shell can be copied into, and runs no commands', () => {
  const facts = { sudo: false };
  const steps = parseBuildSteps([step('COPY', 'a', '/a'), step('WORKDIR', '/x'), step('RUN', 'id')]);
  assert.equal(planSteps(steps.slice(0, 2), START, facts).length, 2);
  assert.throws(
    () => planSteps(steps, START, facts),
    (error) => stepOf(error) === '3',
  );
  assert.throws(
    () => planFinish({ startCmd: 'x' }, START, facts),
    (error) => stepOf(error) === 'finalize',
  );
});

test('what is started, and how it is asked whether it is ready', () => {
  assert.equal(planFinish({}, START, FACTS), undefined);
  const both = planFinish({ startCmd: 'serve', readyCmd: 'curl x' }, START, FACTS)!;
  assert.deepEqual(
    [both.start?.args[2], both.ready.args[2], both.start?.user, both.start?.cwd],
    ['serve', 'curl x', 'user', '/home/user'],
  );
  assert.equal(planFinish({ startCmd: 'serve' }, START, FACTS)!.ready.args[2], 'sleep 20');
  assert.equal(planFinish({ readyCmd: 'true' }, START, FACTS)!.start, undefined);
});

test("failures in E2B's words", () => {
  const [run] = parseBuildSteps([step('RUN', 'whoami', 'root123')]);
  assert.equal(
    stepFailure(run!, "command failed: unauthenticated: invalid username: 'root123'"),
    "failed to run command 'whoami': command failed: unauthenticated: invalid username: 'root123'",
  );
});

test('variables as a shell within double quotes reads them, and never a command', () => {
  const env = new Map([
    ['A', 'one'],
    ['E', ''],
    ['P', '/a b'],
  ]);
  const expand = (text: string) => expandVariables(text, (name) => env.get(name));
  const shell = (text: string) =>
    execFileSync('sh', ['-c', `printf '%s' "${text}"`], { env: Object.fromEntries(env), encoding: 'utf8' });
  const read = '%A %{A} %A%P x%NOPE.y %{NOPE-d} %{E-d} %{E:-d} %{A:+d} %{E:+d} %{E+d} %A-b_ %{A}b a% %{NOPE:-}';
  for (const text of [...dollars(read).split(' '), '$ A', "'$A'"]) assert.equal(expand(text), shell(text), text);
  const left = '%(id) `id` %1 %% %{A:=x} %{A#x} %{!A} \\ %{A:-%{';
  for (const text of dollars(left).split(' ')) assert.equal(expand(text), text);
  assert.equal(expand(dollars('%{A:-%{P}}x')), dollars('%{A:-/a b}x'));
  assert.equal(expand('$(id) `id` $1 \\n'), '$(id) `id` $1 \\n');
  // What a value holds is not read again.
  assert.equal(
    expandVariables('$A', () => '$B $(id)'),
    '$B $(id)',
  );
});

test('a key names what came before and all that a step says, and nothing else', () => {
  const one: fc.Arbitrary<unknown> = fc.oneof(
    fc
      .tuple(fc.string({ minLength: 1, maxLength: 3 }), fc.constantFrom('', 'u'))
      .map(([command, user]) => step('RUN', command.replaceAll('\0', 'x'), user)),
    fc
      .constantFrom('a', 'ab', 'b')
      .chain((source) => fc.constantFrom('a', 'b', 'ab').map((target) => step('COPY', source, target))),
    fc.constantFrom('/a', '/b').map((path) => step('WORKDIR', path)),
    fc.constantFrom('a', 'b').map((user) => step('USER', user)),
    fc.array(fc.constantFrom('A', 'B', 'AB'), { minLength: 2, maxLength: 2 }).map((pair) => step('ENV', ...pair)),
  );
  const keys = (steps: readonly BuildStep[], base: string) => {
    const chain = [base];
    for (const next of steps) chain.push(stepKey(chain.at(-1)!, next));
    return chain;
  };
  const base = baseKey('content', START);
  fc.assert(
    fc.property(fc.array(one, { maxLength: 4 }), fc.array(one, { maxLength: 4 }), (a, b) => {
      const [left, right] = [a, b].map((steps) => parseBuildSteps(steps)) as [BuildStep[], BuildStep[]];
      const same = JSON.stringify(left) === JSON.stringify(right);
      assert.equal(keys(left, base).at(-1) === keys(right, base).at(-1), same);
      const forced = left.map((value) => ({ ...value, force: true, name: '9' }));
      assert.deepEqual(keys(forced, base), keys(left, base));
      // Another result below: every key above is another one.
      const other = keys(left, baseKey('other content', START));
      for (const [at, key] of keys(left, base).entries()) assert.notEqual(key, other[at]);
    }),
  );
  assert.equal(
    baseKey('c', { ...START, env: { A: '1', B: '2' } }),
    baseKey('c', { ...START, env: { B: '2', A: '1' } }),
  );
  const copy = (filesHash: string) =>
    stepKey(base, parseBuildSteps([{ type: 'COPY', args: ['a', 'b'], filesHash }])[0]!);
  assert.notEqual(copy(HASH), copy('b'.repeat(64)));
});

test('a plan depends on its step and what holds, and changes neither', () => {
  const [env] = parseBuildSteps([step('ENV', 'A', '$A/x')]);
  const context = Object.freeze({ ...START, env: Object.freeze({ A: '1' }) });
  assert.deepEqual(planStep(env!, context, FACTS).after.env, { A: '1/x' });
  assert.deepEqual(planStep(env!, context, FACTS), planStep(env!, context, FACTS));
  const proto = last([step('ENV', '__proto__', 'x', 'constructor', 'y')]);
  assert.deepEqual(Object.keys(proto.after.env), ['PATH', 'LANG', '__proto__', 'constructor']);
  assert.equal(last([step('ENV', 'X', '$toString|$constructor')]).after.env.X, '|');
});
