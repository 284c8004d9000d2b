/** Who may call: the token, signatures for /files, and the order in which they are judged. */
import assert from 'node:assert/strict';
import test from 'node:test';
import { basicUser, matchesSignature, sameSecret, signFileURL } from '../../src/envd/auth.ts';
import { fakeAgent, serve, TOKEN } from './envd-harness.ts';

test('signatures match the known vectors', () => {
  const vectors = [
    [
      '0tQG31xiMp0IOQfaz9dcwi72L1CPo8e0',
      'hello.txt',
      'read',
      'user',
      undefined,
      'v1_gUtH/s9YCJWgCizjfUxuWfhFE4QSydOWEIIvfLwDr6E',
    ],
    ['tok', 'x.txt', 'write', undefined, undefined, 'v1_eE8EHzZ/R2PPANj8P5bN51XQ2PXyY8DNHUVXsZmQ+gw'],
    ['tok', '', 'write', undefined, undefined, 'v1_XfYYOx0ojDc6kqfLnaJuiYLWXCK2SaWCthv8+gv5kbo'],
    ['tok', 'a.txt', 'read', undefined, 1795296701, 'v1_0tdjePEoPh6Emg65oLLRKzKRKeudDLKIMpYg+gWJkYU'],
  ] as const;
  for (const [token, path, operation, username, expiration, expected] of vectors) {
    assert.equal(
      signFileURL(token, {
        path,
        operation,
        ...(username === undefined ? {} : { username }),
        ...(expiration === undefined ? {} : { expiration }),
      }),
      expected,
    );
  }
});

/** A signed target; the parameters may be overridden afterwards. */
function signed(
  token: string,
  path: string,
  operation: 'read' | 'write',
  options: { username?: string; expiration?: number } = {},
): string {
  const query = new URLSearchParams({ path, signature: signFileURL(token, { path, operation, ...options }) });
  if (options.username !== undefined) query.set('username', options.username);
  if (options.expiration !== undefined) query.set('signature_expiration', String(options.expiration));
  return `/files?${query}`;
}

test('a signed URL is matched to the sandbox whose token signed it, and to no other', () => {
  const mine = { accessToken: 'tok-1' };
  const url = signed('tok-1', 'a b+c/é.txt', 'read', { username: 'user' });
  assert.equal(matchesSignature(mine, url), 'ok');
  assert.equal(matchesSignature(mine, new URL(url, 'http://x')), 'ok');
  assert.equal(matchesSignature(mine, url, 'read'), 'ok');
  assert.equal(matchesSignature(mine, url, 'write'), 'invalid');
  assert.equal(matchesSignature({ accessToken: 'tok-2' }, url), 'invalid');
  assert.equal(matchesSignature({}, url), 'invalid', 'an unsecured sandbox must not claim a signed URL');
  assert.equal(matchesSignature(mine, '/files?path=a'), 'missing');
  assert.equal(matchesSignature(mine, `${url}x`), 'invalid');
  const past = Math.floor(Date.now() / 1_000) - 5;
  assert.equal(matchesSignature(mine, signed('tok-1', 'a', 'read', { expiration: past })), 'expired');
  assert.equal(matchesSignature(mine, signed('tok-1', 'a', 'read', { expiration: past + 60 })), 'ok');
  assert.equal(matchesSignature(mine, signed('tok-1', 'a', 'read').concat('&signature_expiration=soon')), 'invalid');
});

test('secrets of any length compare', () => {
  assert.equal(sameSecret('abc', 'abc'), true);
  assert.equal(sameSecret('', 'abc'), false);
  assert.equal(sameSecret('abcd', 'abc'), false);
});

test('Basic names a user; other schemes name nobody', () => {
  assert.equal(basicUser(`Basic ${Buffer.from('root:').toString('base64')}`), 'root');
  assert.equal(basicUser(`basic ${Buffer.from('user').toString('base64')}`), 'user');
  assert.equal(basicUser(`Basic ${Buffer.from(':').toString('base64')}`), undefined);
  assert.equal(basicUser('Bearer abc'), undefined);
  assert.equal(basicUser(undefined), undefined);
});

test('every route but health and files needs the token', async () => {
  await using served = await serve(fakeAgent());
  const rpc = { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: '{}' };
  const routes: [string, RequestInit][] = [
    ['/metrics', {}],
    ['/envs', {}],
    ['/files/compose', { method: 'POST', body: '{}' }],
    ['/process.Process/List', rpc],
    ['/filesystem.Filesystem/Stat', rpc],
  ];
  for (const [path, init] of routes) {
    for (const token of [undefined, 'wrong']) {
      const headers = { ...init.headers, ...(token ? { 'X-Access-Token': token } : {}) };
      const response = await fetch(served.url + path, { ...init, headers });
      assert.equal(response.status, 401, path);
      const body = (await response.json()) as { code: number; message: string };
      assert.equal(body.code, 401);
      assert.match(body.message, /access token/);
    }
    const response = await fetch(served.url + path, { ...init, headers: { ...init.headers, 'X-Access-Token': TOKEN } });
    assert.notEqual(response.status, 401, path);
    await response.arrayBuffer();
  }
  assert.equal((await fetch(`${served.url}/health`)).status, 204);
});

test('files: a wrong token beats a good signature; then missing, wrong, late', async () => {
  const agent = fakeAgent();
  await using served = await serve(agent);
  await agent.write('hello.txt', bytes('hi'));
  const good = signed(TOKEN, 'hello.txt', 'read', { username: 'user' });
  const late = signed(TOKEN, 'hello.txt', 'read', { expiration: 1_000 });
  const cases: [string, string | undefined, number, RegExp | undefined][] = [
    [good, undefined, 200, undefined],
    [good, TOKEN, 200, undefined],
    ['/files?path=hello.txt', TOKEN, 200, undefined],
    [good, 'wrong', 401, /access token present in header but does not match/],
    ['/files?path=hello.txt', undefined, 401, /^missing signature query parameter$/],
    [signed('other', 'hello.txt', 'read'), undefined, 401, /^invalid signature$/],
    [signed(TOKEN, 'hello.txt', 'write'), undefined, 401, /^invalid signature$/],
    [late, undefined, 401, /^signature is already expired$/],
    [signed(TOKEN, 'nope.txt', 'read'), undefined, 404, /path '\/home\/user\/nope.txt' does not exist/],
  ];
  for (const [target, token, status, message] of cases) {
    const response = await fetch(served.url + target, {
      headers: token === undefined ? {} : { 'X-Access-Token': token },
    });
    assert.equal(response.status, status, target);
    if (message) {
      const body = (await response.json()) as { code: number; message: string };
      assert.equal(body.code, status);
      assert.match(body.message, message);
    } else assert.equal(await response.text(), 'hi');
  }
});

test('an upload needs a signature for writing', async () => {
  const agent = fakeAgent();
  await using served = await serve(agent);
  const post = (target: string) =>
    fetch(served.url + target, { method: 'POST', headers: { 'Content-Type': 'application/octet-stream' }, body: 'x' });
  assert.equal((await post(signed(TOKEN, 'up.txt', 'read'))).status, 401);
  assert.equal((await post(signed(TOKEN, 'up.txt', 'write'))).status, 200);
  assert.equal(agent.files.get('/home/user/up.txt')?.bytes.toString(), 'x');
});

test('a sandbox without a token is open', async () => {
  await using served = await serve(fakeAgent(), { accessToken: undefined });
  assert.equal((await fetch(`${served.url}/envs`)).status, 200);
  assert.equal((await fetch(`${served.url}/files?path=nope`)).status, 404);
});

async function* bytes(text: string): AsyncGenerator<Uint8Array> {
  yield Buffer.from(text);
}
