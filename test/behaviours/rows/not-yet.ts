import assert from 'node:assert/strict';
import { Sandbox } from 'e2b';
import type { Behaviour } from '../support/behaviour.ts';
import { notYet } from '../support/not-yet.ts';

const fork = notYet((sandbox) =>
  sandbox.fork().then((made) => {
    for (const one of made) if (one instanceof Error) throw one;
  }),
);
const metrics = notYet((sandbox) => sandbox.getMetrics());
const network = notYet((sandbox) => sandbox.updateNetwork({ allowInternetAccess: false } as never));

export default [
  {
    name: 'forked, with its processes',
    on: { microvm: fork, jail: fork },
    run: async ({ sandbox: create, atEnd }) => {
      const sandbox = await create();
      await sandbox.files.write('kept', 'kept');
      const [twin] = await sandbox.fork();
      assert.ok(twin instanceof Sandbox);
      atEnd(() => twin.kill());
      assert.equal(await twin.files.read('kept'), 'kept');
    },
  },
  {
    name: 'its use of the host is told',
    on: { microvm: metrics, jail: metrics },
    run: async ({ sandbox: create }) => {
      const sandbox = await create();
      await sandbox.commands.run('true');
      const [first] = await sandbox.getMetrics();
      assert.ok(first && first.memUsed > 0);
    },
  },
  {
    name: 'its network policy is changed while it runs',
    on: { microvm: network, jail: network },
    run: async ({ sandbox: create, world }) => {
      const sandbox = await create();
      await sandbox.updateNetwork({ allowInternetAccess: false } as never);
      await assert.rejects(sandbox.commands.run(`curl -s -m 3 http://${world.address}:8080/`));
    },
  },
] satisfies Behaviour[];
