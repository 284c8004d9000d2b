/** The content API over HTTP: what is asked is checked, what is wrong is told in a word, and nothing is held beyond it. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { closeSync, openSync, readFileSync } from 'node:fs';
import { mkdtemp, rm, symlink } from 'node:fs/promises';
import { createServer, request } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import fc from 'fast-check';
import { CoppiceError, ERRORS, type ErrorCode } from '../../src/contract/errors.ts';
import { silentLog } from '../../src/telemetry/log.ts';
import { createContentServer } from '../../src/volumes/content-server.ts';

const OWN = `uid=${process.getuid!()}&gid=${process.getgid!()}`;

async function rig(t: TestContext) {
  const folder = await mkdtemp(join(tmpdir(), 'coppice-content-'));
  const root = openSync(folder, 'r');
  let held = 0;
  const serve = createContentServer({
    open: async (volumeID, token) => {
      if (token !== 'right') throw new CoppiceError('unauthorized', 'invalid token');
      if (volumeID !== 'vol') throw new CoppiceError('volume_not_found', 'not found');
      held++;
      return { root, release: () => void held-- };
    },
    log: silentLog,
  });
  // As the edge passes it on.
  const server = createServer((req, res) => void serve(req.headers['x-what'] as string, req, res));
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(async () => {
    server.closeAllConnections();
    server.close();
    closeSync(root);
    await rm(folder, { recursive: true, force: true });
  });
  const { port } = server.address() as AddressInfo;
  const ask = async (method: string, what: string, query: string, options: { token?: string; body?: string } = {}) => {
    const { token = 'right', body } = options;
    const answer = await fetch(`http://127.0.0.1:${port}/?${query}`, {
      method,
      headers: { authorization: `Bearer ${token}`, 'x-what': what },
      ...(body === undefined ? {} : { body }),
    });
    const text = await answer.text();
    const json = answer.headers.get('content-type')?.includes('json') ? JSON.parse(text) : undefined;
    return { status: answer.status, text, json };
  };
  return { ask, port, folder, held: () => held };
}

test('each verb does its own, and lets go of the volume', async (t) => {
  const { ask, folder, held } = await rig(t);
  assert.equal((await ask('POST', 'vol/dir', `path=/a/b&force=true&${OWN}`)).status, 201);
  assert.equal((await ask('PUT', 'vol/file', `path=/a/b/f&mode=384&${OWN}`, { body: 'text' })).json.mode, 0o600);
  assert.equal((await ask('GET', 'vol/file', 'path=/a/b/f')).text, 'text');
  assert.equal((await ask('PUT', 'vol/file', `path=/empty&${OWN}`, { body: '' })).json.size, 0);
  assert.equal((await ask('GET', 'vol/file', 'path=/empty')).text, '');
  assert.equal((await ask('GET', 'vol/dir', 'path=/&depth=3')).json.length, 4);
  assert.equal((await ask('PATCH', 'vol/path', 'path=/a/b/f', { body: '{"mode":420}' })).json.mode, 0o644);
  assert.equal((await ask('GET', 'vol/path', 'path=/a/b/f')).json.size, 4);
  assert.equal((await ask('DELETE', 'vol/path', 'path=/a')).status, 204);
  assert.equal((await ask('GET', 'vol/path', 'path=/a')).status, 404);
  await symlink('/etc/passwd', join(folder, 'link'));
  assert.equal((await ask('GET', 'vol/file', 'path=/link')).status, 400);
  assert.equal(held(), 0);
});

test('what is wrong is told by its name, with a word for a code', async (t) => {
  const { ask, held } = await rig(t);
  const table: readonly (readonly [string, string, string, ErrorCode, RegExp, { token?: string; body?: string }?])[] = [
    ['GET', 'vol/path', 'path=/', 'unauthorized', /token/, { token: 'wrong' }],
    ['GET', 'none/path', 'path=/', 'volume_not_found', /not found/],
    ['GET', 'vol/path', '', 'bad_request', /^path: /],
    ['GET', 'vol/path', 'path=/a&path=/b', 'bad_request', /^path: given several times/],
    ['GET', 'vol/path', 'path=/a&other=1', 'bad_request', /other/],
    ['GET', 'vol/dir', 'path=/&depth=0', 'bad_request', /^depth: /],
    ['GET', 'vol/dir', 'path=/&depth=x', 'bad_request', /^depth: /],
    ['POST', 'vol/dir', 'path=/a&mode=65536', 'bad_request', /^mode: /],
    ['POST', 'vol/dir', 'path=/a&uid=-1', 'bad_request', /^uid: /],
    ['POST', 'vol/dir', 'path=/a&force=maybe', 'bad_request', /^force: /],
    ['PATCH', 'vol/path', 'path=/', 'bad_request', /malformed JSON/, { body: '{' }],
    ['PATCH', 'vol/path', 'path=/', 'bad_request', /mode/, { body: '{"mode":"x"}' }],
    ['PATCH', 'vol/path', 'path=/', 'payload_too_large', /too large/, { body: `"${'x'.repeat(5000)}"` }],
    ['POST', 'vol/path', 'path=/', 'method_not_allowed', /POST/],
    ['GET', 'vol/other', 'path=/', 'route_not_found', /route/],
    ['GET', 'vol', 'path=/', 'route_not_found', /route/],
  ];
  for (const [method, what, query, code, message, options] of table) {
    const { status, json } = await ask(method, what, query, options);
    assert.deepEqual([status, json.code], [ERRORS[code].status, code], `${method} ${what} ${query}`);
    assert.match(json.message, message);
  }
  assert.equal(held(), 0);
});

test('a client that goes away in the middle leaves nothing', async (t) => {
  const { port, ask, held } = await rig(t);
  const upload = request({
    port,
    method: 'PUT',
    path: `/?path=/half&${OWN}`,
    headers: { authorization: 'Bearer right', 'x-what': 'vol/file', 'content-length': 1000 },
  });
  upload.on('error', () => {});
  upload.write('half');
  while (held() === 0) await new Promise((resolve) => setTimeout(resolve, 2));
  upload.destroy();
  while (held() !== 0) await new Promise((resolve) => setTimeout(resolve, 2));
  assert.deepEqual((await ask('GET', 'vol/dir', 'path=/')).json, []);
});

test('whatever is asked is answered, never with a fault of the server', async (t) => {
  const { ask } = await rig(t);
  const before = readFileSync('/etc/passwd');
  const word = fc.oneof(fc.string({ maxLength: 20 }), fc.constantFrom('/', '..', '/../..', 'a/b', '/etc/passwd', '\0'));
  await fc.assert(
    fc.asyncProperty(
      fc.constantFrom('GET', 'PUT', 'POST', 'PATCH', 'DELETE'),
      fc.constantFrom('vol/path', 'vol/dir', 'vol/file', 'vol/none'),
      fc.dictionary(fc.constantFrom('path', 'uid', 'gid', 'mode', 'depth', 'force', '__proto__'), word),
      fc.option(fc.oneof(fc.json(), fc.string())),
      async (method, what, query, body) => {
        const { status, json } = await ask(method, what, new URLSearchParams(query).toString(), {
          ...(body === null || method === 'GET' ? {} : { body }),
        });
        assert.ok(status < 500, `${method} ${what} ${JSON.stringify(query)}: ${status} ${JSON.stringify(json)}`);
      },
    ),
    { numRuns: 300 },
  );
  assert.deepEqual(readFileSync('/etc/passwd'), before);
});
