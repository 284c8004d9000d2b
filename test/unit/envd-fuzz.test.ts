/** Whatever is sent: an answer that means something, no crash, and the next request is served. */
import assert from 'node:assert/strict';
import { request } from 'node:http';
import test from 'node:test';
import fc from 'fast-check';
import { fakeAgent, type Served, serve, TOKEN } from './envd-harness.ts';

const RUNS = 3_000;

const paths = fc.oneof(
  fc.constantFrom(
    '/health',
    '/metrics',
    '/envs',
    '/init',
    '/freeze',
    '/files',
    '/files/compose',
    '/process.Process/Start',
    '/process.Process/Connect',
    '/process.Process/List',
    '/process.Process/Update',
    '/process.Process/StreamInput',
    '/process.Process/SendSignal',
    '/process.Process/Nope',
    '/filesystem.Filesystem/Stat',
    '/filesystem.Filesystem/ListDir',
    '/filesystem.Filesystem/WatchDir',
    '/filesystem.Filesystem/GetWatcherEvents',
    '//',
    '/../..',
    '*',
    'http://elsewhere/files',
    '/files/',
    '/constructor',
    '/__proto__',
  ),
  fc.webPath(),
);
const queries = fc.oneof(
  fc.constant(''),
  fc.constantFrom(
    '?path=a.txt',
    '?path=',
    '?path=%00',
    '?path=%ff%fe',
    '?path=/&username=root',
    '?username=eve&path=a.txt',
  ),
  fc.constantFrom(
    '?path=a.txt&signature=v1_x',
    '?signature=&signature_expiration=-1&path=a',
    '?%',
    '?connect=v1&encoding=json',
  ),
  fc.webQueryParameters().map((query) => `?${query}`),
);
const headers = fc.record(
  {
    'x-access-token': fc.constantFrom(TOKEN, 'wrong', ''),
    'content-type': fc.constantFrom(
      'application/json',
      'application/proto',
      'application/connect+json',
      'application/connect+proto',
      'application/octet-stream',
      'multipart/form-data; boundary=b',
      'multipart/form-data',
      'text/plain',
      ';;',
    ),
    'content-encoding': fc.constantFrom('gzip', 'identity', 'br', ''),
    'connect-content-encoding': fc.constantFrom('gzip', 'identity', 'zstd'),
    'accept-encoding': fc.constantFrom('gzip', '*;q=0', 'identity;q=0', ',;,q=', 'gzip;q=2'),
    'connect-timeout-ms': fc.constantFrom('40', '9999999999', '-1', 'abc', '99999999999'),
    'connect-protocol-version': fc.constantFrom('1', '2'),
    'keepalive-ping-interval': fc.constantFrom('0', '-1', 'x', '99999999999'),
    authorization: fc.constantFrom('Basic ', 'Basic ####', 'Basic cm9vdDo=', 'Basic ZXZlOg==', 'Bearer x'),
    range: fc.constantFrom('bytes=0-', 'bytes=-', 'bytes=9-1', 'bytes=99999999999999999-', 'x'),
    'if-modified-since': fc.constantFrom('yesterday', 'Tue, 14 Nov 2023 22:13:20 GMT'),
    'x-metadata-k': fc.constantFrom('v', 'é', 'v'.repeat(5_000)),
    'access-control-request-headers': fc.constantFrom('x', ''),
  },
  { requiredKeys: [] },
);
const bodies = fc.oneof(
  fc.uint8Array({ maxLength: 200 }).map((bytes) => Buffer.from(bytes)),
  fc.json({ maxDepth: 2 }).map((text) => Buffer.from(text)),
  fc.json({ maxDepth: 2 }).map(enveloped),
  fc
    .constantFrom(
      '{"process":{"cmd":"x"}}',
      '{"process":{"pid":1}}',
      '{"process":{"tag":""},"signal":77}',
      '{"path":"a.txt"}',
      '{"path":""}',
      '{"path":"\\ud800"}',
      '{"source_paths":["a.txt"],"destination":"b"}',
      '{"source_paths":["__proto__"],"destination":""}',
    )
    .chain((text) => fc.constantFrom(Buffer.from(text), enveloped(text))),
  fc
    .constantFrom(
      '--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\nx\r\n--b--\r\n',
      '--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\nx',
      '--b\r\n\r\n--b--',
      '--b--',
    )
    .map((text) => Buffer.from(text)),
);

function enveloped(text: string): Buffer {
  const head = Buffer.alloc(5);
  head.writeUInt32BE(Buffer.byteLength(text), 1);
  return Buffer.concat([head, Buffer.from(text)]);
}

interface Answer {
  readonly status: number;
  readonly type: string | undefined;
  readonly body: string;
}

/** One request; streams that would go on are cut after their first bytes. */
function send(
  served: Served,
  method: string,
  path: string,
  sent: Record<string, string | undefined>,
  body: Buffer,
): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const { port } = new URL(served.url);
    const content = method === 'GET' || method === 'HEAD' ? undefined : body;
    const length = content === undefined ? {} : { 'content-length': String(content.length) };
    const headers = { ...clean(sent), ...length };
    const outgoing = request({ host: '127.0.0.1', port, method, path, headers }, (res) => {
      const chunks: Buffer[] = [];
      const done = (): void =>
        resolve({
          status: res.statusCode!,
          type: res.headers['content-type'],
          body: Buffer.concat(chunks).toString('latin1'),
        });
      const patience = setTimeout(() => {
        done();
        res.destroy();
      }, 30);
      res.on('data', (chunk: Buffer) => chunks.push(chunk));
      res.on('error', () => {});
      res.on('end', () => {
        clearTimeout(patience);
        done();
      });
    });
    outgoing.on('error', reject);
    outgoing.end(content);
  });
}

function clean(sent: Record<string, string | undefined>): Record<string, string> {
  const entries = Object.entries(sent).filter((entry): entry is [string, string] => entry[1] !== undefined);
  return Object.fromEntries(entries);
}

test('no request is answered with a fault of ours', async () => {
  const agent = fakeAgent();
  await using secured = await serve(agent);
  await using unsecured = await serve(agent, { accessToken: undefined });
  const seen = new Set<number>();
  const methods = fc.constantFrom('GET', 'GET', 'POST', 'POST', 'POST', 'POST', 'PUT', 'DELETE', 'HEAD', 'OPTIONS');
  const servers = fc.constantFrom(secured, unsecured);
  const inputs = [servers, methods, paths, queries, headers, bodies] as const;
  await fc.assert(
    fc.asyncProperty(...inputs, async (served, method, path, query, sent, body) => {
      agent.files.set('/home/user/a.txt', { bytes: Buffer.from('content'), metadata: {}, user: 'user' });
      const answer = await send(served, method, path + query, sent, body);
      seen.add(answer.status);
      const fine = answer.status < 500 || [501, 502, 503, 504, 507].includes(answer.status);
      assert.ok(fine, `${answer.status} ${answer.body}`);
      if (answer.status >= 400 && method !== 'HEAD' && answer.body !== '') {
        assert.match(String(answer.type), /application\/json/);
        assert.ok('code' in JSON.parse(answer.body));
      }
      if (answer.status === 504) assert.equal(sent['connect-timeout-ms'], '40');
    }),
    { numRuns: RUNS },
  );
  for (const status of [200, 204, 400, 401, 404, 405]) assert.ok(seen.has(status), `${status} was never reached`);
  for (const served of [secured, unsecured]) {
    assert.equal((await send(served, 'GET', '/health', {}, Buffer.alloc(0))).status, 204);
  }
});
