/** Archives for builds: who may upload them, how large they may be, and that they are there whole or not at all. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer, request } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { takeUpload } from '../../src/api/build-uploads.ts';
import { createNodeLink } from '../../src/api/node-link.ts';
import { isCoppiceError } from '../../src/contract/errors.ts';
import { BuildFiles, type BuildFilesOptions } from '../../src/node/build-files.ts';
import { createTrafficServer } from '../../src/node/traffic/server.ts';
import { silentLog } from '../../src/telemetry/log.ts';

const TEMPLATE = 'abcdefghij0123456789';
const HASH = 'a'.repeat(64);

/** The edge's half and the node's, as in the service. */
async function rig(t: TestContext, options: Partial<BuildFilesOptions> = {}) {
  const home = await mkdtemp(join(tmpdir(), 'coppice-uploads-'));
  const folder = join(home, 'uploads');
  await mkdir(folder);
  const files = new BuildFiles({ folder, seed: Buffer.alloc(32, 3), log: silentLog, ...options });
  const traffic = createTrafficServer({
    lookup: () => undefined,
    findBySignature: () => undefined,
    receive: (what, req, res) => files.receive(what, req, res),
    log: silentLog,
  });
  const socket = join(home, 'traffic.sock');
  traffic.server.listen(socket);
  await once(traffic.server, 'listening');
  const node = createNodeLink(socket);
  const edge = createServer((req, res) => {
    if (!takeUpload(node, req, res)) res.writeHead(404).end();
  });
  edge.listen(0, '127.0.0.1');
  await once(edge, 'listening');
  t.after(async () => {
    edge.closeAllConnections();
    edge.close();
    node.close();
    await traffic.close();
    await rm(home, { recursive: true, force: true });
  });
  const { port } = edge.address() as AddressInfo;
  const put = async (path: string, body: Buffer, headers: Record<string, string | number> = {}): Promise<number> => {
    const sent = request({ host: '127.0.0.1', port, method: 'PUT', path, agent: false, headers });
    sent.on('error', () => {});
    if (headers['content-length'] === undefined && headers['transfer-encoding'] === undefined)
      sent.setHeader('content-length', body.length);
    sent.end(body);
    const [answer] = await once(sent, 'response');
    answer.resume();
    return answer.statusCode;
  };
  const link = (template = TEMPLATE, hash = HASH, ticket = files.ticket(TEMPLATE, HASH)): string =>
    `/templates/${template}/files/${hash}/upload?ticket=${ticket}`;
  return { files, folder, put, link, port };
}

test('an archive is there once it was uploaded whole, and a second one takes its place', async (t) => {
  const { files, folder, put, link } = await rig(t);
  assert.equal(await files.size(TEMPLATE, HASH), undefined);
  assert.equal(await put(link(), Buffer.from('first')), 200);
  assert.equal(await files.size(TEMPLATE, HASH), 5);
  assert.equal(await put(link(), Buffer.from('the second')), 200);
  assert.equal(readFileSync(join(folder, TEMPLATE, `${HASH}.tar`), 'utf8'), 'the second');
  const read: Uint8Array[] = [];
  for await (const chunk of files.read(TEMPLATE, HASH)) read.push(chunk);
  assert.equal(Buffer.concat(read).toString(), 'the second');
});

test('many small ones and a large one at once', async (t) => {
  const { files, folder, put, link } = await rig(t);
  const large = Buffer.alloc(40 * 2 ** 20, 7);
  const hashes = Array.from({ length: 40 }, (_, index) => index.toString(16).padStart(64, '0'));
  const one = (hash: string, body: Buffer) => put(link(TEMPLATE, hash, files.ticket(TEMPLATE, hash)), body);
  const whole = one(HASH, large);
  for (let at = 0; at < hashes.length; at += 8)
    assert.deepEqual(
      await Promise.all(hashes.slice(at, at + 8).map((hash) => one(hash, Buffer.from(hash)))),
      Array(8).fill(200),
    );
  assert.equal(await whole, 200);
  assert.ok(readFileSync(join(folder, TEMPLATE, `${HASH}.tar`)).equals(large));
  assert.equal(readdirSync(join(folder, TEMPLATE)).length, 41);
});

test("nobody uploads without a ticket, with another file's, or with an old one", async (t) => {
  const { files, folder, put, link } = await rig(t);
  const body = Buffer.from('x');
  const other = 'b'.repeat(64);
  assert.equal(await put(link(TEMPLATE, HASH, `1-${'0'.repeat(64)}`), body), 403);
  assert.equal(await put(link(TEMPLATE, other), body), 403);
  assert.equal(await put(link('zbcdefghij0123456789'), body), 403);
  t.mock.timers.enable({ apis: ['Date'], now: Date.now() });
  const ticket = files.ticket(TEMPLATE, HASH);
  t.mock.timers.tick(3_601_000);
  assert.equal(await put(link(TEMPLATE, HASH, ticket), body), 403);
  assert.deepEqual(readdirSync(folder), []);
});

test('no path leads out of its folder', async (t) => {
  const { files, put, link } = await rig(t);
  for (const [template, hash] of [
    ['..', HASH],
    [TEMPLATE, '../../../etc/passwd'],
    [TEMPLATE, `${'a'.repeat(60)}/../`],
    [TEMPLATE, 'A'.repeat(64)],
    [TEMPLATE, 'a'.repeat(63)],
    ['abcdefghij012345678/', HASH],
    ['', ''],
  ] as const) {
    assert.throws(
      () => files.path(template, hash),
      (error) => isCoppiceError(error, 'bad_request'),
    );
    assert.throws(
      () => files.ticket(template, hash),
      (error) => isCoppiceError(error, 'bad_request'),
    );
  }
  // What the edge does not know as a link is none; what it does, the node still judges.
  assert.equal(await put('/templates/../files/x/upload?ticket=1-0', Buffer.from('x')), 404);
  assert.equal(await put(link(TEMPLATE, 'A'.repeat(64)), Buffer.from('x')), 400);
});

test('what is too large, of no told length or broken off leaves nothing', async (t) => {
  const { files, folder, put, link, port } = await rig(t, { most: { file: 1_000, template: 1_500 } });
  assert.equal(await put(link(), Buffer.alloc(1_001)), 413);
  assert.equal(await put(link(), Buffer.alloc(10), { 'transfer-encoding': 'chunked' }), 400);
  assert.equal(await put(link(), Buffer.alloc(900)), 200);
  const other = 'b'.repeat(64);
  const second = link(TEMPLATE, other, files.ticket(TEMPLATE, other));
  assert.equal(await put(second, Buffer.alloc(900)), 413, 'all of a template together');
  const broken = request({ host: '127.0.0.1', port, method: 'PUT', path: second, headers: { 'content-length': 500 } });
  broken.on('error', () => {});
  broken.write(Buffer.alloc(100));
  await new Promise((resolve) => setTimeout(resolve, 200));
  broken.destroy();
  await new Promise((resolve) => setTimeout(resolve, 200));
  assert.deepEqual(readdirSync(join(folder, TEMPLATE)), [`${HASH}.tar`]);
  assert.equal(await files.size(TEMPLATE, other), undefined);
});

test('files of templates that are gone go, and what a node that died was taking', async (t) => {
  const { files, folder, put, link } = await rig(t);
  assert.equal(await put(link(), Buffer.from('kept')), 200);
  await writeFile(join(folder, TEMPLATE, '.broken.part'), 'x');
  await mkdir(join(folder, 'goneghij0123456789ab'));
  await files.atStart();
  await files.tidy((templateID) => templateID === TEMPLATE);
  assert.deepEqual(readdirSync(folder), [TEMPLATE]);
  assert.deepEqual(readdirSync(join(folder, TEMPLATE)), [`${HASH}.tar`]);
  await files.tidy(() => false);
  assert.equal(existsSync(join(folder, TEMPLATE)), false);
});
