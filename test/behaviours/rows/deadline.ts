import assert from 'node:assert/strict';
import { until } from '../../helpers/until.ts';
import type { Behaviour } from '../support/behaviour.ts';

export default [
  {
    name: 'it ends within a second of its deadline, with what ran in it',
    on: 'every kind',
    alone: true,
    run: async ({ sandbox: create }) => {
      const sandbox = await create({ timeoutMs: 3_000 });
      const running = assert.rejects(sandbox.commands.run('sleep 1000', { timeoutMs: 0 }));
      const { endAt } = await sandbox.getInfo();
      await until('it is gone', async () => !(await sandbox.isRunning()), 30_000);
      const late = Date.now() - endAt.getTime();
      assert.ok(late >= 0 && late < 1_000, `${late} ms after its deadline`);
      await running;
    },
  },
] satisfies Behaviour[];
