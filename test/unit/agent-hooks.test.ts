/** Hooks of a sandbox's owner: which are run, as what, within which time, and what is told of them. */
import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import test, { after, before, beforeEach } from 'node:test';
import type { AgentError } from '../../src/channel/agent.ts';
import { type HookEvent, type HookRun, MAX_HOOKS } from '../../src/channel/protocol.ts';
import { REPLIES } from '../../src/channel/replies.ts';
import { type HostAgent, startHostAgent } from '../helpers/host-agent.ts';

let agent: HostAgent;
before(async () => {
  agent = await startHostAgent();
});
after(() => agent.stop());

const NOTHING = { ran: [], left: 0 };
const at = (name: string, event: HookEvent = 'after-resume'): string =>
  path.join(agent.root, 'etc/coppice/hooks', `${event}.d`, name);
const note = (): string => path.join(agent.root, 'noted');

function hook(name: string, script: string, mode = 0o755, event?: HookEvent): void {
  const file = at(name, event);
  fs.mkdirSync(path.dirname(file), { recursive: true, mode: 0o755 });
  fs.writeFileSync(file, `#!/bin/sh\n${script}\n`);
  fs.chmodSync(file, mode);
}

const run = (timeoutMs = 30_000, event: HookEvent = 'after-resume') => agent.client.hooks(event, { timeoutMs });
const outcome = ({ ms: _, ...rest }: HookRun) => rest;

beforeEach(() => {
  fs.rmSync(path.join(agent.root, 'etc/coppice'), { recursive: true, force: true });
  fs.rmSync(note(), { force: true });
});

test('no folder and an empty folder are no hooks', async () => {
  assert.deepEqual(await run(), NOTHING);
  fs.mkdirSync(path.dirname(at('x')), { recursive: true });
  assert.deepEqual(await run(), NOTHING);
});

test('hooks run in the order of their names, one after the other, and their exit codes are told', async () => {
  hook('20-second', `echo second >>${note()}; exit 3`);
  hook('10-first.sh', `sleep 0.1; echo first >>${note()}`);
  hook('other', `echo other >>${note()}`, 0o755, 'hand-out');
  const { ran, left } = await run();
  assert.deepEqual(ran.map(outcome), [
    { name: '10-first.sh', exitCode: 0 },
    { name: '20-second', exitCode: 3 },
  ]);
  assert.ok(ran[0]!.ms >= 90 && ran[0]!.ms < 20_000);
  assert.equal(left, 0);
  assert.equal(fs.readFileSync(note(), 'utf8'), 'first\nsecond\n');
});

test("a hook has the sandbox's environment, what happened, and no input or output", async () => {
  await agent.client.identity({
    generation: 'gen-7',
    sandboxID: 'isandbox',
    env: { MINE: 'yes', COPPICE_EVENT: 'no' },
  });
  hook('a', `{ echo "$COPPICE_EVENT|$COPPICE_GENERATION|$COPPICE_SANDBOX_ID|$MINE|$USER"; pwd; cat; } >${note()}`);
  hook('b', 'yes | head -c 1000000');
  const { ran } = await run();
  assert.deepEqual(
    ran.map(({ exitCode }) => exitCode),
    [0, 0],
  );
  assert.equal(fs.readFileSync(note(), 'utf8'), 'after-resume|gen-7|isandbox|yes|root\n/\n');
});

test('what is no hook is passed over', async () => {
  hook('good', 'true');
  hook('not-executable', 'true', 0o644);
  hook('writable-by-all', 'true', 0o757);
  hook('writable-by-group', 'true', 0o775);
  hook('.hidden', 'true');
  hook('backup~', 'true');
  hook('n'.repeat(65), 'true');
  fs.mkdirSync(at('folder'));
  fs.symlinkSync('good', at('link'));
  if (process.getuid!() === 0) {
    hook('of-another', 'true');
    fs.chownSync(at('of-another'), 1_000, 1_000);
  }
  const { ran, left } = await run();
  assert.deepEqual(ran.map(outcome), [{ name: 'good', exitCode: 0 }]);
  assert.equal(left, 0);
});

test('a folder that others can write, or that is a link, has no hooks', async () => {
  hook('good', 'true');
  const folder = path.dirname(at('good'));
  fs.chmodSync(folder, 0o777);
  assert.deepEqual(await run(), NOTHING);
  fs.chmodSync(folder, 0o755);
  fs.renameSync(folder, `${folder}-elsewhere`);
  fs.symlinkSync(`${folder}-elsewhere`, folder);
  assert.deepEqual(await run(), NOTHING);
});

test('the time is for all together: one that takes too long is killed with what it started, later ones have no turn', async () => {
  hook('1-quick', 'true');
  hook('2-slow', `sleep 300 & echo $! >${note()}; wait`);
  hook('3-never', 'true');
  const started = performance.now();
  const { ran, left } = await run(1_500);
  assert.ok(performance.now() - started < 6_000);
  assert.deepEqual(ran.map(outcome), [
    { name: '1-quick', exitCode: 0 },
    { name: '2-slow', exitCode: -1, failure: 'timeout' },
  ]);
  assert.equal(left, 1);
  const child = Number(fs.readFileSync(note(), 'utf8'));
  const gone = (): boolean => {
    try {
      // A zombie is one that nobody has reaped yet.
      return fs.readFileSync(`/proc/${child}/stat`, 'utf8').split(') ')[1]!.startsWith('Z');
    } catch {
      return true;
    }
  };
  for (const deadline = performance.now() + 5_000; !gone(); ) {
    assert.ok(performance.now() < deadline, 'what the hook started lives on');
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
});

test('a hook that a signal ends, and one that cannot be started, do not stop the others', async () => {
  hook('1-killed', 'kill -9 $$');
  hook('2-unknown', 'true');
  fs.writeFileSync(at('2-unknown'), '#!/no/such/program\n');
  hook('3-good', 'true');
  const { ran } = await run();
  assert.deepEqual(ran.map(outcome), [
    { name: '1-killed', exitCode: -1, failure: 'signal' },
    { name: '2-unknown', exitCode: -1, failure: 'start' },
    { name: '3-good', exitCode: 0 },
  ]);
});

test('what a hook leaves behind in the background lives on, and is not waited for', async () => {
  hook('daemon', `sleep 300 & echo $! >${note()}`);
  const started = performance.now();
  const { ran } = await run();
  assert.ok(performance.now() - started < 20_000);
  assert.deepEqual(ran.map(outcome), [{ name: 'daemon', exitCode: 0 }]);
  process.kill(Number(fs.readFileSync(note(), 'utf8')), 'SIGKILL');
});

test('no more than 32 are run', async () => {
  for (let n = 0; n < MAX_HOOKS + 3; n++) hook(`hook-${String(n).padStart(2, '0')}`, 'true');
  const { ran, left } = await run(60_000);
  assert.equal(ran.length, MAX_HOOKS);
  assert.equal(ran.at(-1)!.name, `hook-${MAX_HOOKS - 1}`);
  assert.equal(left, 3);
});

test('a host that leaves is not run for any more', async () => {
  hook('1', `echo 1 >>${note()}; sleep 0.5`);
  hook('2', `echo 2 >>${note()}`);
  const signal = AbortSignal.timeout(250);
  await assert.rejects(agent.client.hooks('after-resume', { timeoutMs: 30_000, signal }));
  await new Promise((resolve) => setTimeout(resolve, 1_000));
  assert.equal(fs.readFileSync(note(), 'utf8'), '1\n');
});

test('unknown events and bounds that are none are refused', async () => {
  const refused = (error: AgentError) => error.code === 'invalid_argument';
  await assert.rejects(run(30_000, '../../tmp' as HookEvent), refused);
  for (const timeoutMs of [0, -1, 0.5, 600_001]) await assert.rejects(run(timeoutMs), refused, String(timeoutMs));
});

test('what a sandbox answers is bounded', () => {
  const good = { name: 'a', exitCode: 0, ms: 1 };
  const holds = (ran: unknown[], left: unknown = 0): boolean => REPLIES.hooks.safeParse({ ran, left }).success;
  assert.ok(holds([good, { ...good, exitCode: -1, failure: 'timeout' }], 7));
  assert.ok(!holds(Array.from({ length: MAX_HOOKS + 1 }, () => good)));
  assert.ok(!holds([{ ...good, name: 'a\u001b[2J' }]));
  assert.ok(!holds([{ ...good, name: 'a'.repeat(65) }]));
  assert.ok(!holds([{ ...good, exitCode: 256 }]));
  assert.ok(!holds([{ ...good, ms: -1 }]));
  assert.ok(!holds([{ ...good, failure: 'other' }]));
  assert.ok(!holds([good], -1));
  assert.ok(!REPLIES.synced.safeParse({ synced: 1 }).success);
});
