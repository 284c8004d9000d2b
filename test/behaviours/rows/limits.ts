import assert from 'node:assert/strict';
import { ask, python, say } from '../support/asks.ts';
import type { Behaviour } from '../support/behaviour.ts';

export default [
  {
    name: 'a full disk is an error to who fills it, and room again when it is emptied',
    on: 'every kind',
    run: async ({ sandbox: create }) => {
      const sandbox = await create();
      const { diskSizeMB } = (await sandbox.getInfo()) as { diskSizeMB?: number };
      const most = diskSizeMB ?? 4096;
      const full = await ask(sandbox, `fallocate -l ${most + 1024}M /home/user/large`);
      assert.notEqual(full.exitCode, 0, 'more than its disk has');
      assert.match(full.stderr, /No space left|quota/i);
      const size = Number(await say(sandbox, 'df -m --output=size / | tail -1'));
      assert.ok(size <= most, `${size} MiB are said to be there, of ${most}`);
      await say(sandbox, 'rm -f large; echo fits > small; cat small');
      await say(sandbox, 'fallocate -l 1024M large && rm large');
    },
  },
  {
    name: 'a program that takes more memory than there is ends alone',
    on: 'every kind',
    run: async ({ sandbox: create }) => {
      const sandbox = await create();
      const { memoryMB } = await sandbox.getInfo();
      await sandbox.files.write('kept', 'kept');
      const bomb = await python(
        sandbox,
        `taken = []\nfor _ in range(${memoryMB} * 2 // 16):\n  taken.append(b'x' * (16 << 20))\nprint('took all')`,
      );
      assert.notEqual(bomb.exitCode, 0);
      assert.equal(bomb.stdout, '');
      assert.equal(await sandbox.files.read('kept'), 'kept');
      assert.equal(await say(sandbox, 'echo alive'), 'alive');
    },
  },
  {
    name: 'a program may have most of the memory that was promised',
    on: 'every kind',
    run: async ({ sandbox: create }) => {
      const sandbox = await create();
      const { memoryMB } = await sandbox.getInfo();
      const most = Math.floor(memoryMB * 0.6);
      const run = await python(sandbox, `taken = b'x' * (${most} << 20)\nprint(len(taken) >> 20)`);
      assert.equal(run.stdout, `${most}\n`, run.stderr);
    },
  },
  {
    name: 'too many tasks are an error to who starts them, and the sandbox goes on',
    on: 'every kind',
    run: async ({ sandbox: create }) => {
      const sandbox = await create();
      // Threads, for they cost least; bounded, so that a kind without a limit harms nobody.
      const run = await python(
        sandbox,
        `import os, threading
threading.stack_size(65536)
stop = threading.Event()
started = 0
try:
    for started in range(20000): threading.Thread(target=stop.wait, daemon=True).start()
    print('no end')
except (RuntimeError, MemoryError): print('refused', started > 100, flush=True)
os._exit(0)`,
      );
      assert.equal(run.stdout, 'refused True\n', run.stderr);
      assert.equal(await say(sandbox, 'echo alive'), 'alive');
    },
  },
] satisfies Behaviour[];
