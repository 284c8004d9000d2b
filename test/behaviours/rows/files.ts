import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { FileNotFoundError, FileType } from 'e2b';
import { say } from '../support/asks.ts';
import type { Behaviour } from '../support/behaviour.ts';

export default [
  {
    name: 'files: written and read in each form, several at once, with the folders above them',
    on: 'every kind',
    run: async ({ sandbox: create }) => {
      const { files, ...sandbox } = await create();
      const written = await files.write('a/b/c/note é😀.txt', 'hello é😀');
      assert.equal(written.path, '/home/user/a/b/c/note é😀.txt');
      assert.equal(await files.read('a/b/c/note é😀.txt'), 'hello é😀');
      const bytes = new Uint8Array(Array.from({ length: 256 }, (_, n) => n));
      await files.write([
        { path: 'bytes', data: bytes.buffer },
        { path: '/tmp/blob', data: new Blob([bytes]) },
        { path: 'empty', data: '' },
      ]);
      assert.deepEqual(await files.read('bytes', { format: 'bytes' }), bytes);
      assert.deepEqual(new Uint8Array(await (await files.read('/tmp/blob', { format: 'blob' })).arrayBuffer()), bytes);
      assert.equal(await files.read('empty'), '');
      await files.write('bytes', 'shorter');
      assert.equal(await files.read('bytes'), 'shorter', 'written over');
      await files.write('packed', 'x'.repeat(100_000), { gzip: true, useOctetStream: true });
      assert.equal((await files.read('packed', { gzip: true })).length, 100_000);
      await files.write('/etc/of-root', 'r', { user: 'root' });
      assert.equal((await files.getInfo('/etc/of-root')).owner, 'root');
      assert.equal((await files.getInfo('empty')).owner, 'user');
      assert.ok(sandbox.sandboxId);
    },
  },
  {
    name: 'eight megabytes go in and come out as they were, and the sandbox sees them',
    on: 'every kind',
    run: async ({ sandbox: create }) => {
      const sandbox = await create();
      const data = randomBytes(8 * 2 ** 20);
      const digest = createHash('sha256').update(data).digest('hex');
      await sandbox.files.write('large', new Blob([data]), { useOctetStream: true });
      assert.equal((await say(sandbox, 'sha256sum large')).slice(0, 64), digest);
      const back = createHash('sha256');
      const stream = await sandbox.files.read('large', { format: 'stream' });
      for await (const chunk of stream as unknown as AsyncIterable<Uint8Array>) back.update(chunk);
      assert.equal(back.digest('hex'), digest);
    },
  },
  {
    name: 'folders: made, listed, moved, removed; what is missing is said',
    on: 'every kind',
    run: async ({ sandbox: create }) => {
      const sandbox = await create();
      const { files } = sandbox;
      assert.equal(await files.makeDir('one/two'), true);
      assert.equal(await files.makeDir('one/two'), false, 'it was there');
      await files.write('one/two/three.txt', '3');
      await say(sandbox, 'ln -s two/three.txt one/link && chmod 640 one/two/three.txt');
      const names = async (depth?: number): Promise<string[]> =>
        (await files.list('one', depth ? { depth } : {}))
          .map((entry) => entry.path.slice('/home/user/one/'.length))
          .sort();
      assert.deepEqual(await names(), ['link', 'two']);
      assert.deepEqual(await names(2), ['link', 'two', 'two/three.txt']);
      const info = await files.getInfo('one/two/three.txt');
      assert.deepEqual(
        [info.type, info.size, info.mode, info.permissions, info.owner, info.group],
        [FileType.FILE, 1, 0o640, '-rw-r-----', 'user', 'user'],
      );
      assert.ok(Math.abs((info.modifiedTime?.getTime() ?? 0) - Date.now()) < 60_000);
      assert.equal((await files.getInfo('one/link')).symlinkTarget, '/home/user/one/two/three.txt');
      assert.equal((await files.getInfo('one')).type, FileType.DIR);
      const moved = await files.rename('one/two', 'moved');
      assert.equal(moved.path, '/home/user/moved');
      assert.equal(await files.read('moved/three.txt'), '3');
      assert.deepEqual([await files.exists('one/two'), await files.exists('moved')], [false, true]);
      await files.remove('moved');
      assert.equal(await files.exists('moved/three.txt'), false);
      await assert.rejects(files.read('moved/three.txt'), FileNotFoundError);
      await assert.rejects(files.list('moved'), /not|no such/i);
      await assert.rejects(files.getInfo('moved'), FileNotFoundError);
    },
  },
  {
    name: 'metadata of a file stays with it',
    on: 'every kind',
    run: async ({ sandbox: create }) => {
      const { files } = await create();
      await files.write('labelled', 'x', { metadata: { origin: 'here', kind: 'of file' } });
      assert.deepEqual((await files.getInfo('labelled')).metadata, { origin: 'here', kind: 'of file' });
      await files.rename('labelled', 'elsewhere');
      assert.deepEqual((await files.getInfo('elsewhere')).metadata, { origin: 'here', kind: 'of file' });
    },
  },
  {
    name: 'signed links read and write one file, and a forged or late one nothing',
    on: 'every kind',
    run: async ({ sandbox: create }) => {
      const sandbox = await create();
      await sandbox.files.write('linked/new.txt', 'x');
      const link = await sandbox.downloadUrl('linked/new.txt', { useSignatureExpiration: 60_000 });
      const response = await fetch(link);
      assert.deepEqual([response.status, await response.text()], [200, 'x']);
      assert.equal((await fetch(link.replace(/signature=v1_./, 'signature=v1_!'))).status, 401);
      assert.equal((await fetch(link.replace('new.txt', 'old.txt'))).status, 401);
      const late = await sandbox.downloadUrl('linked/new.txt', { useSignatureExpiration: -60 });
      assert.equal((await fetch(late)).status, 401);
      const form = new FormData();
      form.append('file', new Blob(['uploaded']), 'ignored');
      const up = await sandbox.uploadUrl('linked/up.txt', { useSignatureExpiration: 60_000 });
      assert.equal((await fetch(up, { method: 'POST', body: form })).status, 200);
      assert.equal(await sandbox.files.read('linked/up.txt'), 'uploaded');
    },
  },
] satisfies Behaviour[];
