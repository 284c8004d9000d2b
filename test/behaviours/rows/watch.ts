import assert from 'node:assert/strict';
import { eventually, say } from '../support/asks.ts';
import type { Behaviour } from '../support/behaviour.ts';

export default [
  {
    name: 'a watched folder tells what happens in it, and below it when asked, until it is stopped',
    on: 'every kind',
    run: async ({ sandbox: create }) => {
      const sandbox = await create();
      await sandbox.files.makeDir('watched/deep');
      const flat: string[] = [];
      const deep: string[] = [];
      const first = await sandbox.files.watchDir('watched', (event) => void flat.push(`${event.type} ${event.name}`));
      const second = await sandbox.files.watchDir('watched', (event) => void deep.push(`${event.type} ${event.name}`), {
        recursive: true,
      });
      const told = (seen: string[], what: string) =>
        eventually(
          `${what} is told`,
          async () => seen,
          (events) => events.includes(what),
        );
      await sandbox.files.write('watched/new.txt', 'x');
      await told(flat, 'create new.txt');
      await told(flat, 'write new.txt');
      await say(sandbox, 'cd watched && mv new.txt moved.txt && chmod 600 moved.txt && rm moved.txt && touch deep/er');
      await told(flat, 'rename new.txt');
      await told(flat, 'chmod moved.txt');
      await told(flat, 'remove moved.txt');
      await told(deep, 'create deep/er');
      assert.ok(!flat.some((event) => event.includes('er')), 'not below unless asked');
      await first.stop();
      const before = flat.length;
      await sandbox.files.write('watched/later.txt', 'x');
      await told(deep, 'create later.txt');
      assert.equal(flat.length, before);
      await second.stop();
      await assert.rejects(
        sandbox.files.watchDir('no/such', () => {}),
        /no\/such|not found|does not exist/i,
      );
    },
  },
] satisfies Behaviour[];
