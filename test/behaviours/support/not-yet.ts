/** A verb that a kind does not have yet. */
import assert from 'node:assert/strict';
import type { Sandbox } from 'e2b';
import type { BehaviourContext, Unsupported } from './behaviour.ts';

/** 501 in E2B's shape, and the sandbox goes on. */
export function notYet(verb: (sandbox: Sandbox, context: BehaviourContext) => Promise<unknown>): Unsupported {
  return {
    reason: 'not there yet',
    refused: async (context) => {
      const sandbox = await context.sandbox();
      await assert.rejects(verb(sandbox, context), (error: Error) => /501|not implemented/i.test(error.message));
      assert.equal((await sandbox.commands.run('echo on')).stdout, 'on\n');
    },
  };
}
