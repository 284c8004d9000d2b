/** Of the host's apt sources exactly Debian's own are taken, whatever style they are written in. */
import assert from 'node:assert/strict';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import { debianSources, formatSources, isDebian, parseDeb822, parseOneLine } from '../../src/templates/apt-sources.ts';

const KEYRING = '/usr/share/keyrings/debian-archive-keyring.gpg';

async function withEtc(files: Record<string, string>, check: (etc: string) => Promise<void>): Promise<void> {
  const etc = await mkdtemp(join(tmpdir(), 'coppice-apt-'));
  try {
    await mkdir(join(etc, 'sources.list.d'));
    for (const [name, text] of Object.entries(files)) await writeFile(join(etc, name), text);
    await check(etc);
  } finally {
    await rm(etc, { recursive: true });
  }
}

test('a deb822 file gives one entry for each URI and suite', async () => {
  const text = [
    'Types: deb deb-src',
    '# a comment between fields',
    'URIs: http://mirror.example/debian',
    'Suites: bookworm bookworm-updates',
    'Components: main contrib',
    `Signed-By: ${KEYRING}`,
    '',
    'Types: deb',
    'URIs: http://mirror.example/debian-security',
    'Suites: bookworm-security',
    'Components: main',
    `Signed-By: ${KEYRING}`,
  ].join('\n');
  await withEtc({ 'sources.list.d/debian.sources': text }, async (etc) => {
    const sources = await debianSources('bookworm', etc);
    assert.deepEqual(
      sources.map(({ uri, suite, components }) => [uri, suite, components.join()]),
      [
        ['http://mirror.example/debian', 'bookworm', 'main'],
        ['http://mirror.example/debian', 'bookworm-updates', 'main'],
        ['http://mirror.example/debian-security', 'bookworm-security', 'main'],
      ],
    );
  });
});

test('vendors are left out, even those that publish a Debian codename', async () => {
  const vendors = [
    'deb [signed-by=/usr/share/keyrings/hashicorp.gpg] https://apt.vendor.example bookworm main',
    'deb https://packages.vendor.example/apt cloud-sdk-bookworm main',
    'deb [arch=amd64] https://dl.vendor.example/linux/chrome/deb/ stable main',
    'deb http://apt.vendor.example/pub/repos/apt bookworm-pgdg main',
    'deb http://mirror.example/debian bookworm contrib',
    'deb-src http://mirror.example/debian bookworm main',
    '# deb http://mirror.example/debian bookworm main',
  ].join('\n');
  const disabled = `Enabled: no\nTypes: deb\nURIs: http://mirror.example/debian\nSuites: bookworm\nComponents: main\n`;
  const files = {
    'sources.list': vendors,
    'sources.list.d/off.sources': disabled,
    'sources.list.d/other.list.disabled': 'deb http://mirror.example/debian bookworm main',
  };
  await withEtc(files, async (etc) => assert.deepEqual(await debianSources('bookworm', etc), []));
});

test('a source without a keyring is known by its path, and one of another release is mapped to the guest', async () => {
  const list =
    'deb http://ftp.example/pub/debian/ trixie main\ndeb http://ftp.example/debian-security trixie-security main\n';
  await withEtc({ 'sources.list': list }, async (etc) => {
    const sources = await debianSources('bookworm', etc);
    assert.deepEqual(
      sources.map(({ suite }) => suite),
      ['bookworm', 'bookworm-security'],
    );
  });
});

test('the same mirror named twice is used once', async () => {
  const line = `deb [signed-by=${KEYRING}] http://mirror.example/debian bookworm main\n`;
  await withEtc(
    { 'sources.list': line, 'sources.list.d/again.list': line.replace('/debian ', '/debian/ ') },
    async (etc) => assert.equal((await debianSources('bookworm', etc)).length, 1),
  );
});

test('Debian is told from a vendor by the keyring', () => {
  const base = { uri: 'http://any.example/pool', suite: 'bookworm', components: ['main'] };
  assert.equal(isDebian({ ...base, signedBy: KEYRING }), true);
  assert.equal(isDebian({ ...base, signedBy: '/etc/apt/keyrings/vendor.gpg' }), false);
  assert.equal(isDebian(base), false);
});

test('credentials of a mirror never reach the guest', () => {
  const [source] = parseOneLine('deb http://name:secret@mirror.example/debian bookworm main');
  assert.ok(source);
  assert.equal(formatSources([source], { credentials: false }), 'deb http://mirror.example/debian bookworm main\n');
  assert.match(formatSources([source], { credentials: true }), /name:secret@/);
});

test('an embedded key is not taken for a path', () => {
  const text =
    'Types: deb\nURIs: http://m.example/debian\nSuites: bookworm\nComponents: main\nSigned-By:\n -----BEGIN\n .\n';
  assert.equal(parseDeb822(text)[0]?.signedBy, undefined);
});
