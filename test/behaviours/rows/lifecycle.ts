import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { NotFoundError, Sandbox, SandboxNotFoundError, TimeoutError } from 'e2b';
import { ISOLATION_KEY } from '../../../src/contract/node-api.ts';
import { until } from '../../helpers/until.ts';
import { ask, say } from '../support/asks.ts';
import type { Behaviour } from '../support/behaviour.ts';
import { KINDS } from '../support/kinds.ts';

export default [
  {
    name: 'created, told about, killed',
    on: 'every kind',
    run: async ({ kind, sandbox: create, service }) => {
      const before = Date.now();
      const sandbox = await create({ metadata: { of: 'this row', 'and more': 'ü & é' }, timeoutMs: 300_000 });
      const info = await sandbox.getInfo();
      assert.equal(info.sandboxId, sandbox.sandboxId);
      assert.equal(info.name, kind.base);
      assert.equal(info.state, 'running');
      assert.deepEqual(info.metadata, { of: 'this row', 'and more': 'ü & é' });
      assert.deepEqual([info.cpuCount, info.memoryMB], [1, 512]);
      assert.match(info.envdVersion, /^\d+\.\d+\.\d+$/);
      assert.ok(info.startedAt.getTime() > before - 5_000 && info.startedAt.getTime() < Date.now() + 5_000);
      const life = info.endAt.getTime() - info.startedAt.getTime();
      assert.ok(Math.abs(life - 300_000) < 5_000, `${life} ms`);
      assert.equal(await sandbox.isRunning(), true);
      assert.equal(await sandbox.kill(), true);
      assert.equal(await sandbox.isRunning(), false);
      assert.equal(await sandbox.kill(), false);
      assert.equal(await Sandbox.kill(sandbox.sandboxId, service.sdk), false);
      await assert.rejects(sandbox.getInfo(), NotFoundError);
      await assert.rejects(Sandbox.connect(sandbox.sandboxId, service.sdk), SandboxNotFoundError);
      // The SDK has two words for it, by the route that says so.
      const gone = (error: unknown): boolean => error instanceof SandboxNotFoundError || error instanceof TimeoutError;
      await assert.rejects(sandbox.commands.run('true'), gone);
      await assert.rejects(sandbox.files.read('/etc/hostname'), gone);
    },
  },
  {
    name: 'the kind asked for in metadata is what runs',
    on: 'every kind',
    run: async ({ kind, service, atEnd }) => {
      const templates = await service.node.listTemplates();
      const own = templates.find((one) => one.aliases.includes(kind.base));
      // Its sibling of the kind asked for is taken, whichever of them is named.
      for (const { base } of KINDS.filter((one) => templates.some(({ aliases }) => aliases.includes(one.base)))) {
        const sandbox = await Sandbox.create(base, { ...service.sdk, metadata: { [ISOLATION_KEY]: kind.name } });
        atEnd(() => sandbox.kill());
        assert.equal((await sandbox.getInfo()).templateId, own?.templateID);
        const boot = await say(sandbox, 'cat /proc/sys/kernel/random/boot_id');
        const same = boot === readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
        assert.equal(same, !kind.ownKernel, 'whose kernel it is');
      }
      const other = { ...service.sdk, metadata: { [ISOLATION_KEY]: 'wish' } };
      await assert.rejects(Sandbox.create(kind.base, other), /must be one of/);
    },
  },
  {
    name: 'listed by metadata, template, state and age, page by page',
    on: 'every kind',
    run: async ({ kind, sandbox, service }) => {
      const of = `list of ${kind.name}`;
      const older = await sandbox({ metadata: { of, n: '1' } });
      const newer = await sandbox({ metadata: { of, n: '2' } });
      const ids = async (query: object, more: object = {}): Promise<string[]> => {
        const found: string[] = [];
        const pages = Sandbox.list({ ...service.sdk, limit: 1, query: { metadata: { of }, ...query }, ...more });
        while (pages.hasNext) {
          const page = await pages.nextItems();
          assert.ok(page.length <= 1, 'the limit is kept');
          found.push(...page.map((one) => one.sandboxId));
        }
        return found;
      };
      assert.deepEqual(await ids({}), [newer.sandboxId, older.sandboxId], 'newest first');
      assert.deepEqual(await ids({}, { order: 'asc' }), [older.sandboxId, newer.sandboxId]);
      assert.deepEqual(await ids({ metadata: { of, n: '1' } }), [older.sandboxId]);
      assert.deepEqual(await ids({ metadata: { of, n: '3' } }), []);
      assert.deepEqual(await ids({ state: ['running'] }), [newer.sandboxId, older.sandboxId]);
      assert.deepEqual(await ids({ state: ['paused'] }), []);
      const { templateId } = await older.getInfo();
      assert.equal((await ids({ template: templateId })).length, 2);
      await newer.kill();
      assert.deepEqual(await ids({}), [older.sandboxId]);
    },
  },
  {
    name: 'a deadline is moved both ways, and connecting never shortens it',
    on: 'every kind',
    run: async ({ sandbox: create, service }) => {
      const sandbox = await create({ timeoutMs: 60_000 });
      const left = async (): Promise<number> => (await sandbox.getInfo()).endAt.getTime() - Date.now();
      const near = async (ms: number): Promise<void> => {
        const is = await left();
        assert.ok(Math.abs(is - ms) < 20_000, `${is} ms left, not ${ms}`);
      };
      await near(60_000);
      await sandbox.setTimeout(600_000);
      await near(600_000);
      await sandbox.setTimeout(120_000);
      await near(120_000);
      const again = await Sandbox.connect(sandbox.sandboxId, { ...service.sdk, timeoutMs: 30_000 });
      await near(120_000);
      await Sandbox.connect(sandbox.sandboxId, { ...service.sdk, timeoutMs: 300_000 });
      await near(300_000);
      assert.equal((await ask(again, 'echo connected')).stdout, 'connected\n');
      await assert.rejects(sandbox.setTimeout(100 * 3_600_000), /hours/);
      await sandbox.setTimeout(0);
      await until('no time left is the end', async () => !(await sandbox.isRunning()), 5_000);
    },
  },
] satisfies Behaviour[];
