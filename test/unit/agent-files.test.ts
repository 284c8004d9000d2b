import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import test, { after, before } from 'node:test';
import type { AgentError } from '../../src/channel/agent.ts';
import { type HostAgent, startHostAgent } from '../helpers/host-agent.ts';

let agent: HostAgent;
let home: string;
before(async () => {
  agent = await startHostAgent();
  home = path.join(agent.root, 'home/user');
});
after(() => agent.stop());

const coded =
  (code: string, words = /./) =>
  (error: AgentError) =>
    error.code === code && words.test(error.message);
async function* once(...pieces: (string | Uint8Array)[]): AsyncGenerator<Uint8Array> {
  for (const piece of pieces) yield Buffer.from(piece);
}
async function text(file: string, options?: { start?: number; length?: number }): Promise<string> {
  const { body } = await agent.client.read(file, options);
  const parts: Uint8Array[] = [];
  for await (const part of body) parts.push(part);
  return Buffer.concat(parts).toString();
}

test('the path rule: empty, ~, ~/x, relative and absolute', async () => {
  fs.writeFileSync(path.join(home, 'p'), 'p');
  assert.equal((await agent.client.stat('')).path, home);
  assert.equal((await agent.client.stat('~')).path, home);
  for (const given of ['p', '~/p', './x/../p', path.join(home, 'p')])
    assert.equal((await agent.client.stat(given)).path, path.join(home, 'p'));
  assert.equal((await agent.client.stat('', 'root')).path, path.join(agent.root, 'root'));
  await assert.rejects(agent.client.stat('p', 'ghost'), coded('unauthenticated', /invalid username: 'ghost'/));
});

test('stat: files, folders, links, broken links, devices, and Go permission strings', async () => {
  const at = (name: string): string => path.join(home, name);
  fs.writeFileSync(at('f'), 'abc', { mode: 0o640 });
  fs.chmodSync(at('f'), 0o4750);
  fs.mkdirSync(at('d'));
  fs.chmodSync(at('d'), 0o1777);
  fs.symlinkSync('d', at('to-d'));
  fs.symlinkSync('f', at('to-f'));
  fs.symlinkSync('nowhere', at('broken'));
  execFileSync('mkfifo', [at('pipe')]);
  const rows: [string, string, string, number][] = [
    ['f', 'file', 'urwxr-x---', 0o750],
    ['d', 'directory', 'dtrwxrwxrwx', 0o777],
    ['to-d', 'directory', 'Lrwxrwxrwx', 0o777],
    ['to-f', 'file', 'Lrwxrwxrwx', 0o777],
    ['broken', 'unknown', 'Lrwxrwxrwx', 0o777],
    ['pipe', 'unknown', 'prw-r--r--', 0o644],
    ['/dev/null', 'unknown', 'Dcrw-rw-rw-', 0o666],
  ];
  for (const [name, type, permissions, mode] of rows) {
    const entry = await agent.client.stat(name);
    assert.deepEqual([entry.type, entry.permissions, entry.mode], [type, permissions, mode], name);
  }
  const entry = await agent.client.stat('f');
  assert.deepEqual([entry.name, entry.size, entry.owner, entry.group], ['f', 3, 'user', 'user']);
  assert.equal((await agent.client.stat('to-f')).symlinkTarget, at('f'));
  assert.equal(entry.symlinkTarget, undefined);
  await assert.rejects(agent.client.stat('absent'), coded('not_found', /absent' does not exist$/));
  await assert.rejects(agent.client.stat('f/below'), coded('not_found'));
  await assert.rejects(agent.client.read('pipe'), coded('invalid_argument', /regular/));
  await assert.rejects(agent.client.write('pipe', once('x')), coded('invalid_argument'));
  await assert.rejects(agent.client.read('d'), coded('invalid_argument', /directory/));
  await assert.rejects(agent.client.write('d', once('x')), coded('invalid_argument', /directory/));
});

test('write makes parents, truncates, keeps the mode; read gives it back, whole and in part', async () => {
  const body = randomBytes(700_001);
  const entry = await agent.client.write('new/deep/file', once(body.subarray(0, 300_000), body.subarray(300_000)));
  assert.deepEqual(
    [entry.size, entry.permissions, entry.path],
    [700_001, '-rw-r--r--', path.join(home, 'new/deep/file')],
  );
  assert.deepEqual(fs.readFileSync(path.join(home, 'new/deep/file')), body);
  fs.chmodSync(path.join(home, 'new/deep/file'), 0o600);
  assert.equal((await agent.client.write('new/deep/file', once('short'))).permissions, '-rw-------');
  assert.equal(await text('new/deep/file'), 'short');
  assert.equal(await text('new/deep/file', { start: 1, length: 3 }), 'hor');
  assert.equal(await text('new/deep/file', { start: 99 }), '');
  assert.equal((await agent.client.write('empty', once())).size, 0);
  assert.equal(await text('empty'), '');
  await assert.rejects(agent.client.write('empty/below', once('x')), coded('invalid_argument', /path is a file/));
  await assert.rejects(agent.client.read('nope'), coded('not_found', /nope' does not exist/));
});

test('metadata is an attribute of the file, and each write replaces the set', async () => {
  const first = await agent.client.write('meta', once('x'), { metadata: { author: 'me', kind: 'ü' } });
  assert.deepEqual(first.metadata, { author: 'me', kind: 'ü' });
  assert.deepEqual((await agent.client.stat('meta')).metadata, { author: 'me', kind: 'ü' });
  assert.deepEqual((await agent.client.write('meta', once('y'), { metadata: { kind: 'b' } })).metadata, { kind: 'b' });
  assert.equal((await agent.client.write('meta', once('z'))).metadata, undefined);
});

const unmountable = process.getuid?.() === 0 ? false : 'mounting needs root';

test('a full disk is resource_exhausted', { skip: unmountable }, async () => {
  await assert.rejects(agent.client.write('/dev/full', once('x')), coded('invalid_argument'));
  execFileSync('mkdir', ['-p', path.join(home, 'small')]);
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', path.join(home, 'small')]);
  try {
    async function* endless(): AsyncGenerator<Uint8Array> {
      for (;;) yield Buffer.alloc(60_000);
    }
    await assert.rejects(agent.client.write('small/big', endless()), coded('resource_exhausted', /ENOSPC/));
  } finally {
    execFileSync('umount', [path.join(home, 'small')]);
  }
});

test('a body that fails, or is aborted, leaves the agent well', async () => {
  async function* failing(): AsyncGenerator<Uint8Array> {
    yield Buffer.from('a');
    throw new Error('the client went away');
  }
  await assert.rejects(agent.client.write('partial', failing()), /the client went away/);
  const controller = new AbortController();
  const hanging = agent.client.write(
    'aborted',
    (async function* () {
      yield Buffer.from('a');
      controller.abort(new Error('enough'));
      yield Buffer.from('b');
    })(),
    { signal: controller.signal },
  );
  await assert.rejects(hanging, /enough/);
  await agent.client.ping();
});

test('list is lexical and depth first, does not follow links inside, follows one at the root', async () => {
  const root = path.join(home, 'tree');
  for (const folder of ['b/inner', 'a', 'a.x']) fs.mkdirSync(path.join(root, folder), { recursive: true });
  for (const file of ['b/z', 'b/inner/deep', 'a/1', 'Z']) fs.writeFileSync(path.join(root, file), '');
  fs.symlinkSync('b', path.join(root, 'link'));
  fs.symlinkSync('tree', path.join(home, 'tree-link'));
  fs.symlinkSync('loop', path.join(home, 'loop'));
  const names = async (given: string, depth: number): Promise<string[]> =>
    (await agent.client.list(given, depth)).map((entry) => path.relative(home, entry.path));
  assert.deepEqual(await names('tree', 1), ['tree/Z', 'tree/a', 'tree/a.x', 'tree/b', 'tree/link']);
  const all = ['Z', 'a', 'a/1', 'a.x', 'b', 'b/inner', 'b/inner/deep', 'b/z', 'link'];
  assert.deepEqual(
    await names('tree', 9),
    all.map((name) => `tree/${name}`),
  );
  assert.deepEqual(
    await names('tree-link', 9),
    all.map((name) => `tree-link/${name}`),
  );
  await assert.rejects(agent.client.list('tree/Z', 1), coded('invalid_argument', /not a directory/));
  await assert.rejects(agent.client.list('absent', 1), coded('not_found'));
  await assert.rejects(agent.client.list('loop', 1), coded('failed_precondition'));
  await assert.rejects(agent.client.list('tree', 0), coded('invalid_argument', /depth/));
});

test('a folder of 5 000 files is listed whole', async () => {
  fs.mkdirSync(path.join(home, 'many'));
  for (let n = 0; n < 5_000; n++) fs.writeFileSync(path.join(home, 'many', `file-with-a-long-enough-name-${n}`), '');
  assert.equal((await agent.client.list('many', 1)).length, 5_000);
});

test('mkdir, move and remove', async () => {
  assert.equal((await agent.client.mkdir('m/n/o')).type, 'directory');
  await assert.rejects(agent.client.mkdir('m/n'), coded('already_exists'));
  fs.writeFileSync(path.join(home, 'm/file'), 'x');
  await assert.rejects(agent.client.mkdir('m/file'), coded('invalid_argument'));
  await assert.rejects(agent.client.mkdir('m/file/x'), coded('invalid_argument'));
  const moved = await agent.client.move('m/file', 'other/place/file');
  assert.equal(moved.path, path.join(home, 'other/place/file'));
  assert.ok(!fs.existsSync(path.join(home, 'm/file')));
  await assert.rejects(agent.client.move('absent', 'x'), coded('not_found'));
  await agent.client.remove('m');
  await agent.client.remove('m');
  await agent.client.remove('other/place/file/below');
  assert.ok(!fs.existsSync(path.join(home, 'm')));
});

test('a move to another file system keeps modes, links and what is below', { skip: unmountable }, async () => {
  const other = path.join(home, 'mounted');
  fs.mkdirSync(other);
  execFileSync('mount', ['-t', 'tmpfs', 'tmpfs', other]);
  try {
    fs.mkdirSync(path.join(home, 'cargo/sub'), { recursive: true });
    fs.writeFileSync(path.join(home, 'cargo/sub/run'), 'x', { mode: 0o751 });
    fs.symlinkSync('sub/run', path.join(home, 'cargo/link'));
    await agent.client.move('cargo', 'mounted/cargo');
    assert.equal(fs.readFileSync(path.join(other, 'cargo/sub/run'), 'utf8'), 'x');
    assert.equal(fs.statSync(path.join(other, 'cargo/sub/run')).mode & 0o777, 0o751);
    assert.equal(fs.readlinkSync(path.join(other, 'cargo/link')), 'sub/run');
    assert.ok(!fs.existsSync(path.join(home, 'cargo')));
  } finally {
    execFileSync('umount', [other]);
  }
});

test('compose joins the sources in order and removes them', async () => {
  for (const [name, body] of Object.entries({ c1: 'one ', c2: 'two ', c3: 'three' }))
    fs.writeFileSync(path.join(home, name), body);
  const entry = await agent.client.compose(['c1', 'c2', 'c3'], 'joined/all');
  assert.equal(entry.size, 13);
  assert.equal(await text('joined/all'), 'one two three');
  assert.ok(!fs.existsSync(path.join(home, 'c1')));
  await assert.rejects(agent.client.compose(['absent'], 'x'), coded('not_found'));
  await assert.rejects(agent.client.compose(['joined/all'], 'joined/all'), coded('invalid_argument'));
});

test('a read that is cancelled or abandoned leaves no descriptor behind', async () => {
  fs.writeFileSync(path.join(home, 'large'), Buffer.alloc(3_000_000));
  const count = (): number => fs.readdirSync(`/proc/${agent.pid}/fd`).length;
  const before = count();
  for (let n = 0; n < 20; n++) {
    const { body, cancel } = await agent.client.read('large');
    if (n % 2) cancel();
    else for await (const _ of body) break;
  }
  const deadline = performance.now() + 5_000;
  while (count() > before && performance.now() < deadline) await new Promise((resolve) => setTimeout(resolve, 5));
  assert.ok(count() <= before);
});

test('the throughput of files, for the record', async (t) => {
  const total = 60_000_000;
  let started = performance.now();
  await agent.client.write('speed', once(Buffer.alloc(total)));
  t.diagnostic(`write ${Math.round(total / 1_000 / (performance.now() - started))} MB/s`);
  started = performance.now();
  assert.equal((await text('speed')).length, total);
  t.diagnostic(`read ${Math.round(total / 1_000 / (performance.now() - started))} MB/s`);
});
