/** Volumes: named folders of a team, by their content API and in sandboxes. */
import assert from 'node:assert/strict';
import type { Row, RowContext } from '../row.ts';

type Made = Awaited<ReturnType<RowContext['sdk']['Volume']['create']>>;

/** One of the row's own, and how its content API is reached. */
async function make({ sdk, sdkOptions, tag, atEnd }: RowContext, name: string) {
  const volume: Made = await sdk.Volume.create(`${name}-${tag}`, sdkOptions);
  atEnd(() => sdk.Volume.destroy(volume.volumeId, sdkOptions));
  return { volume, at: { apiUrl: sdkOptions.apiUrl } };
}

export default [
  {
    method: 'Volume.create',
    proves: 'of a name that the team has not given yet',
    run: async (context) => {
      const { volume } = await make(context, 'created');
      assert.equal(volume.name, `created-${context.tag}`);
      assert.ok(volume.token);
      const again = context.sdk.Volume.create(volume.name, context.sdkOptions);
      await assert.rejects(again, /already exists/);
      await assert.rejects(context.sdk.Volume.create('no name', context.sdkOptions), /name/);
    },
  },
  {
    method: 'Volume.connect',
    proves: 'has its files and its token',
    run: async (context) => {
      const { volume, at } = await make(context, 'connected');
      await volume.writeFile('/kept', 'kept', at);
      const again = await context.sdk.Volume.connect(volume.volumeId, context.sdkOptions);
      assert.deepEqual([again.name, again.token], [volume.name, volume.token]);
      assert.equal(await again.readFile('/kept', at), 'kept');
      const other = new context.sdk.Volume(volume.volumeId, volume.name, 'wrong');
      await assert.rejects(other.readFile('/kept', at), { name: 'AuthenticationError' });
    },
  },
  {
    method: 'Volume.getInfo',
    proves: 'tells its name; of one that is not there, so',
    run: async (context) => {
      const { volume } = await make(context, 'told');
      const { volumeId, name, token } = await context.sdk.Volume.getInfo(volume.volumeId, context.sdkOptions);
      assert.deepEqual(
        { volumeId, name, token },
        { volumeId: volume.volumeId, name: volume.name, token: volume.token },
      );
      const none = context.sdk.Volume.getInfo('00000000-0000-4000-8000-000000000000', context.sdkOptions);
      await assert.rejects(none, /not found/);
    },
  },
  {
    method: 'Volume.list',
    proves: 'those of the team',
    run: async (context) => {
      const { volume } = await make(context, 'listed');
      const found = await context.sdk.Volume.list(context.sdkOptions);
      assert.ok(found.some(({ volumeId, name }) => volumeId === volume.volumeId && name === volume.name));
    },
  },
  {
    method: 'Volume.destroy',
    proves: 'with its files; a second time false; never under a sandbox',
    run: async (context) => {
      const { sdk, sdkOptions } = context;
      const { volume, at } = await make(context, 'destroyed');
      const sandbox = await context.create({ volumeMounts: { '/mnt/shared': volume } });
      await assert.rejects(sdk.Volume.destroy(volume.volumeId, sdkOptions), /is mounted in sandbox/);
      await sandbox.kill();
      assert.equal(await sdk.Volume.destroy(volume.volumeId, sdkOptions), true);
      assert.equal(await sdk.Volume.destroy(volume.volumeId, sdkOptions), false);
      await assert.rejects(volume.list('/', at), { name: 'VolumePathNotFoundError' });
    },
  },
  {
    method: 'volume.list',
    proves: 'a folder, as deep as is asked',
    run: async (context) => {
      const { volume, at } = await make(context, 'list');
      await volume.makeDir('/a/b', { ...at, force: true });
      await volume.writeFile('/a/b/c', 'x', at);
      const paths = async (path: string, depth?: number): Promise<string[]> =>
        (await volume.list(path, { ...at, ...(depth === undefined ? {} : { depth }) })).map((entry) => entry.path);
      assert.deepEqual(await paths('/'), ['/a']);
      assert.deepEqual(await paths('/', 3), ['/a', '/a/b', '/a/b/c']);
      await assert.rejects(volume.list('/none', at), { name: 'VolumePathNotFoundError' });
    },
  },
  {
    method: 'volume.makeDir',
    proves: 'with owner and mode; parents when asked',
    run: async (context) => {
      const { volume, at } = await make(context, 'make-dir');
      const made = await volume.makeDir('/d', { ...at, uid: 7, gid: 8, mode: 0o750 });
      assert.deepEqual([made.type, made.uid, made.gid, made.mode], ['directory', 7, 8, 0o750]);
      await assert.rejects(volume.makeDir('/d', at), /exists/);
      await assert.rejects(volume.makeDir('/x/y', at), { name: 'VolumePathNotFoundError' });
      assert.equal((await volume.makeDir('/x/y', { ...at, force: true })).path, '/x/y');
    },
  },
  {
    method: 'volume.getInfo',
    proves: 'type, size, owner, mode, times',
    run: async (context) => {
      const { volume, at } = await make(context, 'info');
      await volume.writeFile('/f', 'four', at);
      const { type, size, uid, gid, mode, mtime } = await volume.getInfo('/f', at);
      assert.deepEqual([type, size, uid, gid, mode], ['file', 4, 1000, 1000, 0o644]);
      assert.ok(Math.abs(mtime.getTime() - Date.now()) < 60_000);
    },
  },
  {
    method: 'volume.exists',
    proves: 'yes and no',
    run: async (context) => {
      const { volume, at } = await make(context, 'exists');
      await volume.writeFile('/f', '', at);
      assert.deepEqual([await volume.exists('/f', at), await volume.exists('/g', at)], [true, false]);
    },
  },
  {
    method: 'volume.updateMetadata',
    proves: 'what is given changes, the rest stays',
    run: async (context) => {
      const { volume, at } = await make(context, 'metadata');
      await volume.writeFile('/f', 'x', { ...at, uid: 5, gid: 6 });
      const { uid, gid, mode } = await volume.updateMetadata('/f', { uid: 9, mode: 0o600 }, at);
      assert.deepEqual([uid, gid, mode], [9, 6, 0o600]);
    },
  },
  {
    method: 'volume.writeFile',
    proves: 'text, bytes and streams; over what is there, unless that is forbidden',
    run: async (context) => {
      const { volume, at } = await make(context, 'write');
      assert.equal((await volume.writeFile('/f', 'text', at)).size, 4);
      const big = new Uint8Array(3 * 2 ** 20).fill(7);
      await volume.writeFile('/f', big.buffer, at);
      assert.equal((await volume.getInfo('/f', at)).size, big.length);
      await volume.writeFile('/s', new Blob(['a stream']).stream(), at);
      assert.equal(await volume.readFile('/s', at), 'a stream');
      await assert.rejects(volume.writeFile('/f', 'x', { ...at, force: false }), /exists/);
    },
  },
  {
    method: 'volume.readFile',
    proves: 'as text, bytes, blob and stream; what a sandbox wrote there',
    run: async (context) => {
      const { volume, at } = await make(context, 'read');
      await volume.writeFile('/f', 'from outside', at);
      assert.equal(await volume.readFile('/f', at), 'from outside');
      assert.equal(Buffer.from(await volume.readFile('/f', { ...at, format: 'bytes' })).toString(), 'from outside');
      assert.equal(await (await volume.readFile('/f', { ...at, format: 'blob' })).text(), 'from outside');
      const stream = await volume.readFile('/f', { ...at, format: 'stream' });
      assert.equal(await new Response(stream).text(), 'from outside');
      const sandbox = await context.create({ volumeMounts: { '/mnt/shared': volume.name } });
      await sandbox.commands.run('cat /mnt/shared/f > /mnt/shared/copy; echo " and in" >> /mnt/shared/copy');
      assert.equal(await volume.readFile('/copy', at), 'from outside and in\n');
      assert.equal(await sandbox.kill(), true);
    },
  },
  {
    method: 'volume.remove',
    proves: 'a file, a folder with all that is in it',
    run: async (context) => {
      const { volume, at } = await make(context, 'remove');
      await volume.makeDir('/a/b', { ...at, force: true });
      await volume.writeFile('/a/b/c', 'x', at);
      await volume.remove('/a', at);
      assert.deepEqual(await volume.list('/', at), []);
      await assert.rejects(volume.remove('/a', at), { name: 'VolumePathNotFoundError' });
    },
  },
] satisfies Row[];
