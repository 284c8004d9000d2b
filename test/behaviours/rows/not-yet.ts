import assert from 'node:assert/strict';
import type { Behaviour } from '../support/behaviour.ts';
import { notYet } from '../support/not-yet.ts';

const network = notYet((sandbox) => sandbox.updateNetwork({ allowInternetAccess: false } as never));

export default [
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
