/** Host tools: what they print, how they fail, and that an abort leaves no process behind. */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import test from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { isCoppiceError } from '../../src/contract/errors.ts';
import { shellQuote } from '../../src/templates/rootfs.ts';
import { run } from '../../src/templates/run.ts';

const running = (mark: string) =>
  readdirSync('/proc').filter((pid) => {
    if (!/^\d+$/.test(pid) || Number(pid) === process.pid) return false;
    try {
      return readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes(mark);
    } catch {
      return false;
    }
  });

async function until(what: () => boolean): Promise<void> {
  const deadline = Date.now() + 10_000;
  while (!what()) {
    assert.ok(Date.now() < deadline, 'in time');
    await sleep(20);
  }
}

test('output, input and lines', async () => {
  const lines: string[] = [];
  const result = await run('sh', ['-c', 'cat; echo err >&2'], { input: 'a\nb\n', onLine: (line) => lines.push(line) });
  assert.deepEqual(result, { stdout: 'a\nb\n', stderr: 'err\n' });
  assert.deepEqual(lines.toSorted(), ['a', 'b', 'err']);
});

test('a failure says what the tool said; a missing tool is a matter of the host', async () => {
  await assert.rejects(run('sh', ['-c', 'echo broken >&2; exit 3']), /sh failed with 3: broken/);
  await assert.rejects(run('coppice-no-such-tool', []), (error) => isCoppiceError(error, 'host_unfit'));
});

test('an abort ends the tool and its children', async () => {
  const mark = `397.${process.pid}`;
  const abort = new AbortController();
  const waiting = run('sh', ['-c', `sleep ${mark} & sleep ${mark}`], { signal: abort.signal });
  await until(() => running(mark).length >= 2);
  abort.abort();
  await assert.rejects(waiting, (error) => isCoppiceError(error, 'aborted'));
  await until(() => running(mark).length === 0);
});

test('a time limit ends it too', async () => {
  await assert.rejects(run('sleep', ['30'], { timeoutMs: 50 }), /took longer/);
});

test('endless output does not fill the memory', async () => {
  const { stdout } = await run('sh', ['-c', 'head -c 20000000 /dev/zero | tr "\\0" x; echo end']);
  assert.ok(stdout.length <= 4 * 1024 * 1024);
  assert.ok(stdout.endsWith('end\n'));
});

test('quoted text reaches a shell as it is', async () => {
  const text = `it's "$HOME" \`id\` \\ \n end`;
  assert.equal((await run('sh', ['-c', `printf %s ${shellQuote(text)}`])).stdout, text);
});
