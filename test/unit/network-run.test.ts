/** Programs run without a shell, bounded in time and output. */
import assert from 'node:assert/strict';
import test from 'node:test';
import { run, tryRun } from '../../src/network/nftables/run.ts';

test('input goes in, output comes out, and no shell reads the arguments', async () => {
  assert.equal(await run(['cat'], { input: 'a\nb' }), 'a\nb');
  assert.equal(await run(['echo', '$HOME; `id` | x']), '$HOME; `id` | x\n');
});

test('a failure says what the program said', async () => {
  assert.equal((await tryRun(['false'])).code, 1);
  await assert.rejects(run(['ls', '/nonexistent']), { code: 'internal', message: /No such file or directory/ });
});

test('what is not installed is named', async () => {
  await assert.rejects(run(['no-such-program']), { code: 'host_unfit', message: /no-such-program is not installed/ });
});

test('the deadline and the signal end it', async () => {
  await assert.rejects(run(['sleep', '30'], { timeoutMs: 50 }), { message: /took over 50 ms/ });
  const controller = new AbortController();
  const running = run(['sleep', '30'], { signal: controller.signal });
  controller.abort();
  await assert.rejects(running, { code: 'aborted' });
  await assert.rejects(run(['true'], { signal: controller.signal }), { code: 'aborted' });
});

test('what it started ends with it', async () => {
  // The shell's child holds the pipe: the end of the shell alone would not close it.
  const began = performance.now();
  await assert.rejects(run(['sh'], { input: 'sleep 30; true\n', timeoutMs: 100 }), { message: /took over 100 ms/ });
  assert.ok(performance.now() - began < 10_000);
});

test('output has an end', async () => {
  await assert.rejects(run(['cat', '/dev/zero']), { message: /wrote over/ });
});
