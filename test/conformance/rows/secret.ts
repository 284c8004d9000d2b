/** Secrets: named, versioned, never told. */
import assert from 'node:assert/strict';
import type { Row, RowContext } from '../row.ts';

/** One of the row's own. */
async function make({ sdk, sdkOptions, tag, atEnd }: RowContext, name: string) {
  const made = await sdk.Secret.create(`${name}-${tag}`, 'a value', { ...sdkOptions, metadata: { of: 'this row' } });
  atEnd(() => sdk.Secret.destroy(made.secretId, sdkOptions));
  return made;
}

export default [
  {
    method: 'Secret.create',
    proves: 'its first version, under a name that the team has not given yet',
    run: async (context) => {
      const { name, version, metadata, secretId } = await make(context, 'Created');
      assert.deepEqual([name, version, metadata], [`created-${context.tag}`, 1, { of: 'this row' }]);
      assert.match(secretId, /^sec_/);
      await assert.rejects(context.sdk.Secret.create(name, 'other', context.sdkOptions), /already exists/);
    },
  },
  {
    method: 'Secret.update',
    proves: 'a new version, by name and by id; what is known of it stays',
    run: async (context) => {
      const { sdk, sdkOptions } = context;
      const { name, secretId } = await make(context, 'updated');
      assert.equal((await sdk.Secret.update(name, 'second', sdkOptions)).version, 2);
      const { version, metadata } = await sdk.Secret.update(secretId, 'third', sdkOptions);
      assert.deepEqual([version, metadata], [3, { of: 'this row' }]);
      await assert.rejects(sdk.Secret.update('none', 'x', sdkOptions), { name: 'SecretNotFoundError' });
    },
  },
  {
    method: 'Secret.getInfo',
    proves: 'all but the value',
    run: async (context) => {
      const { sdk, sdkOptions } = context;
      const made = await make(context, 'told');
      const told = await sdk.Secret.getInfo(made.name, sdkOptions);
      assert.deepEqual(told, made);
      assert.doesNotMatch(JSON.stringify(told), /a value/);
    },
  },
  {
    method: 'Secret.exists',
    proves: 'yes and no',
    run: async (context) => {
      const { sdk, sdkOptions } = context;
      const { name } = await make(context, 'exists');
      assert.deepEqual(
        [await sdk.Secret.exists(name, sdkOptions), await sdk.Secret.exists(`not-${name}`, sdkOptions)],
        [true, false],
      );
    },
  },
  {
    method: 'Secret.destroy',
    proves: 'once; then its name is free',
    run: async (context) => {
      const { sdk, sdkOptions } = context;
      const { name } = await make(context, 'destroyed');
      assert.deepEqual(
        [await sdk.Secret.destroy(name, sdkOptions), await sdk.Secret.destroy(name, sdkOptions)],
        [true, false],
      );
      await make(context, 'destroyed');
    },
  },
  {
    method: 'secrets.nextItems',
    proves: 'page by page, newest first',
    run: async (context) => {
      const made = [await make(context, 'first'), await make(context, 'second'), await make(context, 'third')];
      const pages = context.sdk.Secret.list({ ...context.sdkOptions, limit: 1 });
      const found: string[] = [];
      while (pages.hasNext) {
        const page = await pages.nextItems();
        assert.ok(page.length <= 1);
        found.push(...page.map(({ secretId }) => secretId));
      }
      const own = made.map(({ secretId }) => secretId).reverse();
      assert.deepEqual(
        found.filter((id) => own.includes(id)),
        own,
      );
    },
  },
] satisfies Row[];
