/** What a stranger may write: names of images, manifests, indexes, configurations. */
import assert from 'node:assert/strict';
import test from 'node:test';
import fc from 'fast-check';
import { isCoppiceError } from '../../src/contract/errors.ts';
import { parseImageConfig } from '../../src/templates/oci/image-config.ts';
import { hostPlatform, parseManifest, pickManifest } from '../../src/templates/oci/manifest.ts';
import { formatImageReference, parseImageReference } from '../../src/templates/oci/reference.ts';
import { makeImage, makeIndex } from '../helpers/oci-image.ts';
import { file } from '../helpers/tiny-tar.ts';

const refused = (error: unknown) => isCoppiceError(error, 'bad_request');
const DIGEST = `sha256:${'a'.repeat(64)}`;
const bytes = (value: unknown) => Buffer.from(JSON.stringify(value));

test('names mean what they mean to Docker', () => {
  const cases: [string, string][] = [
    ['debian', 'docker.io/library/debian:latest'],
    ['debian:12-slim', 'docker.io/library/debian:12-slim'],
    ['oven/bun', 'docker.io/oven/bun:latest'],
    ['docker.io/debian', 'docker.io/library/debian:latest'],
    ['index.docker.io/library/debian', 'docker.io/library/debian:latest'],
    ['ghcr.io/owner/name:v1', 'ghcr.io/owner/name:v1'],
    ['localhost/name', 'localhost/name:latest'],
    ['localhost:5000/a/b/c', 'localhost:5000/a/b/c:latest'],
    ['[::1]:5000/name', '[::1]:5000/name:latest'],
    [`debian@${DIGEST}`, `docker.io/library/debian@${DIGEST}`],
    [`r.example.com/x:y@${DIGEST}`, `r.example.com/x:y@${DIGEST}`],
  ];
  for (const [text, full] of cases) assert.equal(formatImageReference(parseImageReference(text)), full);
});

test('what is no name is refused', () => {
  const cases = [
    '',
    ':tag',
    'UPPER',
    'a//b',
    '/a',
    'a/',
    '../a',
    'a/../b',
    'a b',
    'a:',
    'a:b:c',
    'https://a/b',
    'a@b',
    `a@${DIGEST}@x`,
  ];
  cases.push(
    'a/b\n',
    'a?x',
    'ex_ample.com/a',
    'a.b:port/c',
    `a/${'x'.repeat(300)}`,
    `a:${'t'.repeat(129)}`,
    '@',
    `@${DIGEST}`,
  );
  for (const text of cases) assert.throws(() => parseImageReference(text), refused, text);
});

test('a name told is a name read', () => {
  const component = fc.stringMatching(/^[a-z0-9]{1,8}(-[a-z0-9]{1,4})?$/);
  const host = fc.constantFrom('', 'ghcr.io/', 'localhost:5000/', 'registry.example.com/');
  fc.assert(
    fc.property(host, fc.array(component, { minLength: 1, maxLength: 4 }), fc.boolean(), (registry, path, pinned) => {
      const reference = parseImageReference(`${registry}${path.join('/')}${pinned ? `@${DIGEST}` : ''}`);
      assert.deepEqual(parseImageReference(formatImageReference(reference)), reference);
    }),
  );
  fc.assert(
    fc.property(fc.string({ maxLength: 80 }), (text) => {
      try {
        const { registry, repository } = parseImageReference(text);
        assert.ok(URL.canParse(`https://${registry}/v2/${repository}/manifests/x`));
        assert.ok(!repository.includes('..'));
      } catch (error) {
        assert.ok(refused(error));
      }
    }),
  );
});

test('an index gives the image of this host, and says which there are', () => {
  const image = makeImage([[file('a')]]);
  const other = makeImage([[file('b')]]);
  const { architecture } = hostPlatform();
  const index = parseManifest(
    makeIndex([
      { image: other, architecture: 's390x' },
      { image, architecture },
    ]).manifest,
  );
  assert.ok(index.kind === 'index');
  assert.equal(pickManifest(index, hostPlatform()).size, image.manifest.length);
  const notOurs = parseManifest(
    makeIndex([
      { image: other, architecture: 's390x' },
      { image, architecture: 'unknown', os: 'unknown' },
    ]).manifest,
  );
  assert.ok(notOurs.kind === 'index');
  assert.throws(() => pickManifest(notOurs, hostPlatform()), { message: /it is for linux\/s390x$/ });
});

test('manifests that are not what they look like are refused', () => {
  const { manifest } = makeImage([[file('a')]]);
  const good = JSON.parse(manifest.toString()) as Record<string, unknown>;
  const layer = (good.layers as Record<string, unknown>[])[0]!;
  const cases: Record<string, unknown>[] = [
    { schemaVersion: 1 },
    {},
    { ...good, schemaVersion: 3 },
    { ...good, manifests: [] },
    { ...good, mediaType: 'application/vnd.oci.image.index.v1+json' },
    { ...good, layers: [{ ...layer, digest: 'md5:00' }] },
    { ...good, layers: [{ ...layer, digest: `sha256:${'A'.repeat(64)}` }] },
    { ...good, layers: [{ ...layer, digest: 'sha256:../../etc/passwd' }] },
    { ...good, layers: [{ ...layer, size: -1 }] },
    { ...good, layers: [{ ...layer, size: 1e300 }] },
    { ...good, layers: [{ ...layer, mediaType: 'application/vnd.cncf.helm.chart.content.v1.tar+gzip' }] },
    { ...good, layers: Array.from({ length: 300 }, () => layer) },
    { ...good, config: null },
  ];
  for (const value of cases) assert.throws(() => parseManifest(bytes(value)), refused, JSON.stringify(value));
  assert.throws(() => parseManifest(Buffer.from('[]')), refused);
  assert.throws(() => parseManifest(Buffer.from('{')), refused);
});

test('whatever is read, nothing but a refusal is thrown', () => {
  const key = fc.constantFrom(
    'schemaVersion',
    'manifests',
    'layers',
    'config',
    'mediaType',
    'rootfs',
    'os',
    'digest',
    'size',
  );
  const value = fc.letrec((tie) => ({
    any: fc.oneof(
      fc.integer(),
      fc.string(),
      fc.constant(null),
      fc.constant(2),
      fc.array(tie('any'), { maxLength: 3 }),
      fc.dictionary(key, tie('any'), { maxKeys: 6 }),
    ),
  })).any;
  const parsers = [parseManifest, (input: Uint8Array) => parseImageConfig(input, hostPlatform())];
  fc.assert(
    fc.property(fc.oneof(value.map(bytes), fc.uint8Array({ maxLength: 64 })), (input) => {
      for (const parse of parsers) {
        try {
          parse(input);
        } catch (error) {
          assert.ok(refused(error), String(error));
        }
      }
    }),
  );
});

test('a configuration is typed, and for this host alone', () => {
  const { os, architecture } = hostPlatform();
  const read = (config: unknown, more: object = {}) =>
    parseImageConfig(
      bytes({ os, architecture, config, rootfs: { type: 'layers', diff_ids: [DIGEST] }, ...more }),
      hostPlatform(),
    );
  assert.deepEqual(
    read({
      Env: ['PATH=/x:/y', 'A=b=c', 'EMPTY=', '=no', 'none', '__proto__=p'],
      User: 'node',
      WorkingDir: '/app',
      Cmd: ['a', 'b'],
    }),
    {
      config: {
        user: 'node',
        env: Object.fromEntries([
          ['PATH', '/x:/y'],
          ['A', 'b=c'],
          ['EMPTY', ''],
          ['__proto__', 'p'],
        ]),
        workingDir: '/app',
        cmd: ['a', 'b'],
        entrypoint: [],
      },
      diffIDs: [DIGEST],
    },
  );
  assert.deepEqual(read(null).config, { user: '', env: {}, workingDir: '', cmd: [], entrypoint: [] });
  assert.throws(() => read({}, { architecture: 's390x' }), { message: /for linux\/s390x/ });
  assert.throws(() => read({}, { os: 'windows' }), refused);
});
