/** The server of volumes on a real file system: what a guest's kernel counts on, whose rights count, and what hostile bytes do. */
import assert from 'node:assert/strict';
import { closeSync, mkdtempSync, rmSync } from 'node:fs';
import type { AddressInfo, Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, before, test } from 'node:test';
import fc from 'fast-check';
import { recordMark } from '../../src/volumes/nfs/rpc.ts';
import { createNfsServer } from '../../src/volumes/nfs/server.ts';
import { loadSyscalls } from '../../src/volumes/nfs/syscalls.ts';
import type { XdrReader } from '../../src/volumes/nfs/xdr.ts';
import {
  callOf,
  hyper,
  MOUNT,
  NFS,
  NfsClient,
  opaque,
  ROOT,
  readAttributes,
  readChange,
  readOptional,
  USER,
  type User,
  uint,
  wanted,
} from '../helpers/nfs-client.ts';
import { openVolumeRoot } from '../helpers/volume-root.ts';

const VOLUME = '11111111-2222-4333-8444-555555555555';
const OTHER = '99999999-2222-4333-8444-555555555555';
const SIZE_MB = 32;
const STRANGER: User = { uid: 2000, gid: 2000 };
const folder = mkdtempSync(join(tmpdir(), 'coppice-nfs-'));
const said: string[] = [];
let root: number;
let server: Server;
let port: number;
let client: NfsClient;
let top: Buffer;
let exported: readonly string[] = [VOLUME];
let released = 0;

before(async () => {
  root = await openVolumeRoot(folder, SIZE_MB);
  process.umask(0);
  server = serve();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  port = (server.address() as AddressInfo).port;
  client = await NfsClient.open(port);
  top = (await client.mount(`/${VOLUME}`))!;
});

after(() => {
  client?.close();
  server?.close();
  if (root !== undefined) closeSync(root);
  rmSync(folder, { recursive: true, force: true });
});

afterEach(() => assert.deepEqual(said.splice(0), []));

function serve(portsBelow = 65_536, exportsOf = true): Server {
  return createNfsServer({
    exportsOf: async () =>
      exportsOf
        ? { exports: exported.map((volumeID) => ({ volumeID, root })), release: () => void released++ }
        : undefined,
    syscalls: loadSyscalls(),
    verifier: Buffer.from('verifier'),
    log: (message) => said.push(message),
    portsBelow,
  });
}

/** What CREATE, MKDIR, SYMLINK and MKNOD answer. */
function made(reply: XdrReader): { handle: Buffer; attributes: ReturnType<typeof readAttributes> } {
  assert.ok(reply.bool());
  const handle = Buffer.from(reply.opaque(64));
  const attributes = readOptional(reply)!;
  readChange(reply);
  reply.end();
  return { handle, attributes };
}

const create = async (name: string, user: User = USER, mode = 0o644, parent = top) => {
  const { status, reply } = await client.nfs(8, user, opaque(parent), opaque(name), uint(0), wanted({ mode }));
  assert.equal(status, 0, name);
  return made(reply);
};

const makeFolder = async (name: string, user: User = USER, mode = 0o755, parent = top) => {
  const { status, reply } = await client.nfs(9, user, opaque(parent), opaque(name), wanted({ mode }));
  assert.equal(status, 0, name);
  return made(reply).handle;
};

async function write(handle: Buffer, text: string | Buffer, user: User = USER, offset = 0, stable = 0) {
  const bytes = Buffer.from(text);
  const { status, reply } = await client.nfs(
    7,
    user,
    opaque(handle),
    hyper(offset),
    uint(bytes.length, stable),
    opaque(bytes),
  );
  const change = readChange(reply);
  if (status !== 0) return { status, change };
  const [count, committed] = [reply.uint(), reply.uint()];
  assert.equal(reply.fixed(8).toString(), 'verifier');
  reply.end();
  return { status, change, count, committed };
}

async function read(handle: Buffer, user: User = USER, offset = 0, count = 1 << 16) {
  const { status, reply } = await client.nfs(6, user, opaque(handle), hyper(offset), uint(count));
  readOptional(reply);
  if (status !== 0) return { status };
  const [length, end] = [reply.uint(), reply.bool()];
  const text = reply.opaque(1 << 20).toString();
  reply.end();
  assert.equal(length, text.length);
  return { status, text, end };
}

const lookUp = async (name: string, user: User = USER, parent = top) => {
  const { status, reply } = await client.nfs(3, user, opaque(parent), opaque(name));
  if (status !== 0) return { status };
  const handle = Buffer.from(reply.opaque(64));
  const attributes = readOptional(reply)!;
  assert.ok(readOptional(reply));
  reply.end();
  return { status, handle, attributes };
};

const attributesOf = async (handle: Buffer) => {
  const { status, reply } = await client.nfs(1, USER, opaque(handle));
  assert.equal(status, 0);
  const attributes = readAttributes(reply);
  reply.end();
  return attributes;
};

const remove = async (name: string, user: User = USER, procedure = 12) =>
  (await client.nfs(procedure, user, opaque(top), opaque(name))).status;

test('a volume is mounted by its id, and no other; what is not exported any more is stale', async () => {
  assert.equal((await attributesOf(top)).type, 2);
  assert.equal(await client.mount(`/${OTHER}`), undefined);
  assert.equal(await client.mount('/'), undefined);
  exported = [OTHER];
  const other = await NfsClient.open(port);
  assert.equal(await other.mount(VOLUME), undefined);
  assert.equal((await other.nfs(1, ROOT, opaque(top))).status, 70);
  other.close();
  exported = [VOLUME];
});

test('what is written is read, by its handle, from another server too; a change tells what was before', async () => {
  const { handle, attributes } = await create('written', USER, 0o640);
  assert.deepEqual([attributes.type, attributes.mode, attributes.uid, attributes.gid], [1, 0o640, 1000, 1000]);
  const first = await write(handle, 'hello');
  assert.deepEqual([first.status, first.count, first.committed], [0, 5, 0]);
  assert.deepEqual([first.change.before, first.change.after!.size], [0n, 5n]);
  assert.equal((await write(handle, ' world', USER, 5, 2)).committed, 2);
  const committed = await client.nfs(21, USER, opaque(handle), hyper(0), uint(0));
  assert.equal(committed.status, 0);
  assert.deepEqual(await read(handle), { status: 0, text: 'hello world', end: true });
  assert.deepEqual(await read(handle, USER, 2, 3), { status: 0, text: 'llo', end: false });
  assert.deepEqual(await read(handle, USER, 100, 3), { status: 0, text: '', end: true });

  const second = serve();
  await new Promise<void>((resolve) => second.listen(0, '127.0.0.1', resolve));
  const again = await NfsClient.open((second.address() as AddressInfo).port);
  const { status, reply } = await again.nfs(6, USER, opaque(handle), hyper(0), uint(5));
  readOptional(reply);
  reply.fixed(8);
  assert.deepEqual([status, reply.opaque(5).toString()], [0, 'hello']);
  again.close();
  second.close();
});

test('rights are the kernel’s, of whoever calls', async () => {
  const { handle } = await create('private', USER, 0o600);
  await write(handle, 'secret');
  assert.equal((await read(handle, STRANGER)).status, 13);
  assert.equal((await write(handle, 'x', STRANGER)).status, 13);
  assert.equal((await read(handle, ROOT)).status, 0);
  const set = async (user: User, more: Parameters<typeof wanted>[0]) =>
    (await client.nfs(2, user, opaque(handle), wanted(more), uint(0))).status;
  assert.equal(await set(STRANGER, { mode: 0o777 }), 1);
  assert.equal(await set(USER, { uid: 2000 }), 1);
  assert.equal(await set(STRANGER, { size: 0 }), 13);
  assert.equal(await set(USER, { mode: 0o400 }), 0);
  // Its owner has it open for writing, as far as a server can tell.
  assert.equal((await write(handle, 'S')).status, 0);
  assert.equal(await set(USER, { size: 3, mtime: 1_000_000 }), 0);
  assert.deepEqual(await read(handle), { status: 0, text: 'Sec', end: true });
  assert.equal(await set(ROOT, { uid: 2000, gid: 7 }), 0);
  const { uid, gid, mode } = await attributesOf(handle);
  assert.deepEqual([uid, gid, mode], [2000, 7, 0o400]);
  // Who may execute it may read it, since that is how it comes to be executed.
  assert.equal(await set(ROOT, { mode: 0o711 }), 0);
  assert.equal((await read(handle, USER)).status, 0);

  const closed = await makeFolder('closed', STRANGER, 0o700);
  assert.equal((await lookUp('x', USER, closed)).status, 13);
  assert.equal((await client.nfs(8, USER, opaque(closed), opaque('x'), uint(0), wanted())).status, 13);
  assert.equal((await client.nfs(16, USER, opaque(closed), hyper(0), Buffer.alloc(8), uint(4096))).status, 13);
  const shared = await makeFolder('shared', STRANGER, 0o770);
  const member: User = { uid: 3000, gid: 3000, groups: [5, 2000] };
  assert.equal((await create('by-group', member, 0o644, shared)).attributes.uid, 3000);
  const sticky = await makeFolder('sticky', ROOT, 0o1777);
  await create('theirs', STRANGER, 0o666, sticky);
  assert.equal((await client.nfs(12, USER, opaque(sticky), opaque('theirs'))).status, 1);

  const access = async (user: User, of: Buffer) => {
    const { reply } = await client.nfs(4, user, opaque(of), uint(0x3f));
    readOptional(reply);
    return reply.uint();
  };
  assert.equal(await access(STRANGER, closed), 0x1f);
  assert.equal(await access(USER, closed), 0);
  assert.equal(await access(USER, handle), 0x20);
});

test('a file is created once: exclusively, again by who has not heard, and never by another', async () => {
  const exclusive = async (mark: string) =>
    client.nfs(8, USER, opaque(top), opaque('once'), uint(2), Buffer.from(mark));
  assert.equal((await exclusive('marked-1')).status, 0);
  assert.equal((await exclusive('marked-1')).status, 0);
  assert.equal((await exclusive('marked-2')).status, 17);
  assert.equal((await client.nfs(8, USER, opaque(top), opaque('once'), uint(1), wanted())).status, 17);
  const { handle } = await lookUp('once');
  await write(handle!, 'text');
  assert.equal(
    (await client.nfs(8, USER, opaque(top), opaque('once'), uint(0), wanted({ mode: 0o777, size: 0 }))).status,
    0,
  );
  const { size, mode } = await attributesOf(handle!);
  assert.deepEqual([size, mode & 0o111], [0n, 0]);
});

test('links are never followed, and nothing leads out of a volume', async () => {
  const link = await client.nfs(10, USER, opaque(top), opaque('link'), wanted(), opaque('/etc/passwd'));
  assert.equal(link.status, 0);
  const { handle, attributes } = made(link.reply);
  assert.equal(attributes.type, 5);
  const { status, reply } = await client.nfs(5, USER, opaque(handle));
  readOptional(reply);
  assert.deepEqual([status, reply.opaque(4096).toString()], [0, '/etc/passwd']);
  assert.equal((await read(handle)).status, 22);
  assert.equal((await client.nfs(2, USER, opaque(handle), wanted({ mtime: 5 }), uint(0))).status, 0);
  assert.equal((await lookUp('x', USER, handle)).status, 20);
  const up = await lookUp('..');
  assert.deepEqual(up.handle, top);
  for (const name of ['../x', '/etc/passwd', 'a/b', 'nul\0'])
    assert.equal(await client.call(NFS, 3, ROOT, Buffer.concat([opaque(top), opaque(name)])), 4);
  for (const name of ['.', '..', '']) assert.equal(await remove(name, ROOT), 22, name);
  assert.equal((await lookUp('x'.repeat(256))).status, 63);
});

test('names move, are given twice and go; handles of what is gone are stale', async () => {
  const { handle } = await create('one');
  const deep = await makeFolder('deep');
  const moved = await client.nfs(14, USER, opaque(top), opaque('one'), opaque(deep), opaque('two'));
  assert.equal(moved.status, 0);
  assert.ok(readChange(moved.reply).after && readChange(moved.reply).after);
  moved.reply.end();
  const linked = await client.nfs(15, USER, opaque(handle), opaque(top), opaque('again'));
  assert.equal(linked.status, 0);
  assert.equal(readOptional(linked.reply)!.nlink, 2);
  readChange(linked.reply);
  linked.reply.end();
  assert.equal(await remove('deep', USER, 13), 66);
  assert.equal(await remove('deep'), 21);
  assert.equal((await client.nfs(12, USER, opaque(deep), opaque('two'))).status, 0);
  assert.equal(await remove('deep', USER, 13), 0);
  assert.equal(await remove('again'), 0);
  assert.equal(await remove('again'), 2);
  for (const gone of [handle, deep]) assert.equal((await client.nfs(1, USER, opaque(gone))).status, 70);
  assert.equal((await client.nfs(1, USER, opaque('short'))).status, 10_001);
});

test('pipes by anybody, devices by nobody but root, and those do nothing', async () => {
  const pipe = await client.nfs(11, USER, opaque(top), opaque('pipe'), uint(7), wanted({ mode: 0o600 }));
  const { handle, attributes } = made(pipe.reply);
  assert.deepEqual([attributes.type, attributes.mode], [7, 0o600]);
  // No server waits for who might open the other end.
  assert.equal((await read(handle)).status, 22);
  const node = (user: User) =>
    client.nfs(11, user, opaque(top), opaque('null'), uint(4), wanted({ mode: 0o666 }), uint(1, 3));
  assert.equal((await node(USER)).status, 1);
  assert.equal((await node(ROOT)).status, 0);
  assert.equal((await read((await lookUp('null')).handle!, ROOT)).status, 22);
  assert.equal((await client.nfs(11, USER, opaque(top), opaque('file'), uint(1), wanted())).status, 10_007);
});

test('a folder is told in parts, each entry once, with and without what is known of it', async () => {
  const many = await makeFolder('many');
  const names = Array.from({ length: 300 }, (_, index) => `entry-${index}-${'x'.repeat(index % 60)}`);
  for (const name of names) await create(name, USER, 0o644, many);
  for (const plus of [false, true]) {
    const found: string[] = [];
    let parts = 0;
    for (let cookie = 0n, end = false; !end; parts++) {
      const limits = plus ? uint(2048, 8192) : uint(2048);
      const { status, reply } = await client.nfs(
        plus ? 17 : 16,
        USER,
        opaque(many),
        hyper(cookie),
        Buffer.alloc(8),
        limits,
      );
      assert.equal(status, 0);
      readOptional(reply);
      reply.fixed(8);
      while (reply.bool()) {
        const inode = reply.hyper();
        const name = reply.opaque(255).toString();
        cookie = reply.hyper();
        if (plus) {
          const attributes = readOptional(reply);
          const handle = reply.bool() ? Buffer.from(reply.opaque(64)) : undefined;
          if (!/^\.+$/.test(name)) {
            assert.equal(attributes!.inode, inode);
            assert.equal(handle!.length, top.length);
          }
        }
        found.push(name);
      }
      end = reply.bool();
      reply.end();
    }
    assert.ok(parts > 2);
    assert.deepEqual(found.toSorted(), ['.', '..', ...names].toSorted());
  }
  const small = await client.nfs(16, USER, opaque(many), hyper(0), Buffer.alloc(8), uint(120));
  assert.equal(small.status, 10_005);
});

test('its size is the volume’s, and a full one says so', async () => {
  const { status, reply } = await client.nfs(18, USER, opaque(top));
  assert.equal(status, 0);
  readOptional(reply);
  const [total, free] = [Number(reply.hyper()), Number(reply.hyper())];
  assert.ok(total > (SIZE_MB - 8) << 20 && total <= SIZE_MB << 20 && free <= total);
  const { handle } = await create('large');
  const piece = Buffer.alloc(1 << 20);
  let last = 0;
  for (let at = 0; at < SIZE_MB + 2 && last === 0; at++) last = (await write(handle, piece, ROOT, at << 20)).status;
  assert.equal(last, 28);
  assert.equal(await remove('large'), 0);
  for (const procedure of [19, 20]) assert.equal((await client.nfs(procedure, USER, opaque(top))).status, 0);
});

test('a call that is sent again has the answer of the first', async () => {
  await create('twice');
  const message = callOf(NFS, 12, USER, Buffer.concat([opaque(top), opaque('twice')]));
  const first = await client.send(message);
  const other = await NfsClient.open(port);
  assert.deepEqual(await other.send(message), first);
  assert.equal(await remove('twice'), 2);
  other.close();
});

test('other programs, versions and procedures, and callers that are nobody, are refused', async () => {
  assert.equal(await client.call(100_000, 3, ROOT, Buffer.alloc(0)), 1);
  assert.equal(await client.call(NFS, 22, ROOT, Buffer.alloc(0)), 3);
  assert.equal(await client.call(MOUNT, 2, ROOT, Buffer.alloc(0)), 3);
  assert.equal((await client.send(callOf(NFS, 1, ROOT, opaque(top), 4)))!.readUInt32BE(20), 2);
  const nobody = { uid: 0xffff_ffff, gid: 0 };
  assert.equal((await client.send(callOf(NFS, 1, nobody, opaque(top))))!.readUInt32BE(8), 1);
  const anonymous = Buffer.from(callOf(NFS, 0, ROOT, Buffer.alloc(0)));
  anonymous.writeUInt32BE(6, 24);
  assert.equal((await client.send(anonymous))!.readUInt32BE(8), 1);
});

test('who has no port of root’s, or nothing mounted, is cut off, and what was opened for others let go', async () => {
  const before = released;
  for (const closed of [serve(1024), serve(65_536, false)]) {
    await new Promise<void>((resolve) => closed.listen(0, '127.0.0.1', resolve));
    const refused = await NfsClient.open((closed.address() as AddressInfo).port);
    assert.equal(await refused.next(), undefined);
    closed.close();
  }
  const brief = await NfsClient.open(port);
  await brief.mount(VOLUME);
  brief.close();
  const deadline = Date.now() + 10_000;
  while (released === before && Date.now() < deadline) await new Promise((resolve) => setTimeout(resolve, 5));
  assert.equal(released, before + 1);
});

test('whatever bytes come, they are answered or cut off, and the next client is served', async () => {
  const calls = [
    callOf(NFS, 1, USER, opaque(top)),
    callOf(NFS, 3, USER, Buffer.concat([opaque(top), opaque('written')])),
    callOf(NFS, 6, USER, Buffer.concat([opaque(top), hyper(0), uint(100)])),
    callOf(NFS, 7, USER, Buffer.concat([opaque(top), hyper(0), uint(4, 0), opaque('abcd')])),
    callOf(NFS, 8, USER, Buffer.concat([opaque(top), opaque('fuzzed'), uint(0), wanted({ mode: 0o600 })])),
    callOf(NFS, 17, USER, Buffer.concat([opaque(top), hyper(0), Buffer.alloc(8), uint(512, 2048)])),
    callOf(MOUNT, 1, USER, opaque(VOLUME)),
  ];
  const changed = fc
    .tuple(fc.constantFrom(...calls), fc.array(fc.tuple(fc.nat(400), fc.nat(255)), { maxLength: 6 }), fc.nat(400))
    .map(([call, changes, cut]) => {
      const bytes = Buffer.from(call);
      for (const [at, value] of changes) bytes[at % bytes.length] = value;
      return cut % 4 === 0 ? bytes.subarray(0, cut % bytes.length) : bytes;
    });
  await fc.assert(
    fc.asyncProperty(fc.oneof(changed, fc.uint8Array({ maxLength: 200 })), fc.boolean(), async (bytes, framed) => {
      const hostile = await NfsClient.open(port);
      const message = Buffer.from(bytes);
      hostile.raw(framed ? Buffer.concat([recordMark(message), message]) : message);
      hostile.end();
      while (await hostile.next());
      const next = await NfsClient.open(port);
      assert.ok(await next.mount(VOLUME));
      next.close();
    }),
    { numRuns: 300 },
  );
  // Each was cut off with a word of it; none failed in a way that was not foreseen.
  const unforeseen = said
    .splice(0)
    .filter((line) => !/is cut off: (a message is too long|bytes are missing|\d+ bytes where)/.test(line));
  assert.deepEqual(unforeseen, []);
});
