import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import type { Socket } from 'node:net';
import test from 'node:test';
import { AgentProcess } from '../../guest/agent/process.ts';
import type { AgentStream } from '../../guest/agent/stream.ts';
import { KIND } from '../../src/channel/protocol.ts';

/** Longer than the grace that output has after the exit. */
const BUSY_MS = 400;

function busy(): void {
  for (const until = performance.now() + BUSY_MS; performance.now() < until; );
}

test('output that was written before the exit comes, however busy the agent is when the process ends', async (t) => {
  // Its end is told to this process in one turn of the event loop with the output of another, whose handler takes long: so
  // long that the process under test has ended too, and is reaped in that turn, before its pipe was looked at.
  const other = spawn('/bin/sh', ['-c', 'echo x'], { stdio: ['ignore', 'pipe', 'ignore'] });
  other.stdout.once('data', busy);
  // Its child keeps the pipe open, so that nothing but time tells that the output is through.
  const script = 'sleep 0.2; sleep 30 & echo $!; echo written before the exit';
  const child = spawn('/bin/sh', ['-c', script], { stdio: ['ignore', 'pipe', 'ignore'] });
  let text = '';
  const ended = Promise.withResolvers<void>();
  const stream = {
    blocked: false,
    data: (_kind: number, bytes: Buffer) => {
      text += bytes.toString();
      return true;
    },
    event: () => {},
    end: () => ended.resolve(),
    consumed: () => {},
  };
  const info = {
    pid: child.pid!,
    cmd: 'sh',
    args: [],
    env: {},
    cwd: '/',
    user: 'me',
    pty: false,
    stdin: false,
    service: false,
  };
  const ends = { outputs: [{ socket: child.stdout as Socket, kind: KIND.STDOUT }] };
  new AgentProcess(info, child, ends, () => {}).attach(stream as unknown as AgentStream);
  // And that turn goes on for longer than the grace.
  child.once('exit', busy);
  // Until the other has ended, and not until the one under test has.
  for (const until = performance.now() + 100; performance.now() < until; );
  await ended.promise;
  const sleeper = Number(/^(\d+)\n/.exec(text)?.[1]);
  if (sleeper > 1) t.after(() => process.kill(sleeper, 'SIGKILL'));
  assert.match(text, /written before the exit/);
});
