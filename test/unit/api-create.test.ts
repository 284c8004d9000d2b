/** Create: both generations, defaults, what is honoured, what is refused by name, what is invalid. */
import assert from 'node:assert/strict';
import test from 'node:test';
import { createFakeNode, serveAPI } from '../helpers/fake-node.ts';

const node = createFakeNode();
const api = await serveAPI(node, { domain: 'sandboxes.test:8443' });
test.after(api.close);

const V1 = '/sandboxes';
const V2 = '/v2/sandboxes';
const last = () => node.requests.at(-1)!;

test('v1 lives 15 s and is open unless asked; v2 lives 300 s and is always secured', async () => {
  const one = await api.call('POST', V1, { body: { templateID: 'base' } });
  assert.equal(one.status, 201);
  assert.equal(last().timeoutSeconds, 15);
  assert.equal(last().secure, false);
  assert.equal('envdAccessToken' in one.json, false);
  assert.equal(one.json.clientID, '6532622b');
  assert.equal(one.json.domain, 'sandboxes.test:8443');
  const two = await api.call('POST', V2, { body: { templateID: 'base' } });
  assert.equal(two.status, 201);
  assert.equal(last().timeoutSeconds, 300);
  assert.equal(last().secure, true);
  assert.match(two.json.envdAccessToken, /^[0-9a-f]{64}$/);
});

test('what the older SDKs always fill in is accepted', async () => {
  const body = {
    templateID: 'base',
    timeout: 300,
    secure: true,
    allow_internet_access: true,
    autoPause: false,
    autoPauseMemory: true,
    autoResume: { enabled: false },
    metadata: { a: 'b' },
    envVars: {},
    mcp: null,
    network: { allowPublicTraffic: true, allowOut: [], denyOut: [], egressProxy: null, rules: {}, httpsPorts: [] },
    volumeMounts: [],
    iam: {},
    aMemberOfTheFuture: 1,
  };
  assert.equal((await api.call('POST', V1, { body })).status, 201);
  assert.deepEqual(last(), {
    teamID: api.teamID,
    template: 'base',
    timeoutSeconds: 300,
    secure: true,
    metadata: { a: 'b' },
    envVars: {},
    network: { allowInternetAccess: true },
  });
});

test('v1 reads null as absent, v2 refuses it', async () => {
  for (const name of [
    'timeout',
    'autoPause',
    'autoResume',
    'allow_internet_access',
    'network',
    'metadata',
    'envVars',
    'volumeMounts',
    'iam',
  ]) {
    const body = { templateID: 'base', [name]: null };
    assert.equal((await api.call('POST', V1, { body })).status, 201, name);
    const strict = await api.call('POST', V2, { body });
    assert.equal(strict.status, 400, name);
    assert.match(strict.json.message, new RegExp(`^validation error: ${name}: `));
  }
  for (const path of [V1, V2])
    assert.equal(
      (await api.call('POST', path, { body: { templateID: 'base', mcp: null, network: { egressProxy: null } } }))
        .status,
      201,
    );
});

test('internet access: absent, true, false, and deny everything', async () => {
  const table: [Record<string, unknown>, boolean | undefined][] = [
    [{}, undefined],
    [{ allow_internet_access: true }, true],
    [{ allow_internet_access: false }, false],
    [{ network: { denyOut: ['0.0.0.0/0'] } }, false],
    [{ allow_internet_access: true, network: { denyOut: ['0.0.0.0/0'], allowOut: [] } }, false],
  ];
  for (const path of [V1, V2])
    for (const [more, expected] of table) {
      const made = await api.call('POST', path, { body: { templateID: 'base', ...more } });
      assert.equal(made.status, 201, made.text);
      assert.equal(last().network.allowInternetAccess, expected);
      const { json } = await api.call('GET', `/sandboxes/${made.json.sandboxID}`);
      assert.equal(json.allowInternetAccess, expected ?? null);
    }
});

test('volumes are mounted at paths of their own', async () => {
  const at = (...paths: string[]) => paths.map((path) => ({ name: 'v', path }));
  for (const path of [V1, V2]) {
    const fine = at('/data', '/home/user/a', '/mnt/x/y');
    const made = await api.call('POST', path, { body: { templateID: 'base', volumeMounts: fine } });
    assert.equal(made.status, 201, made.text);
    assert.deepEqual(last().volumeMounts, fine);
    const told = await api.call('GET', `/sandboxes/${made.json.sandboxID}`);
    assert.deepEqual(told.json.volumeMounts, fine);
    for (const bad of [
      at('data'),
      at('/'),
      at('/data/'),
      at('/a/../b'),
      at('//a'),
      at('/proc'),
      at('/sys/x'),
      at('/run/coppice/drive'),
      at('/dev/shm'),
      at('/etc'),
      at('/usr'),
      at('/a\0b'),
      at('/a', '/a'),
      at('/a', '/a/b'),
      at(...Array.from({ length: 17 }, (_, index) => `/v${index}`)),
    ]) {
      const answer = await api.call('POST', path, { body: { templateID: 'base', volumeMounts: bad } });
      assert.equal(answer.status, 400, JSON.stringify(bad));
      assert.match(answer.json.message, /^volumeMounts: |^validation error: volumeMounts/);
    }
  }
});

test('members that are not honoured are refused by name', async () => {
  const before = node.requests.length;
  const table: [string, Record<string, unknown>][] = [
    ['mcp', { mcp: {} }],
    ['iam', { iam: { tokens: { t: { audience: 'a', tokenType: 'b' } } } }],
    ['network.allowOut', { network: { allowOut: ['1.1.1.1'] } }],
    ['network.allowOut', { network: { allowOut: ['1.1.1.1'], denyOut: ['0.0.0.0/0'] } }],
    ['network.denyOut', { network: { denyOut: ['10.0.0.0/8'] } }],
    ['network.denyOut', { network: { denyOut: ['0.0.0.0/0', '::/0'] } }],
    ['network.egressProxy', { network: { egressProxy: { address: 'p:1080' } } }],
    ['network.rules', { network: { rules: { 'a.test': [] } } }],
    ['network.httpsPorts', { network: { httpsPorts: [8443] } }],
  ];
  for (const path of [V1, V2])
    for (const [name, more] of table) {
      const answer = await api.call('POST', path, { body: { templateID: 'base', ...more } });
      assert.equal(answer.status, 400, `${name}: ${answer.text}`);
      assert.ok(answer.json.message.startsWith(`${name} is not supported`), answer.text);
    }
  assert.equal(node.requests.length, before);
});

test('traffic that is not public takes a secure sandbox, and a masked host is a host', async () => {
  const closed = { templateID: 'base', network: { allowPublicTraffic: false } };
  assert.match((await api.call('POST', V1, { body: closed })).json.message, /unless you enable secure envd access/);
  const [opened, kept] = [
    await api.call('POST', V1, { body: { templateID: 'base', network: {} } }),
    await api.call('POST', V1, { body: { ...closed, secure: true } }),
  ];
  assert.equal(opened.json.trafficAccessToken, null);
  assert.match(kept.json.trafficAccessToken, /^[0-9a-f]{64}$/);
  const port = '$' + '{PORT}';
  const hosts = (texts: readonly string[]) =>
    Promise.all(
      texts.map(async (maskRequestHost) => {
        const { status } = await api.call('POST', V2, { body: { templateID: 'base', network: { maskRequestHost } } });
        return [maskRequestHost, status];
      }),
    );
  const good = ['localhost', `localhost:${port}`, `${port}-a.b_c.test`, '127.0.0.1:80'];
  assert.deepEqual(
    await hosts(good),
    good.map((text) => [text, 201]),
  );
  const bad = [
    'a b',
    'a\r\nX: y',
    'a:',
    ':80',
    'a:0',
    'a:65536',
    'http://a',
    'a/b',
    '$' + '{PATH}',
    'a'.repeat(256),
    'é',
  ];
  assert.deepEqual(
    await hosts(bad),
    bad.map((text) => [text, 400]),
  );
});

test("invalid bodies get 400 with E2B's prefix, and never reach the node", async () => {
  const before = node.requests.length;
  const both: unknown[] = [
    undefined,
    '',
    ' ',
    '{',
    'null',
    '[]',
    '"base"',
    '{}',
    Buffer.from([0x7b, 0xff, 0x7d]),
    '[['.repeat(200_000),
    `{"templateID":"base","mcp":${'['.repeat(50_000)}1.5${']'.repeat(50_000)}}`,
    '{"templateID":"base","timeout":300.0}',
    '{"templateID":"base","timeout":3e2}',
    '{"templateID":"base","metadata":{"__proto__":"x"}}',
    { templateID: '' },
    { templateID: 7 },
    { templateID: 'x'.repeat(257) },
    { templateID: 'base', timeout: '300' },
    { templateID: 'base', timeout: 2 ** 31 },
    { templateID: 'base', timeout: true },
    { templateID: 'base', metadata: [] },
    { templateID: 'base', metadata: { a: 1 } },
    { templateID: 'base', metadata: { a: null } },
    { templateID: 'base', metadata: { a: '\ud800' } },
    { templateID: 'base', metadata: Object.fromEntries(Array.from({ length: 129 }, (_, i) => [`k${i}`, ''])) },
    { templateID: 'base', metadata: { ['k'.repeat(257)]: '' } },
    { templateID: 'base', metadata: { k: 'v'.repeat(8193) } },
    { templateID: 'base', envVars: { '': 'x' } },
    { templateID: 'base', envVars: { 'A=B': 'x' } },
    { templateID: 'base', envVars: { A: 'x\0y' } },
    { templateID: 'base', envVars: { A: 'v'.repeat(65_537) } },
    { templateID: 'base', network: { allowOut: 'x' } },
    { templateID: 'base', network: { aNewPolicy: true } },
    { templateID: 'base', autoResume: {} },
    { templateID: 'base', volumeMounts: [{}] },
  ];
  for (const path of [V1, V2])
    for (const body of both) {
      const answer = await api.call('POST', path, {
        body: body as never,
        headers: { 'content-type': 'application/json' },
      });
      assert.equal(answer.status, 400, `${String(JSON.stringify(body)).slice(0, 100)}: ${answer.text}`);
      assert.match(answer.json.message, /^validation error: /);
      assert.ok(answer.json.message.length < 1000);
    }
  for (const body of [
    { templateID: 'base', secure: true },
    { templateID: 'base', unheardOf: 1 },
    { templateID: 'base', autoResume: { enabled: false, x: 1 } },
  ]) {
    const strict = await api.call('POST', V2, { body });
    assert.equal(strict.status, 400);
    assert.match(strict.json.message, /^validation error: .*(secure|unheardOf|"x")/);
  }
  assert.equal(node.requests.length, before);
});

test("timeouts: the limits and E2B's texts", async () => {
  for (const path of [V1, V2]) {
    for (const timeout of [0, -1, -300]) {
      const answer = await api.call('POST', path, { body: { templateID: 'base', timeout } });
      assert.deepEqual(answer.json, { code: 400, message: 'Timeout must be greater than 0' });
    }
    const long = await api.call('POST', path, { body: { templateID: 'base', timeout: 86_401 } });
    assert.deepEqual(long.json, { code: 400, message: 'Timeout cannot be greater than 24 hours' });
    for (const timeout of [1, 86_400]) {
      assert.equal((await api.call('POST', path, { body: { templateID: 'base', timeout } })).status, 201);
      assert.equal(last().timeoutSeconds, timeout);
    }
  }
});

test('the receipt comes as Server-Timing', async () => {
  const { headers } = await api.call('POST', V2, { body: { templateID: 'base' } });
  assert.equal(headers['server-timing'], 'claim;dur=0.5, identity;dur=0.25, total;dur=0.75;desc="hot"');
  assert.match(String(headers['access-control-expose-headers']), /Server-Timing/);
});

test('failures of the node keep their status and error_code', async () => {
  const { CoppiceError } = await import('../../src/contract/errors.ts');
  const table: [unknown, object][] = [
    [new CoppiceError('capacity', 'full'), { code: 503, message: 'full', error_code: 'sandbox_capacity_unavailable' }],
    [new CoppiceError('start_failed', 'no'), { code: 500, message: 'no', error_code: 'sandbox_create_failed' }],
    [
      new CoppiceError('template_not_found', "template 'x' not found"),
      { code: 404, message: "template 'x' not found" },
    ],
    [new Error('a secret path'), { code: 500, message: 'internal error', error_code: 'internal_server_error' }],
    ['thrown text', { code: 500, message: 'internal error', error_code: 'internal_server_error' }],
    [
      Object.assign(new Error('x'), { statusCode: 418 }),
      { code: 500, message: 'internal error', error_code: 'internal_server_error' },
    ],
  ];
  for (const [failure, expected] of table) {
    node.failNext(failure);
    assert.deepEqual((await api.call('POST', V2, { body: { templateID: 'base' } })).json, expected);
  }
});

test('a client that goes away aborts its create', async () => {
  const release = node.holdNextCreate();
  const count = node.requests.length;
  const gone = new AbortController();
  const request = fetch(`${api.url}${V2}`, {
    method: 'POST',
    headers: { 'x-api-key': api.key },
    body: '{"templateID":"base","metadata":{"gone":"yes"}}',
    signal: gone.signal,
  });
  while (node.requests.length === count) await new Promise((resolve) => setTimeout(resolve, 5));
  gone.abort();
  await assert.rejects(request);
  const deadline = Date.now() + 10_000;
  while (node.signals.at(-1)?.aborted !== true) {
    assert.ok(Date.now() < deadline, 'the signal was never aborted');
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  release();
  assert.deepEqual((await api.call('GET', '/v2/sandboxes?metadata=gone%3Dyes')).json, []);
});

test('metadata asks for a kind of isolation, and for no other word', async () => {
  for (const isolation of ['microvm', 'jail']) {
    const metadata = { 'coppice.isolation': isolation, other: 'x' };
    assert.equal((await api.call('POST', V2, { body: { templateID: 'base', metadata } })).status, 201);
    assert.equal(last().isolation, isolation);
    assert.deepEqual(last().metadata, metadata);
  }
  const body = { templateID: 'base', metadata: { 'coppice.isolation': 'container' } };
  const refused = await api.call('POST', V2, { body });
  assert.equal(refused.status, 400);
  assert.match(refused.json.message, /coppice\.isolation must be one of: microvm, jail/);
});
