import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import test from 'node:test';
import { isAlive, parseStat, readProcess, signalProcess, waitGone } from '../../src/isolation/process-table.ts';

test('a command name with spaces and parentheses does not shift the fields', () => {
  const tail = `S 1 ${Array.from({ length: 17 }, (_, index) => index).join(' ')} 98765 1000 25 0`;
  const facts = parseStat(`42 (a) b (c) ${tail}\n`);
  assert.equal(facts?.pid, 42);
  assert.equal(facts?.state, 'S');
  assert.equal(facts?.startTime, '98765');
  assert.equal(facts?.residentBytes, 25 * 4096);
  for (const text of ['', '42', '42 (x', '42 (x) S 1 2', 'x (y) S']) assert.equal(parseStat(text), undefined);
});

test('another start time is another process', () => {
  const me = readProcess(process.pid)!;
  assert.equal(isAlive(me), true);
  assert.equal(isAlive({ ...me, startTime: '1' }), false);
  assert.equal(signalProcess({ ...me, startTime: '1' }, 'SIGKILL'), false);
  assert.equal(readProcess(-1), undefined);
});

test('a process that was killed is gone, and one that lives is waited for no longer than asked', async () => {
  const child = spawn('sleep', ['60'], { stdio: 'ignore' });
  const identity = readProcess(child.pid!)!;
  assert.equal(await waitGone(identity, 30), false);
  assert.equal(signalProcess(identity, 'SIGKILL'), true);
  assert.equal(await waitGone(identity, 5_000), true);
  if (child.exitCode === null && child.signalCode === null) await once(child, 'exit');
});
