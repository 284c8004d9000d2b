/** GET and POST /files, and compose: bodies, encodings, ranges, metadata, and what is refused. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { connect } from 'node:net';
import test from 'node:test';
import { gunzipSync, gzipSync } from 'node:zlib';
import { chooseEncoding } from '../../src/envd/accept-encoding.ts';
import { parseRange } from '../../src/envd/byte-range.ts';
import { contentTypeOf } from '../../src/envd/content-type.ts';
import { inlineDisposition } from '../../src/envd/download.ts';
import { bytesOf, fakeAgent, serve } from './envd-harness.ts';

const open = { accessToken: undefined };

function put(agent: ReturnType<typeof fakeAgent>, path: string, content: string | Buffer): void {
  agent.files.set(path, { bytes: Buffer.from(content), metadata: {}, user: 'user' });
}

test('a download is the bytes, inline, with type, length and Vary', async () => {
  const agent = fakeAgent();
  await using served = await serve(agent, open);
  const content = randomBytes(300_000);
  put(agent, '/home/user/d/x.bin', content);
  const response = await fetch(`${served.url}/files?path=d/x.bin`, { headers: { 'Accept-Encoding': 'identity' } });
  assert.equal(response.status, 200);
  assert.equal(response.headers.get('content-disposition'), 'inline; filename=x.bin');
  assert.equal(response.headers.get('vary'), 'Accept-Encoding');
  assert.equal(response.headers.get('content-length'), '300000');
  assert.equal(response.headers.get('content-type'), 'application/octet-stream');
  assert.equal(response.headers.get('last-modified'), 'Tue, 14 Nov 2023 22:13:20 GMT');
  assert.equal(response.headers.get('access-control-allow-origin'), '*');
  assert.deepEqual(Buffer.from(await response.arrayBuffer()), content);
});

test('gzip goes to who prefers it, and 406 to who refuses everything', async () => {
  const agent = fakeAgent();
  await using served = await serve(agent, open);
  put(agent, '/home/user/a.txt', 'hello '.repeat(1_000));
  const get = (encoding: string) => raw(served.url, 'GET /files?path=a.txt', { 'Accept-Encoding': encoding });
  const zipped = await get('gzip');
  assert.match(zipped.head, /^content-encoding: gzip/im);
  assert.equal(gunzipSync(dechunk(zipped.body)).toString(), 'hello '.repeat(1_000));
  assert.doesNotMatch((await get('identity')).head, /^content-encoding/im);
  assert.match((await get('identity;q=0, gzip;q=0')).head, /^HTTP\/1.1 406/);
  assert.match((await get('br, *;q=0')).head, /^HTTP\/1.1 406/);
});

test('encodings are chosen by weight', () => {
  const cases: [string | undefined, string | undefined][] = [
    [undefined, 'identity'],
    ['', 'identity'],
    ['gzip', 'gzip'],
    ['gzip, deflate', 'gzip'],
    ['identity, gzip', 'identity'],
    ['gzip;q=0.5, identity;q=0.8', 'identity'],
    ['gzip;q=0.8, identity;q=0.5', 'gzip'],
    ['gzip;q=0', 'identity'],
    ['br', 'identity'],
    ['*', 'gzip'],
    ['*;q=0', undefined],
    ['identity;q=0', undefined],
    ['identity;q=0, gzip', 'gzip'],
    ['gzip;q=nonsense', 'gzip'],
  ];
  for (const [header, expected] of cases) assert.equal(chooseEncoding(header), expected, String(header));
});

test('an empty file answers Content-Length 0, whatever encodings are accepted', async () => {
  const agent = fakeAgent();
  await using served = await serve(agent, open);
  put(agent, '/home/user/empty', '');
  const response = await raw(served.url, 'GET /files?path=empty', { 'Accept-Encoding': 'gzip' });
  assert.match(response.head, /^HTTP\/1.1 200/);
  assert.match(response.head, /content-length: 0/i);
  assert.doesNotMatch(response.head, /transfer-encoding/i);
});

test('ranges and conditions', async () => {
  const agent = fakeAgent();
  await using served = await serve(agent, open);
  put(agent, '/home/user/r.txt', '0123456789');
  const get = (headers: Record<string, string>) => fetch(`${served.url}/files?path=r.txt`, { headers });
  const cases: [string, number, string, string | null][] = [
    ['bytes=2-4', 206, '234', 'bytes 2-4/10'],
    ['bytes=7-', 206, '789', 'bytes 7-9/10'],
    ['bytes=-3', 206, '789', 'bytes 7-9/10'],
    ['bytes=5-999', 206, '56789', 'bytes 5-9/10'],
    ['bytes=0-0,2-3', 200, '0123456789', null],
    ['lines=1-2', 200, '0123456789', null],
  ];
  for (const [range, status, body, contentRange] of cases) {
    const response = await get({ Range: range });
    assert.equal(response.status, status, range);
    assert.equal(await response.text(), body, range);
    assert.equal(response.headers.get('content-range'), contentRange, range);
    assert.equal(response.headers.get('content-encoding'), null, range);
  }
  const outside = await get({ Range: 'bytes=10-' });
  assert.equal(outside.status, 416);
  assert.equal(outside.headers.get('content-range'), 'bytes */10');
  assert.equal(((await outside.json()) as { code: number }).code, 416);
  const date = 'Tue, 14 Nov 2023 22:13:20 GMT';
  assert.equal((await get({ 'If-Modified-Since': date })).status, 304);
  assert.equal((await get({ 'If-Modified-Since': 'Tue, 14 Nov 2023 22:13:19 GMT' })).status, 200);
  assert.equal((await get({ 'If-Unmodified-Since': 'Tue, 14 Nov 2023 22:13:19 GMT' })).status, 412);
  assert.equal((await get({ Range: 'bytes=0-1', 'If-Range': date })).status, 206);
  assert.equal((await get({ Range: 'bytes=0-1', 'If-Range': '"tag"' })).status, 200);
});

test('ranges of odd files', () => {
  assert.equal(parseRange('bytes=0-', 0), 'unsatisfiable');
  assert.equal(parseRange('bytes=-0', 5), 'unsatisfiable');
  assert.equal(parseRange('bytes=4-2', 5), undefined);
  assert.deepEqual(parseRange('bytes=-9', 5), { start: 0, end: 4 });
});

test('content types and names', () => {
  assert.equal(contentTypeOf('a.JSON', Buffer.from('x')), 'application/json');
  assert.equal(contentTypeOf('noext', Buffer.from('plain é\n')), 'text/plain; charset=utf-8');
  assert.equal(contentTypeOf('noext', Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a])), 'image/png');
  assert.equal(contentTypeOf('noext', Buffer.from([1, 2, 3])), 'application/octet-stream');
  assert.equal(inlineDisposition('a b".txt'), 'inline; filename="a b\\".txt"');
  assert.equal(inlineDisposition('é\r\n.txt'), "inline; filename*=utf-8''%C3%A9%0D%0A.txt");
  assert.doesNotThrow(() => inlineDisposition('\ud800'));
});

test('a directory is 400, a missing file 404, an unknown user 401', async () => {
  const agent = fakeAgent();
  await using served = await serve(agent, open);
  put(agent, '/home/user/d/x', 'x');
  const status = async (query: string) => (await fetch(`${served.url}/files?${query}`)).status;
  assert.equal(await status('path=d'), 400);
  assert.equal(await status('path=nope'), 404);
  assert.equal(await status('path=d/x&username=eve'), 401);
  assert.equal(await status('path=d/x&username=root'), 200);
  assert.equal(await status(`path=${'x'.repeat(5_000)}`), 400);
  assert.equal(await status('path=a%00b'), 400);
});

test('a multipart upload keeps folders in names and reports each file', async () => {
  const agent = fakeAgent();
  await using served = await serve(agent, open);
  const big = randomBytes(700_000);
  const form = new FormData();
  form.append('note', 'ignored');
  form.append('file', new Blob([big]), 'dir/sub/big.bin');
  form.append('file', new Blob([]), '/tmp/empty');
  form.append('other', new Blob(['ignored']), 'other.bin');
  form.append('file', new Blob(['ünï']), 'ünï "quoted".txt');
  const response = await fetch(`${served.url}/files`, {
    method: 'POST',
    body: form,
    headers: { 'X-Metadata-Colour': 'blue' },
  });
  assert.equal(response.status, 200);
  const metadata = { colour: 'blue' };
  const entries = (await response.json()) as { path: string }[];
  assert.deepEqual(entries.slice(0, 2), [
    { path: '/home/user/dir/sub/big.bin', name: 'big.bin', type: 'file', metadata },
    { path: '/tmp/empty', name: 'empty', type: 'file', metadata },
  ]);
  assert.equal(entries.length, 3);
  assert.deepEqual(agent.files.get('/home/user/dir/sub/big.bin')?.bytes, big);
  assert.equal(agent.files.get('/tmp/empty')?.bytes.length, 0);
  assert.equal(agent.files.get(entries[2]!.path)?.bytes.toString(), 'ünï');
  assert.equal(agent.files.has('/home/user/other.bin'), false);
});

test('hundreds of small parts take few streams at once', async () => {
  const agent = fakeAgent();
  let now = 0;
  let most = 0;
  const write = agent.write.bind(agent);
  agent.write = async (...args) => {
    most = Math.max(most, ++now);
    await new Promise((resolve) => setImmediate(resolve));
    return write(...args).finally(() => now--);
  };
  await using served = await serve(agent, open);
  const form = new FormData();
  for (let i = 0; i < 600; i++) form.append('file', new Blob([`file ${i}`]), `many/${i}.txt`);
  const response = await fetch(`${served.url}/files`, { method: 'POST', body: form });
  const entries = (await response.json()) as { name: string }[];
  assert.deepEqual(
    entries.map(({ name }) => name),
    Array.from({ length: 600 }, (_, i) => `${i}.txt`),
  );
  assert.equal(agent.files.get('/home/user/many/599.txt')?.bytes.toString(), 'file 599');
  assert.ok(most <= 8, `${most} at once`);
});

test('the query path names a single part, with or without a file name', async () => {
  const agent = fakeAgent();
  await using served = await serve(agent, open);
  const form = new FormData();
  form.append('file', new Blob(['a']), 'elsewhere.txt');
  assert.equal(
    (await fetch(`${served.url}/files?path=q.txt&username=root`, { method: 'POST', body: form })).status,
    200,
  );
  assert.equal(agent.files.get('/home/user/q.txt')?.bytes.toString(), 'a');
  assert.equal(agent.files.get('/home/user/q.txt')?.user, 'root');

  const content = Buffer.concat([Buffer.from([0xff, 0xfe, 0x00, 0x80]), randomBytes(64)]);
  const plain = await multipart(served.url, '/files?path=plain.bin', [
    [Buffer.from('Content-Disposition: form-data; name="file"'), content],
  ]);
  assert.match(plain.head, /^HTTP\/1.1 200/);
  assert.deepEqual(agent.files.get('/home/user/plain.bin')?.bytes, content, 'bytes that are not text survive');

  const nameless = await multipart(served.url, '/files', [
    [Buffer.from('Content-Disposition: form-data; name="file"'), content],
  ]);
  assert.match(nameless.head, /^HTTP\/1.1 400/);
});

test('the same path twice is 400, in whatever spelling', async () => {
  await using served = await serve(fakeAgent(), open);
  for (const names of [
    ['a.txt', 'a.txt'],
    ['a.txt', './a.txt'],
    ['a.txt', '/home/user/a.txt'],
    ['~/a.txt', 'a.txt'],
  ]) {
    const form = new FormData();
    for (const name of names) form.append('file', new Blob(['x']), name);
    const response = await fetch(`${served.url}/files`, { method: 'POST', body: form });
    assert.equal(response.status, 400, names.join());
    assert.match(((await response.json()) as { message: string }).message, /twice/);
  }
});

test('a raw upload, plain and gzipped, chunked', async () => {
  const agent = fakeAgent();
  await using served = await serve(agent, open);
  const content = randomBytes(500_000);
  const post = (path: string, body: NonNullable<RequestInit['body']>, headers: Record<string, string> = {}) =>
    fetch(`${served.url}/files?path=${path}`, {
      method: 'POST',
      body,
      headers: { 'Content-Type': 'application/octet-stream', ...headers },
      duplex: 'half',
    } as RequestInit);
  const chunks = async function* () {
    for (let at = 0; at < content.length; at += 10_000) yield content.subarray(at, at + 10_000);
  };
  assert.equal(
    (await post('s.bin', ReadableStream.from(chunks()) as ReadableStream<Uint8Array<ArrayBuffer>>)).status,
    200,
  );
  assert.deepEqual(agent.files.get('/home/user/s.bin')?.bytes, content);
  const zipped = await post('z.bin', gzipSync(content), { 'Content-Encoding': 'gzip' });
  assert.deepEqual(await zipped.json(), [{ path: '/home/user/z.bin', name: 'z.bin', type: 'file' }]);
  assert.deepEqual(agent.files.get('/home/user/z.bin')?.bytes, content);

  assert.equal((await post('z', 'not gzip', { 'Content-Encoding': 'gzip' })).status, 400);
  assert.equal((await post('z', gzipSync(content).subarray(0, 1_000), { 'Content-Encoding': 'gzip' })).status, 400);
  assert.equal((await post('z', 'x', { 'Content-Encoding': 'br' })).status, 400);
  assert.equal((await post('', 'x')).status, 400);
  assert.equal((await post('z', 'x', { 'Content-Type': 'text/plain' })).status, 400);
  assert.equal((await post('z', 'x', { 'Content-Type': 'multipart/form-data' })).status, 400);
  assert.equal((await post('z', 'x', { 'Content-Type': 'multipart/form-data; boundary=b' })).status, 400);
});

test('metadata is checked and replaced as a whole', async () => {
  const agent = fakeAgent();
  await using served = await serve(agent, open);
  const post = (headers: Record<string, string>) =>
    fetch(`${served.url}/files?path=m`, {
      method: 'POST',
      body: 'x',
      headers: { 'Content-Type': 'application/octet-stream', ...headers },
    });
  assert.equal((await post({ 'X-Metadata-A': '1', 'X-Metadata-B': '2' })).status, 200);
  assert.deepEqual(agent.files.get('/home/user/m')?.metadata, { a: '1', b: '2' });
  assert.equal((await post({ 'X-Metadata-C': '3' })).status, 200);
  assert.deepEqual(agent.files.get('/home/user/m')?.metadata, { c: '3' });
  assert.equal((await post({ [`X-Metadata-${'k'.repeat(247)}`]: '1' })).status, 400);
  assert.equal((await post({ 'X-Metadata-K': 'v'.repeat(4_097) })).status, 400);
  assert.equal((await post({ 'X-Metadata-K': 'caf\u00e9' })).status, 400);
});

test('a full disk is 507, and the connection is usable afterwards', async () => {
  const agent = fakeAgent();
  await using served = await serve(agent, open);
  agent.diskBytes = 100_000;
  const big = randomBytes(3_000_000);
  const raw = await fetch(`${served.url}/files?path=b`, {
    method: 'POST',
    body: big,
    headers: { 'Content-Type': 'application/octet-stream' },
  });
  assert.equal(raw.status, 507);
  assert.equal(((await raw.json()) as { code: number }).code, 507);
  const form = new FormData();
  form.append('file', new Blob([big]), 'b');
  const multi = await fetch(`${served.url}/files`, { method: 'POST', body: form });
  assert.equal(multi.status, 507);
  await multi.arrayBuffer();
  assert.equal((await fetch(`${served.url}/health`)).status, 204);
});

test('compose joins and removes', async () => {
  const agent = fakeAgent();
  await using served = await serve(agent, open);
  put(agent, '/home/user/p1', 'one ');
  put(agent, '/home/user/p2', 'two');
  const post = (body: unknown) =>
    fetch(`${served.url}/files/compose`, {
      method: 'POST',
      body: typeof body === 'string' ? body : JSON.stringify(body),
    });
  const response = await post({ source_paths: ['p1', 'p2'], destination: 'all.txt' });
  assert.equal(response.status, 200);
  assert.deepEqual(await response.json(), { path: '/home/user/all.txt', name: 'all.txt', type: 'file' });
  assert.equal(agent.files.get('/home/user/all.txt')?.bytes.toString(), 'one two');
  assert.equal(agent.files.has('/home/user/p1'), false);
  assert.equal((await post({ source_paths: ['p1'], destination: 'x' })).status, 404);
  for (const bad of ['', 'nonsense', '[]', {}, { source_paths: [], destination: 'x' }, { source_paths: ['a'] }]) {
    const refused = await post(bad);
    assert.equal(refused.status, 400, JSON.stringify(bad));
    assert.equal(((await refused.json()) as { code: number }).code, 400);
  }
  assert.equal((await post('x'.repeat(2_000_000))).status, 413);
});

interface RawReply {
  readonly head: string;
  readonly body: Buffer;
}

/** One request without a client library in between; the whole reply. */
async function raw(url: string, line: string, headers: Record<string, string>, body?: Buffer): Promise<RawReply> {
  const { port } = new URL(url);
  const socket = connect(Number(port), '127.0.0.1');
  const lines = Object.entries({ Host: 'x', Connection: 'close', ...headers }).map(
    ([name, value]) => `${name}: ${value}`,
  );
  socket.write(`${line} HTTP/1.1\r\n${lines.join('\r\n')}\r\n\r\n`);
  if (body) socket.write(body);
  const reply = await bytesOf(socket);
  const end = reply.indexOf('\r\n\r\n');
  return { head: reply.subarray(0, end).toString(), body: reply.subarray(end + 4) };
}

function multipart(url: string, target: string, parts: [Buffer, Buffer][]): Promise<RawReply> {
  const body = Buffer.concat([
    ...parts.flatMap(([head, content]) => [
      Buffer.from('--bound\r\n'),
      head,
      Buffer.from('\r\n\r\n'),
      content,
      Buffer.from('\r\n'),
    ]),
    Buffer.from('--bound--\r\n'),
  ]);
  const headers = { 'Content-Type': 'multipart/form-data; boundary=bound', 'Content-Length': String(body.length) };
  return raw(url, `POST ${target}`, headers, body);
}

function dechunk(body: Buffer): Buffer {
  const chunks: Buffer[] = [];
  for (let at = 0; ; ) {
    const line = body.indexOf('\r\n', at);
    const size = Number.parseInt(body.subarray(at, line).toString(), 16);
    if (size === 0) return Buffer.concat(chunks);
    chunks.push(body.subarray(line + 2, line + 2 + size));
    at = line + 2 + size + 2;
  }
}
