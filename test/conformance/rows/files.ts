/** Files and folders of a sandbox, its watches, its signed links. */
import assert from 'node:assert/strict';
import type { Sandbox } from 'e2b';
import { eventually, say } from '../../behaviours/support/asks.ts';
import type { Row } from '../row.ts';

let folders = 0;

/** A folder of the row's own. */
async function folder(sandbox: Sandbox): Promise<string> {
  const path = `/home/user/files-${folders++}`;
  await sandbox.files.makeDir(path);
  return path;
}

const BYTES = Uint8Array.from({ length: 70_000 }, (_, index) => index % 251);

export default [
  {
    method: 'files.write',
    proves: 'text, bytes, a Blob, a stream; folders on the way are made, what was there is replaced',
    run: async ({ sandbox }) => {
      const at = await folder(sandbox);
      const info = await sandbox.files.write(`${at}/deep/er/a.txt`, 'zeile ü\n');
      assert.deepEqual([info.name, info.path], ['a.txt', `${at}/deep/er/a.txt`]);
      await sandbox.files.write(`${at}/b`, BYTES.slice().buffer);
      await sandbox.files.write(`${at}/c`, new Blob(['of a blob']));
      await sandbox.files.write(`${at}/d`, new Blob(['of a stream']).stream());
      await sandbox.files.write(`${at}/d`, 'replaced');
      assert.equal(
        await say(sandbox, `cd ${at}; cat deep/er/a.txt c d; stat -c %s b; stat -c %U d`),
        'zeile ü\nof a blobreplaced70000\nuser',
      );
    },
  },
  {
    method: 'files.write',
    proves: 'several at once; as the user named',
    run: async ({ sandbox }) => {
      const at = await folder(sandbox);
      const written = await sandbox.files.write([
        { path: `${at}/one`, data: '1' },
        { path: `${at}/two`, data: '2' },
      ]);
      assert.deepEqual(
        written.map(({ name }) => name),
        ['one', 'two'],
      );
      await sandbox.files.write('/etc/of-root', 'x', { user: 'root' });
      assert.equal(await say(sandbox, `cat ${at}/one ${at}/two; stat -c %U /etc/of-root`), '12root');
    },
  },
  {
    method: 'files.writeFiles',
    proves: 'several at once, none at all',
    run: async ({ sandbox }) => {
      const at = await folder(sandbox);
      const entries = ['a', 'b', 'c'].map((name) => ({ path: `${at}/${name}`, data: name }));
      assert.equal((await sandbox.files.writeFiles(entries)).length, 3);
      assert.deepEqual(await sandbox.files.writeFiles([]), []);
      assert.equal(await say(sandbox, `cat ${at}/?`), 'abc');
    },
  },
  {
    method: 'files.read',
    proves: 'as text, bytes, a Blob, a stream; what is missing is an error of its own',
    run: async ({ sandbox, sdk }) => {
      const at = await folder(sandbox);
      await sandbox.files.write(`${at}/bytes`, BYTES.slice().buffer);
      await sandbox.files.write(`${at}/text`, 'zeile ü\n');
      assert.equal(await sandbox.files.read(`${at}/text`), 'zeile ü\n');
      assert.deepEqual(await sandbox.files.read(`${at}/bytes`, { format: 'bytes' }), BYTES);
      assert.equal(await (await sandbox.files.read(`${at}/text`, { format: 'blob' })).text(), 'zeile ü\n');
      const stream = await sandbox.files.read(`${at}/bytes`, { format: 'stream' });
      assert.deepEqual(new Uint8Array(await new Response(stream).arrayBuffer()), BYTES);
      await assert.rejects(sandbox.files.read(`${at}/none`), sdk.NotFoundError);
    },
  },
  {
    method: 'files.list',
    proves: 'names and kinds, to a depth',
    run: async ({ sandbox }) => {
      const at = await folder(sandbox);
      await sandbox.files.write(`${at}/sub/deep`, 'x');
      await sandbox.files.write(`${at}/top`, 'x');
      const found = async (depth?: number): Promise<string[]> =>
        (await sandbox.files.list(at, depth ? { depth } : {})).map(({ name, type }) => `${name} ${type}`).sort();
      assert.deepEqual(await found(), ['sub dir', 'top file']);
      assert.deepEqual(await found(2), ['deep file', 'sub dir', 'top file']);
    },
  },
  {
    method: 'files.makeDir',
    proves: 'with those above it; false when it is there',
    run: async ({ sandbox }) => {
      const at = await folder(sandbox);
      assert.equal(await sandbox.files.makeDir(`${at}/a/b/c`), true);
      assert.equal(await sandbox.files.makeDir(`${at}/a/b/c`), false);
      assert.equal(await say(sandbox, `stat -c '%F %U' ${at}/a/b/c`), 'directory user');
    },
  },
  {
    method: 'files.rename',
    proves: 'and tells of what came of it',
    run: async ({ sandbox, sdk }) => {
      const at = await folder(sandbox);
      await sandbox.files.write(`${at}/old`, 'kept');
      const info = await sandbox.files.rename(`${at}/old`, `${at}/new`);
      assert.deepEqual([info.name, info.size], ['new', 4]);
      assert.equal(await say(sandbox, `ls ${at}; cat ${at}/new`), 'new\nkept');
      await assert.rejects(sandbox.files.rename(`${at}/none`, `${at}/x`), sdk.NotFoundError);
    },
  },
  {
    method: 'files.remove',
    proves: 'a file, a folder with all in it',
    run: async ({ sandbox }) => {
      const at = await folder(sandbox);
      await sandbox.files.write(`${at}/a/b`, 'x');
      await sandbox.files.remove(`${at}/a`);
      assert.equal(await say(sandbox, `ls ${at}`), '');
    },
  },
  {
    method: 'files.exists',
    proves: 'of a file, a folder, nothing',
    run: async ({ sandbox }) => {
      const at = await folder(sandbox);
      await sandbox.files.write(`${at}/a`, 'x');
      assert.deepEqual(await Promise.all(['', '/a', '/b'].map((name) => sandbox.files.exists(`${at}${name}`))), [
        true,
        true,
        false,
      ]);
    },
  },
  {
    method: 'files.getInfo',
    proves: 'kind, size, mode, owner, time, where a link leads',
    run: async ({ sandbox, sdk }) => {
      const at = await folder(sandbox);
      await say(sandbox, `printf 12345 > ${at}/a; chmod 640 ${at}/a; ln -s a ${at}/link`);
      const info = await sandbox.files.getInfo(`${at}/a`);
      assert.deepEqual(
        [info.type, info.size, info.mode & 0o777, info.owner, info.group, info.permissions],
        ['file', 5, 0o640, 'user', 'user', '-rw-r-----'],
      );
      assert.ok(Math.abs(info.modifiedTime!.getTime() - Date.now()) < 60_000);
      assert.equal((await sandbox.files.getInfo(`${at}/link`)).symlinkTarget, `${at}/a`);
      await assert.rejects(sandbox.files.getInfo(`${at}/none`), sdk.NotFoundError);
    },
  },
  {
    method: 'files.watchDir',
    proves: 'what happens in a folder, and below it if asked',
    run: async ({ sandbox }) => {
      const at = await folder(sandbox);
      await sandbox.files.makeDir(`${at}/sub`);
      const events: string[] = [];
      const watch = await sandbox.files.watchDir(at, ({ type, name }) => void events.push(`${type} ${name}`), {
        recursive: true,
      });
      await say(sandbox, `cd ${at}; echo x > a; mv a b; rm b; touch sub/c`);
      for (const event of ['create a', 'write a', 'rename a', 'remove b', 'create sub/c'])
        await eventually(
          event,
          async () => events,
          (seen) => seen.includes(event),
        );
      await watch.stop();
    },
  },
  {
    method: 'watch.stop',
    proves: 'nothing is told after it',
    run: async ({ sandbox }) => {
      const at = await folder(sandbox);
      const seen: Record<'stopped' | 'other', string[]> = { stopped: [], other: [] };
      const stopped = await sandbox.files.watchDir(at, ({ name }) => void seen.stopped.push(name!));
      const other = await sandbox.files.watchDir(at, ({ name }) => void seen.other.push(name!));
      await stopped.stop();
      await sandbox.files.write(`${at}/late`, 'x');
      await eventually(
        'the other is told',
        async () => seen.other,
        (names) => names.includes('late'),
      );
      assert.deepEqual(seen.stopped, []);
      await other.stop();
    },
  },
  {
    method: 'sandbox.uploadUrl',
    proves: 'a link that takes a file without any key, and no other file',
    run: async ({ sandbox }) => {
      const at = await folder(sandbox);
      const url = await sandbox.uploadUrl(`${at}/sent`, { useSignatureExpiration: 60_000 });
      const form = new FormData();
      form.append('file', new Blob(['sent by a link']), 'sent');
      assert.equal((await fetch(url, { method: 'POST', body: form })).status, 200);
      assert.equal(await sandbox.files.read(`${at}/sent`), 'sent by a link');
      const forged = new URL(url);
      forged.searchParams.set('path', `${at}/other`);
      assert.equal((await fetch(forged, { method: 'POST', body: form })).status, 401);
    },
  },
  {
    method: 'sandbox.downloadUrl',
    proves: 'a link that gives a file without any key, and no other file',
    run: async ({ sandbox }) => {
      const at = await folder(sandbox);
      await sandbox.files.write(`${at}/given`, 'given by a link');
      const url = await sandbox.downloadUrl(`${at}/given`);
      assert.equal(await (await fetch(url)).text(), 'given by a link');
      const forged = new URL(url);
      forged.searchParams.set('path', '/etc/passwd');
      assert.equal((await fetch(forged)).status, 401);
    },
  },
] satisfies Row[];
