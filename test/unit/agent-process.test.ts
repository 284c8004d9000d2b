import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import test, { after, before } from 'node:test';
import type { AgentError, AgentProcess } from '../../src/channel/agent.ts';
import { KIND, type SpawnRequest } from '../../src/channel/protocol.ts';
import { type HostAgent, startHostAgent } from '../helpers/host-agent.ts';

let agent: HostAgent;
before(async () => {
  agent = await startHostAgent();
});
after(() => agent.stop());

interface Ran {
  readonly stdout: string;
  readonly stderr: string;
  readonly pty: string;
  readonly exitCode: number;
  readonly signal: string | undefined;
}

async function outcome(process: AgentProcess): Promise<Ran> {
  const text = ['', '', '', ''];
  let exit: { exitCode: number; signal?: string } | undefined;
  for await (const item of process.output) {
    assert.equal(exit, undefined, 'something came after the exit');
    if (item.type === 'exit') exit = item;
    else text[item.kind] += Buffer.from(item.bytes).toString('latin1');
  }
  assert.ok(exit);
  const [, stdout, stderr, pty] = text as [string, string, string, string];
  return { stdout, stderr, pty, exitCode: exit.exitCode, signal: exit.signal };
}

function sh(script: string, more: Partial<SpawnRequest> = {}): Promise<AgentProcess> {
  return agent.client.spawn({ cmd: '/bin/sh', args: ['-c', script], stdin: false, ...more });
}
const run = async (script: string, more: Partial<SpawnRequest> = {}): Promise<Ran> => outcome(await sh(script, more));
const home = (): string => path.join(agent.root, 'home/user');
const coded = (code: string, words: RegExp) => (error: AgentError) => error.code === code && words.test(error.message);

/** Reads output until `found` is in it. */
async function readUntil(output: AsyncIterator<{ type: string }>, found: string): Promise<string> {
  let text = '';
  while (!text.includes(found)) {
    const { value, done } = await output.next();
    assert.ok(!done && value.type === 'data', `ended before ${found}: ${text}`);
    text += Buffer.from((value as unknown as { bytes: Uint8Array }).bytes).toString();
  }
  return text;
}

test('stdout, stderr and the exit code come apart', async () => {
  const ran = await run('echo out; echo err >&2; exit 7');
  assert.deepEqual(ran, { stdout: 'out\n', stderr: 'err\n', pty: '', exitCode: 7, signal: undefined });
});

for (const [signal, name] of [
  ['KILL', 'killed'],
  ['TERM', 'terminated'],
  ['INT', 'interrupt'],
  ['SEGV', 'segmentation fault'],
] as const) {
  test(`an end by SIG${signal} is exit -1 with Go's name for it`, async () => {
    const ran = await run(`kill -${signal} $$`);
    assert.deepEqual([ran.exitCode, ran.signal], [-1, name]);
  });
}

test('output is complete, byte for byte, for a reader slower than the process', async () => {
  const process = await sh('i=0; while [ $i -lt 40 ]; do head -c 50000 /dev/zero; i=$((i+1)); done');
  let bytes = 0;
  let ended = false;
  for await (const item of process.output) {
    if (item.type === 'exit') ended = true;
    else bytes += item.bytes.length;
    await new Promise(setImmediate);
  }
  assert.equal(bytes, 2_000_000);
  assert.ok(ended);
});

test('the exit does not wait for a grandchild that holds the pipes', async () => {
  const started = performance.now();
  const ran = await run('sleep 5 & echo done');
  assert.equal(ran.stdout, 'done\n');
  assert.ok(performance.now() - started < 3_000);
});

test('stdin is a pipe that closes; without it stdin is empty', async () => {
  const process = await agent.client.spawn({ cmd: 'cat', args: [], stdin: true });
  await process.writeStdin(Buffer.from('one '));
  await process.writeStdin(Buffer.alloc(500_000, 'x'));
  await process.closeStdin();
  assert.equal((await outcome(process)).stdout.length, 500_004);
  assert.equal((await run('cat; echo end')).stdout, 'end\n');
});

test('a process that closes its stdin early does not break the channel', async () => {
  const process = await sh('exec 0<&-; sleep 0.1; exit 0', { stdin: true });
  for (let n = 0; n < 10; n++) await process.writeStdin(Buffer.alloc(60_000)).catch(() => {});
  assert.equal((await outcome(process)).exitCode, 0);
  await agent.client.ping();
});

test('/dev/stdout and /dev/stderr can be opened again', async () => {
  const ran = await run('echo a > /dev/stdout; echo b > /dev/stderr');
  assert.deepEqual([ran.stdout, ran.stderr, ran.exitCode], ['a\n', 'b\n', 0]);
});

test('the environment is the account, then identity, then the request; the last wins', async () => {
  await agent.client.identity({ generation: 'gen-1', env: { A: 'identity', B: 'identity', USER: 'renamed' } });
  const { stdout } = await run('echo "$A|$B|$C|$USER|$LOGNAME|$HOME|$PATH|$COPPICE_GENERATION"', {
    env: { B: 'request', C: 'request' },
  });
  const usual = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';
  assert.equal(stdout, `identity|request|request|renamed|user|${home()}|${usual}|gen-1\n`);
});

test('cwd is the home unless given, and must be there', async () => {
  assert.equal((await run('pwd')).stdout, `${home()}\n`);
  assert.equal((await run('pwd', { cwd: '/' })).stdout, '/\n');
  assert.equal((await run('pwd', { user: 'root' })).stdout, `${path.join(agent.root, 'root')}\n`);
  await assert.rejects(
    run('pwd', { cwd: '/no/where' }),
    coded('invalid_argument', /^cwd '\/no\/where' does not exist$/),
  );
});

test('an unknown user and an unknown command are refused by name', async () => {
  await assert.rejects(run('true', { user: 'ghost' }), coded('unauthenticated', /^invalid username: 'ghost'$/));
  for (const pty of [undefined, { cols: 80, rows: 24 }])
    await assert.rejects(
      agent.client.spawn({ cmd: 'no-such-command', args: [], stdin: false, ...(pty ? { pty } : {}) }),
      coded('invalid_argument', /no-such-command/),
    );
});

test('processes lists what runs, hides services, and signals reach the whole group', async () => {
  const process = await sh('sleep 50 & echo $!; wait', { tag: 'mine', env: { X: '1' } });
  const service = await sh('sleep 50', { service: true });
  const output = process.output[Symbol.asyncIterator]();
  const grandchild = Number(await readUntil(output, '\n'));
  const listed = await agent.client.processes();
  assert.deepEqual(
    listed.find(({ pid }) => pid === process.pid),
    {
      pid: process.pid,
      cmd: '/bin/sh',
      args: ['-c', 'sleep 50 & echo $!; wait'],
      env: { X: '1' },
      cwd: home(),
      user: 'user',
      tag: 'mine',
      pty: false,
      stdin: false,
      service: false,
    },
  );
  assert.ok(!listed.some(({ pid }) => pid === service.pid));
  assert.ok((await agent.client.processes({ services: true })).some(({ pid }) => pid === service.pid));
  await agent.client.signal(process.pid, 'SIGKILL');
  const { value } = await output.next();
  assert.deepEqual(value, { type: 'exit', exitCode: -1, signal: 'killed' });
  // Gone, or waiting for whoever reaps on this host.
  const state = fs.existsSync(`/proc/${grandchild}/stat`) ? fs.readFileSync(`/proc/${grandchild}/stat`, 'utf8') : ' Z ';
  assert.match(state, / Z /);
  await assert.rejects(agent.client.signal(process.pid, 'SIGTERM'), coded('not_found', /not found/));
  await agent.client.signal(service.pid, 'SIGKILL');
});

test('attach gets output from then on, feeds stdin, and gets the exit also afterwards', async () => {
  const first = await sh('read line; echo "got $line"; exit 4', { stdin: true, tag: 'later' });
  first.detach();
  const second = await agent.client.attach({ tag: 'later' });
  assert.equal(second.pid, first.pid);
  assert.equal(second.info?.tag, 'later');
  await second.writeStdin(Buffer.from('hello\n'));
  const ran = await outcome(second);
  assert.deepEqual([ran.stdout, ran.exitCode], ['got hello\n', 4]);
  const third = await outcome(await agent.client.attach({ pid: first.pid }));
  assert.deepEqual([third.stdout, third.exitCode], ['', 4]);
  await assert.rejects(agent.client.attach({ tag: 'nobody' }), coded('not_found', /nobody/));
});

test('two who are attached both get everything; nobody attached never blocks the process', async () => {
  const process = await sh('read go; head -c 300000 /dev/zero', { stdin: true });
  const other = await agent.client.attach({ pid: process.pid });
  await other.writeStdin(Buffer.from('\n'));
  const [one, two] = await Promise.all([outcome(process), outcome(other)]);
  assert.deepEqual([one.stdout.length, two.stdout.length], [300_000, 300_000]);
  const alone = await sh('head -c 3000000 /dev/zero; echo x > finished', { cwd: home() });
  alone.detach();
  const deadline = performance.now() + 10_000;
  while (!fs.existsSync(path.join(home(), 'finished'))) {
    assert.ok(performance.now() < deadline, 'the process was blocked');
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
});

test('processes outlive the session', async () => {
  const process = await sh('read line; echo "$line"', { stdin: true });
  await agent.reconnect();
  const again = await agent.client.attach({ pid: process.pid });
  await again.writeStdin(Buffer.from('still here\n'));
  assert.equal((await outcome(again)).stdout, 'still here\n');
});

test('a terminal: controlling, sized, resized, and Ctrl-C reaches the foreground', async () => {
  const process = await agent.client.spawn({
    cmd: 'bash',
    args: ['--norc', '-i'],
    stdin: true,
    pty: { cols: 91, rows: 33 },
    env: { PS1: 'ready> ' },
  });
  const output = process.output[Symbol.asyncIterator]();
  const type = (text: string): Promise<void> => process.writeStdin(Buffer.from(text));
  const first = await readUntil(output, 'ready> ');
  assert.doesNotMatch(first, /no job control|cannot set terminal/);
  await type('tty; stty size\n');
  assert.match(await readUntil(output, '33 91'), /\/dev\/pts\/\d+/);
  await agent.client.resize(process.pid, 120, 40);
  await type('stty size\n');
  await readUntil(output, '40 120');
  await type("sh -c 'echo sta''rted; exec sleep 60'\n");
  await readUntil(output, 'started');
  await type('\x03');
  await readUntil(output, 'ready> ');
  await type('echo status=$?\n');
  await readUntil(output, 'status=130');
  await type('exit 5\n');
  let last: unknown;
  for (let next = await output.next(); !next.done; next = await output.next()) last = next.value;
  assert.deepEqual(last, { type: 'exit', exitCode: 5 });
  await assert.rejects(agent.client.resize(process.pid, 1, 1), coded('not_found', /not found/));
});

test('a terminal of a process that prints and ends gives all of it', async () => {
  const ran = await run('seq 1 2000', { pty: { cols: 80, rows: 24 } });
  assert.equal(ran.pty.split('\r\n').length, 2_001);
  assert.equal(ran.exitCode, 0);
});

test('resize of a process without a terminal is refused', async () => {
  const process = await sh('sleep 20');
  await assert.rejects(agent.client.resize(process.pid, 1, 1), coded('failed_precondition', /no terminal/));
  await agent.client.signal(process.pid, 'SIGTERM');
  assert.equal((await outcome(process)).signal, 'terminated');
});

test('a hundred processes at once, and no descriptor left behind', async () => {
  const count = (): number => fs.readdirSync(`/proc/${agent.pid}/fd`).length;
  await run('true');
  const before = count();
  const all = await Promise.all(Array.from({ length: 100 }, (_, n) => run(`echo ${n}; exit ${n}`)));
  assert.deepEqual(
    all.map(({ stdout, exitCode }) => [stdout, exitCode]),
    Array.from({ length: 100 }, (_, n) => [`${n}\n`, n]),
  );
  const deadline = performance.now() + 5_000;
  while (count() > before && performance.now() < deadline) await new Promise((resolve) => setTimeout(resolve, 10));
  assert.ok(count() <= before, `${count()} descriptors, ${before} before`);
});

test('the throughput of output, for the record', async (t) => {
  const process = await sh('head -c 100000000 /dev/zero');
  const started = performance.now();
  let bytes = 0;
  for await (const item of process.output)
    if (item.type === 'data' && item.kind === KIND.STDOUT) bytes += item.bytes.length;
  assert.equal(bytes, 100_000_000);
  t.diagnostic(`${Math.round(bytes / 1_000 / (performance.now() - started))} MB/s of output over a unix socket`);
});
