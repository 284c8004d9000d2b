/** Images come from a registry whole and proved, whoever runs it; what proves who asks goes nowhere else. */
import assert from 'node:assert/strict';
import { mkdtemp, readdir, readFile, rm, stat, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import { isCoppiceError } from '../../src/contract/errors.ts';
import { sweepWork } from '../../src/templates/artifact-store.ts';
import { type BlobStore, openBlobStore, sweepBlobs } from '../../src/templates/oci/blob-store.ts';
import { hexOf } from '../../src/templates/oci/digest.ts';
import { hostPlatform } from '../../src/templates/oci/manifest.ts';
import { fetchLayers, resolveImage } from '../../src/templates/oci/pull.ts';
import { parseImageReference } from '../../src/templates/oci/reference.ts';
import { type RegistryOptions, registrySource } from '../../src/templates/oci/registry.ts';
import { parseChallenge, parseRegistryCredentials } from '../../src/templates/oci/registry-auth.ts';
import { createRegistryHttp, isForbiddenAddress } from '../../src/templates/oci/registry-http.ts';
import {
  type Answer,
  makeImage,
  makeIndex,
  serve,
  serveImage,
  type TestServer,
  type TinyImage,
} from '../helpers/oci-image.ts';
import { file, sha256 } from '../helpers/tiny-tar.ts';

const refused = (error: unknown) => isCoppiceError(error, 'bad_request');
const credentials = { username: 'ann', password: 'secret' };
const SCOPE = '0123456789abcdef';
const BASIC = `Basic ${Buffer.from('ann:secret').toString('base64')}`;

async function withImages<T>(check: (images: string, store: BlobStore) => Promise<T>): Promise<T> {
  const images = await mkdtemp(join(tmpdir(), 'coppice-blobs-'));
  try {
    return await check(images, await openBlobStore(images, SCOPE));
  } finally {
    await rm(images, { recursive: true });
  }
}

const sourceOn = (server: TestServer, more: RegistryOptions = {}, name = 'test/image') =>
  registrySource(parseImageReference(`${server.host}/${name}`), { insecureRegistries: [server.host], ...more });

function layerOf({ manifest }: TinyImage): { digest: string; size: number } {
  return (JSON.parse(manifest.toString()) as { layers: { digest: string; size: number }[] }).layers[0]!;
}

/** Resolves and fetches; what it got. */
async function pull(server: TestServer, store: BlobStore, more: RegistryOptions = {}, name?: string) {
  const source = sourceOn(server, more, name);
  try {
    const image = await resolveImage(source);
    return { image, layers: await fetchLayers(image, source, store) };
  } finally {
    source.close();
  }
}

test('an index leads to the image of this host, whose layers are kept', async () => {
  const image = makeImage([[file('a', 'one')], [file('b', 'two')]], { config: { Env: ['A=b'], User: 'me' } });
  const other = makeImage([[file('x')]], { platform: { os: 'linux', architecture: 's390x' } });
  const index = makeIndex([
    { image: other, architecture: 's390x' },
    { image, architecture: hostPlatform().architecture },
  ]);
  await using server = await serve(serveImage(index));
  await withImages(async (images, store) => {
    const { image: got, layers } = await pull(server, store);
    assert.equal(got.digest, sha256(image.manifest));
    assert.deepEqual(got.config.env, { A: 'b' });
    assert.equal(layers.length, 2);
    for (const [at, { path, diffID }] of layers.entries()) {
      assert.ok((await readFile(path)).equals(image.blobs.get(got.layers[at]!.digest)!));
      assert.equal(diffID, got.layers[at]!.diffID);
    }
    const asked = server.asked.length;
    await pull(server, store);
    // Manifests and configuration again, and no layer.
    assert.equal(server.asked.length, asked + 3);
    assert.deepEqual(
      (await readdir(join(images, '.work'))).filter((name) => !name.endsWith('.lock')),
      [],
    );
  });
});

test('two that fetch the same at the same time fetch it once', async () => {
  const image = makeImage([[file('a', 'one')]]);
  await using server = await serve(serveImage(image));
  await withImages(async (_images, store) => {
    await Promise.all([pull(server, store), pull(server, store), pull(server, store)]);
    assert.equal(server.asked.filter(({ path }) => path.endsWith(layerOf(image).digest)).length, 1);
  });
});

test('bytes that are not the promised ones are refused, and nothing of them stays', async () => {
  const image = makeImage([[file('a', 'one')]]);
  const layer = layerOf(image);
  const lies: Record<string, (bytes: Buffer) => Buffer> = {
    other: (bytes) => Buffer.alloc(bytes.length, 1),
    longer: (bytes) => Buffer.concat([bytes, Buffer.from('x')]),
    shorter: (bytes) => bytes.subarray(0, -1),
    none: () => Buffer.alloc(0),
  };
  for (const [what, lie] of Object.entries(lies)) {
    for (const target of [layer.digest, sha256(image.manifest), [...image.blobs.keys()][0]!]) {
      const blobs = new Map(image.blobs);
      blobs.set(target, lie(image.blobs.get(target)!));
      const index = makeIndex([{ image, architecture: hostPlatform().architecture }]);
      await using server = await serve(serveImage({ manifest: index.manifest, blobs }));
      await withImages(async (images, store) => {
        await assert.rejects(pull(server, store), refused, `${what} ${target}`);
        assert.deepEqual(await readdir(join(images, 'blobs', SCOPE)), []);
        assert.deepEqual(
          (await readdir(join(images, '.work'))).filter((name) => !name.endsWith('.lock')),
          [],
        );
      });
    }
  }
  await using server = await serve(serveImage(image));
  await withImages(async (_images, store) => {
    await assert.rejects(pull(server, store, {}, `test/image:latest@sha256:${'0'.repeat(64)}`), refused);
    await pull(server, store, {}, `test/image@${sha256(image.manifest)}`);
  });
});

test('a stream without an end is cut at the length that was promised', async () => {
  const image = makeImage([[file('a', 'one')]]);
  const endless: Answer = (path, request, response) => {
    if (!path.includes('/blobs/')) return serveImage(image)(path, request, response);
    const more = () => response.write(Buffer.alloc(65_536), () => response.destroyed || setImmediate(more));
    more();
  };
  await using server = await serve(endless);
  await withImages(async (_images, store) => {
    await assert.rejects(pull(server, store), refused);
  });
  await using manifest = await serve((_path, _request, response) => {
    const more = () => response.write(Buffer.alloc(65_536, '['), () => response.destroyed || setImmediate(more));
    more();
  });
  await withImages(async (_images, store) => {
    await assert.rejects(pull(manifest, store), refused);
  });
});

test('an index that leads in a ring ends', async () => {
  const manifest = (digest: string, size: number) =>
    Buffer.from(
      JSON.stringify({ schemaVersion: 2, manifests: [{ mediaType: 'x', digest, size, platform: hostPlatform() }] }),
    );
  let image = manifest(sha256(Buffer.from('')), 0);
  const blobs = new Map<string, Buffer>();
  for (let depth = 0; depth < 10; depth++) {
    blobs.set(sha256(image), image);
    image = manifest(sha256(image), image.length);
  }
  await using server = await serve(serveImage({ manifest: image, blobs }));
  await withImages(async (_images, store) => {
    await assert.rejects(pull(server, store), { message: /lead to no image/ });
  });
});

test('a silent registry is given up, and an abort ends at once', async () => {
  await using server = await serve(() => {});
  const source = sourceOn(server, { idleMs: 50 });
  await assert.rejects(source.head(), (error) => isCoppiceError(error, 'unavailable'));
  source.close();
  const patient = sourceOn(server);
  const stop = new AbortController();
  const asked = patient.head(stop.signal);
  stop.abort();
  await assert.rejects(asked, (error) => isCoppiceError(error, 'aborted'));
  patient.close();
  const image = makeImage([[file('a', 'x'.repeat(1_000))]]);
  const layer = layerOf(image);
  await using half = await serve((path, request, response) => {
    if (!path.endsWith(layer.digest)) return serveImage(image)(path, request, response);
    response.writeHead(200, { 'content-length': layer.size }).write('half');
  });
  await withImages(async (images, store) => {
    const late = new AbortController();
    const slow = sourceOn(half);
    const resolved = await resolveImage(slow);
    const fetching = fetchLayers(resolved, slow, store, { signal: late.signal });
    setTimeout(() => late.abort(), 50);
    await assert.rejects(fetching, (error) => isCoppiceError(error, 'aborted'));
    slow.close();
    assert.deepEqual(
      (await readdir(join(images, '.work'))).filter((name) => !name.endsWith('.lock')),
      [],
    );
  });
});

test('a network that fails once is asked again', async () => {
  const image = makeImage([[file('a', 'one')]]);
  let failures = 0;
  await using server = await serve((path, request, response) => {
    if (path.includes('/blobs/') && failures++ === 0)
      return void response.writeHead(200, { 'content-length': 99 }).write('x', () => response.destroy());
    serveImage(image)(path, request, response);
  });
  await withImages(async (_images, store) => {
    assert.equal((await pull(server, store)).layers.length, 1);
  });
});

test('a token is asked for once, with the credentials, for this repository alone', async () => {
  const image = makeImage([[file('a', 'one')]]);
  const token = 'tok-en.1';
  await using auth = await serve((_path, request, response) => {
    const good = request.headers.authorization === BASIC;
    response.writeHead(good ? 200 : 401).end(JSON.stringify({ token }));
  });
  await using server = await serve((path, request, response) => {
    if (request.headers.authorization === `Bearer ${token}`) return serveImage(image)(path, request, response);
    const challenge = `Bearer realm="http://${auth.host}/token?x=y",service="reg",scope="repository:other:push"`;
    response.writeHead(401, { 'www-authenticate': challenge }).end();
  });
  const insecureRegistries = [server.host, auth.host];
  await withImages(async (_images, store) => {
    await pull(server, store, { credentials, insecureRegistries });
    assert.deepEqual(
      auth.asked.map(({ path }) => path),
      ['/token?x=y&service=reg&scope=repository%3Atest%2Fimage%3Apull'],
    );
    assert.ok(server.asked.every(({ authorization }) => authorization !== BASIC));
    await assert.rejects(pull(server, store, { insecureRegistries }), { message: /^access denied to/ });
    // The place that gives tokens is looked at like any other.
    await assert.rejects(pull(server, store, { credentials, insecureRegistries: [server.host] }), refused);
  });
});

test('basic challenges are met with basic answers', async () => {
  const image = makeImage([[file('a', 'one')]]);
  await using server = await serve((path, request, response) => {
    if (request.headers.authorization === BASIC) return serveImage(image)(path, request, response);
    response.writeHead(401, { 'www-authenticate': 'Basic realm="x"' }).end();
  });
  await withImages(async (_images, store) => {
    await pull(server, store, { credentials });
    assert.equal(server.asked[0]!.authorization, undefined);
    await assert.rejects(pull(server, store), { message: /^access denied to/ });
    await assert.rejects(pull(server, store, { credentials: { ...credentials, password: 'no' } }), refused);
  });
});

test('a redirect to another host takes nothing along, and no way back brings it back', async () => {
  const image = makeImage([[file('a', 'one')]]);
  let home = '';
  await using elsewhere = await serve((path, _request, response) => {
    response.writeHead(307, { location: `http://${home}${path}?back` }).end();
  });
  await using server = await serve((path, request, response) => {
    if (path.endsWith('?back')) return serveImage(image)(path.slice(0, -5), request, response);
    if (request.headers.authorization !== BASIC)
      return void response.writeHead(401, { 'www-authenticate': 'Basic' }).end();
    if (path.includes('/blobs/'))
      return void response.writeHead(302, { location: `http://${elsewhere.host}${path}` }).end();
    serveImage(image)(path, request, response);
  });
  home = server.host;
  await withImages(async (_images, store) => {
    const insecureRegistries = [server.host, elsewhere.host];
    await pull(server, store, { credentials, insecureRegistries });
    assert.ok(elsewhere.asked.length > 0);
    for (const { authorization } of elsewhere.asked) assert.equal(authorization, undefined);
    for (const { path, authorization } of server.asked)
      if (path.endsWith('?back')) assert.equal(authorization, undefined);
  });
  await withImages(async (_images, store) => {
    // The loopback is open to those that the operator named, and a redirect names nobody.
    await assert.rejects(pull(server, store, { credentials }), refused);
  });
});

test('redirects that are not followed', async () => {
  for (const location of [
    'http://169.254.169.254/latest/meta-data',
    'file:///etc/passwd',
    'http://a:b@127.0.0.1/',
    'ftp://x/',
    '//[',
  ]) {
    await using server = await serve((_path, _request, response) => void response.writeHead(302, { location }).end());
    const source = sourceOn(server);
    await assert.rejects(source.head(), refused, location);
    source.close();
  }
  await using ring = await serve((path, _request, response) => void response.writeHead(302, { location: path }).end());
  const source = sourceOn(ring);
  await assert.rejects(source.head(), { message: /redirects more than 5 times/ });
  source.close();
});

test('this host and the metadata services of clouds are no registries, by any name', async () => {
  for (const address of [
    '127.0.0.1',
    '127.8.8.8',
    '0.0.0.0',
    '169.254.169.254',
    '::1',
    '::',
    'fe80::1',
    '::ffff:127.0.0.1',
    '::ffff:169.254.169.254',
    '224.0.0.1',
    '255.255.255.255',
    'name',
  ])
    assert.ok(isForbiddenAddress(address), address);
  for (const address of ['10.0.0.1', '192.168.1.1', '1.1.1.1', '2606:4700::1111', 'fd00::1'])
    assert.ok(!isForbiddenAddress(address), address);
  const http = createRegistryHttp();
  for (const host of ['127.0.0.1', 'localhost', '[::1]', '169.254.169.254', '0x7f.1', '2130706433'])
    await assert.rejects(http.get(new URL(`https://${host}/v2/`)), refused, host);
  await assert.rejects(http.get(new URL('http://registry.example.com/v2/')), { message: /without TLS/ });
  http.close();
});

test('what a registry says no with is told to whoever asked', async () => {
  const answers: [number, string, RegExp][] = [
    [404, 'bad_request', /^image '127.0.0.1:\d+\/test\/image:latest' not found/],
    [403, 'bad_request', /^access denied/],
    [401, 'bad_request', /^access denied/],
    [418, 'bad_request', /answers with 418/],
    [429, 'unavailable', /limits/],
    [503, 'unavailable', /answers with 503/],
  ];
  for (const [status, code, message] of answers) {
    await using server = await serve((_path, _request, response) => void response.writeHead(status).end('{}'));
    const source = sourceOn(server);
    await assert.rejects(source.head(), { code, message });
    source.close();
  }
});

test("E2B's credentials", () => {
  assert.deepEqual(parseRegistryCredentials({ type: 'registry', ...credentials }), credentials);
  assert.deepEqual(parseRegistryCredentials({ type: 'gcp', serviceAccountJson: '{}' }), {
    username: '_json_key',
    password: '{}',
  });
  assert.throws(
    () => parseRegistryCredentials({ type: 'aws', awsAccessKeyId: 'x', awsSecretAccessKey: 'y', awsRegion: 'z' }),
    { code: 'not_implemented' },
  );
  for (const bad of [
    null,
    {},
    { type: 'registry', username: 'x' },
    { type: 'other' },
    { type: 'registry', username: '', password: 'x' },
  ])
    assert.throws(
      () => parseRegistryCredentials(bad),
      (error: Error) => refused(error) && !error.message.includes('secret'),
    );
});

test('challenges', () => {
  const bearer = parseChallenge('Bearer realm="https://a/t",service=reg , scope="x,y"');
  assert.deepEqual(bearer, {
    scheme: 'bearer',
    parameters: new Map([
      ['realm', 'https://a/t'],
      ['service', 'reg'],
      ['scope', 'x,y'],
    ]),
  });
  assert.equal(parseChallenge('basic realm="x"')?.scheme, 'basic');
  assert.equal(parseChallenge('Basic')?.scheme, 'basic');
  for (const text of [undefined, '', 'Negotiate', `Bearer ${'x'.repeat(5_000)}`, 'Basicx'])
    assert.equal(parseChallenge(text), undefined);
});

test("what one fetched is nobody else's for knowing its digest", async () => {
  await using server = await serve(serveImage(makeImage([[file('a')]])));
  const scopes = [
    sourceOn(server),
    sourceOn(server, { credentials }),
    sourceOn(server, { credentials: { ...credentials, username: 'bob' } }),
    registrySource(parseImageReference('other.example.com/test/image')),
  ].map(({ scope }) => scope);
  assert.equal(new Set(scopes).size, 4);
  assert.equal(sourceOn(server, {}, 'another/image').scope, scopes[0]);
  await withImages(async (images, store) => {
    const bytes = Buffer.from('private');
    const blob = { digest: sha256(bytes), size: bytes.length };
    const fetch = async () =>
      (async function* () {
        yield bytes;
      })();
    await store.obtain(blob, fetch);
    const other = await openBlobStore(images, 'fedcba9876543210');
    await assert.rejects(
      other.obtain(blob, () => Promise.reject(new Error('asked'))),
      { message: 'asked' },
    );
  });
});

test('blobs that nobody wants any more are swept, those in use and half-written ones of the living are not', async () => {
  await withImages(async (images, store) => {
    const bytes = Buffer.from('blob');
    const blob = { digest: sha256(bytes), size: bytes.length };
    const fetch = async () =>
      (async function* () {
        yield bytes;
      })();
    const path = await store.obtain(blob, fetch);
    assert.equal((await stat(path)).mode & 0o777, 0o600);
    assert.deepEqual(await sweepBlobs(images, Date.now() + 1e9), []);
    const old = new Date(Date.now() - 1e8);
    await utimes(path, old, old);
    await store.obtain(blob, () => assert.fail('it is there'));
    assert.deepEqual(await sweepBlobs(images, Date.now()), []);
    await utimes(path, old, old);
    await writeFile(join(images, 'blobs', SCOPE, 'notes.txt'), 'x');
    assert.deepEqual(await sweepBlobs(images, Date.now()), [`${SCOPE}/${hexOf(blob.digest)}`]);
    await store.obtain(blob, async () => {
      assert.deepEqual(await sweepWork(images), []);
      return fetch();
    });
    // A damaged one is fetched again.
    await writeFile(path, 'short');
    assert.ok((await readFile(await store.obtain({ ...blob }, fetch))).equals(bytes));
  });
});
