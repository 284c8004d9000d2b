/** Any image becomes a root that a sandbox can run in, and stays itself otherwise. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import { isCoppiceError } from '../../src/contract/errors.ts';
import { DEFAULT_PATH, type GuestRootPlan, pathScript, planGuestRoot } from '../../src/templates/guest-root.ts';
import { applyChanges, viewOf } from '../../src/templates/oci/furnish.ts';
import { obtainImageRootfs } from '../../src/templates/oci/image-rootfs.ts';
import type { ImageTree } from '../../src/templates/oci/image-tree.ts';
import { readLayers } from '../../src/templates/oci/layers.ts';
import { parseImageReference } from '../../src/templates/oci/reference.ts';
import { registrySource } from '../../src/templates/oci/registry.ts';
import { makeImage, serve, serveImage } from '../helpers/oci-image.ts';
import { file, folder, symlink, type TarPart, tar } from '../helpers/tiny-tar.ts';

const PASSWD = 'root:x:0:0:root:/root:/bin/bash\nnode:x:1000:1000::/home/node:/bin/sh\n';
const GROUP = 'root:x:0:\nshadow:x:42:\nnode:x:1000:\n';
const SHADOW = 'root:*:19000:0:99999:7:::\n';

const DEBIAN: TarPart[] = [
  ...['etc/', 'etc/skel/', 'usr/', 'usr/bin/', 'home/', 'tmp/'].map((path) => folder(path)),
  symlink('bin', 'usr/bin'),
  file('usr/bin/bash', 'ELF', { mode: 0o755 }),
  symlink('usr/bin/sh', 'bash'),
  file('usr/bin/sudo', 'ELF', { mode: 0o4755 }),
  file('etc/passwd', PASSWD),
  file('etc/group', GROUP),
  file('etc/shadow', SHADOW, { mode: 0o640, gid: 42 }),
  file('etc/skel/.profile', '# profile\n'),
  file('etc/hosts', ''),
];

const ALPINE: TarPart[] = [
  folder('bin/'),
  folder('etc/'),
  file('bin/busybox', 'ELF', { mode: 0o755 }),
  symlink('bin/sh', '/bin/busybox'),
  file('etc/passwd', 'root:x:0:0:root:/root:/bin/sh\n'),
  file('etc/group', 'root:x:0:root\nusers:x:100:\n'),
];

/** The plan, and the tree with it. */
async function furnish(
  parts: readonly TarPart[],
  path?: string,
): Promise<{ plan: GuestRootPlan; tree: ImageTree; text: (path: string) => string | undefined }> {
  const work = await mkdtemp(join(tmpdir(), 'coppice-furnish-'));
  try {
    await mkdir(join(work, 'content'));
    await writeFile(join(work, 'layer'), tar(parts));
    const { tree } = await readLayers([{ path: join(work, 'layer') }], join(work, 'content'));
    const plan = planGuestRoot(viewOf(tree), path);
    applyChanges(tree, plan.changes, 0);
    const texts = new Map<string, string | undefined>();
    for (const name of [
      'passwd',
      'group',
      'shadow',
      'hosts',
      'hostname',
      'machine-id',
      'resolv.conf',
      'sudoers.d/90-user',
      'profile.d/coppice-path.sh',
    ])
      texts.set(`/etc/${name}`, viewOf(tree).read(`/etc/${name}`));
    return { plan, tree, text: (name) => texts.get(name) };
  } finally {
    await rm(work, { recursive: true });
  }
}

function attributes(tree: ImageTree, path: string): unknown {
  const node = tree.findNamed(path);
  return node && { kind: node.kind, mode: node.mode.toString(8), uid: node.uid, gid: node.gid };
}

test('an image of Debian: bash, sudo, an account of its own beside those that are there', async () => {
  const { plan, tree, text } = await furnish(DEBIAN);
  assert.deepEqual(plan.facts, { shell: '/bin/bash', sudo: true });
  assert.equal(text('/etc/passwd'), `${PASSWD}user:x:1001:1001::/home/user:/bin/bash\n`);
  assert.equal(text('/etc/group'), `${GROUP}user:x:1001:\n`);
  assert.equal(text('/etc/shadow'), `${SHADOW}user:*:19675:0:99999:7:::\n`);
  assert.deepEqual(attributes(tree, '/etc/shadow'), { kind: 'file', mode: '640', uid: 0, gid: 42 });
  assert.deepEqual(attributes(tree, '/home/user'), { kind: 'folder', mode: '755', uid: 1001, gid: 1001 });
  assert.deepEqual(attributes(tree, '/home/user/.profile'), { kind: 'file', mode: '644', uid: 1001, gid: 1001 });
  assert.equal(text('/etc/sudoers.d/90-user'), 'user ALL=(ALL:ALL) NOPASSWD: ALL\n');
  assert.deepEqual(attributes(tree, '/etc/sudoers.d/90-user'), { kind: 'file', mode: '440', uid: 0, gid: 0 });
  assert.match(text('/etc/hosts')!, /^127\.0\.0\.1\tlocalhost\n/);
  assert.equal(text('/etc/machine-id'), '');
  assert.equal(text('/etc/profile.d/coppice-path.sh'), undefined);
});

test('an image of Alpine: its own shell, no shadow that would be asked in vain', async () => {
  const { plan, text } = await furnish(ALPINE);
  assert.deepEqual(plan.facts, { shell: '/bin/sh', sudo: false });
  assert.match(text('/etc/passwd')!, /\nuser:\*:1000:1000::\/home\/user:\/bin\/sh\n$/);
  assert.equal(text('/etc/shadow'), undefined);
});

test('an image of one program: everything that is needed, and nothing to run', async () => {
  const { plan, tree, text } = await furnish([file('app', 'ELF', { mode: 0o755 })]);
  assert.deepEqual(plan.facts, { sudo: false });
  assert.equal(
    text('/etc/passwd'),
    'root:x:0:0:root:/root:/sbin/nologin\nuser:*:1000:1000::/home/user:/sbin/nologin\n',
  );
  assert.equal(text('/etc/group'), 'root:x:0:\nuser:x:1000:\n');
  assert.deepEqual([...tree.root.children.keys()].toSorted(), [
    'app',
    'dev',
    'etc',
    'home',
    'proc',
    'root',
    'run',
    'sys',
    'tmp',
  ]);
  for (const [path, mode] of [
    ['/proc', '755'],
    ['/tmp', '1777'],
    ['/root', '700'],
  ] as const)
    assert.deepEqual(attributes(tree, path), { kind: 'folder', mode, uid: 0, gid: 0 });
});

test('what is there stays: an account `user`, its home, modes of folders', async () => {
  const passwd = 'root:x:0:0::/root:/bin/sh\nuser:x:500:600::/srv/me:/bin/sh\n';
  const { tree, plan } = await furnish([
    ...ALPINE.filter(({ path }) => path !== 'etc/passwd'),
    file('etc/passwd', passwd),
    folder('srv/me/', { mode: 0o700, uid: 1, gid: 2 }),
    folder('tmp/', { mode: 0o700 }),
  ]);
  assert.ok(!plan.changes.some(({ path }) => path === '/etc/passwd' || path === '/etc/group'));
  assert.deepEqual(attributes(tree, '/srv/me'), { kind: 'folder', mode: '700', uid: 1, gid: 2 });
  assert.deepEqual(attributes(tree, '/tmp'), { kind: 'folder', mode: '700', uid: 0, gid: 0 });
  assert.equal(attributes(tree, '/home/user'), undefined);
  // A home that waited for its user becomes his.
  const waiting = await furnish([...ALPINE, folder('home/user/', { mode: 0o700 })]);
  assert.deepEqual(attributes(waiting.tree, '/home/user'), { kind: 'folder', mode: '755', uid: 1000, gid: 1000 });
});

test('what stands in the way of a mount is replaced; an /etc elsewhere is refused', async () => {
  const { tree } = await furnish([
    ...ALPINE,
    symlink('run', '/var/run'),
    symlink('proc', '/etc'),
    file('dev', 'x'),
    symlink('etc/hosts', '/run/hosts'),
    symlink('etc/resolv.conf', '../../../../etc/passwd'),
    symlink('etc/machine-id', '/etc/passwd'),
    symlink('home', 'srv/homes'),
  ]);
  for (const path of ['/run', '/proc', '/dev', '/srv/homes/user'])
    assert.equal(tree.findNamed(path)?.kind, 'folder', path);
  for (const path of ['/etc/hosts', '/etc/resolv.conf', '/etc/machine-id'])
    assert.equal(tree.findNamed(path)?.kind, 'file', path);
  for (const etc of [symlink('etc', '/usr/etc'), file('etc', 'x')])
    await assert.rejects(furnish([etc]), (error) => isCoppiceError(error, 'bad_request'));
});

test('what clones must not share is taken out', async () => {
  const { tree } = await furnish([
    ...DEBIAN,
    file('etc/ssh/ssh_host_rsa_key', 'secret'),
    file('etc/ssh/ssh_config', 'x'),
    file('etc/machine-id', '0123'),
    file('var/lib/dbus/machine-id', '0123'),
    file('var/lib/systemd/random-seed', 'x'),
  ]);
  assert.equal(tree.find('/etc/ssh/ssh_host_rsa_key'), undefined);
  assert.equal(tree.find('/etc/ssh/ssh_config')?.kind, 'file');
  assert.equal(tree.find('/var/lib/systemd/random-seed'), undefined);
  assert.equal(tree.findNamed('/var/lib/dbus/machine-id')?.kind, 'symlink');
});

test('the PATH of an image outlives a login shell', async () => {
  assert.equal((await furnish(DEBIAN, DEFAULT_PATH)).text('/etc/profile.d/coppice-path.sh'), undefined);
  const path = `/usr/local/go/bin:/it's:$HOME:${DEFAULT_PATH}`;
  assert.equal((await furnish(DEBIAN, path)).text('/etc/profile.d/coppice-path.sh'), pathScript(path));
  const said = execFileSync('sh', ['-c', `${pathScript(path)}printf '%s' "$PATH"`], { encoding: 'utf8' });
  assert.equal(said, path);
});

test('account tables of any shape end with both accounts, and lose no line', async () => {
  for (const passwd of [
    '',
    '\n\n',
    'root',
    'a:b:c\nuser:x:notanumber:1::/x:/y',
    'x:x:4294967295:1:::',
    'caf\xe9:x:1000:1000:::',
  ]) {
    const { text } = await furnish([file('etc/passwd', Buffer.from(passwd, 'latin1'))]);
    const lines = text('/etc/passwd')!.split('\n');
    for (const name of ['root', 'user'])
      assert.equal(lines.filter((line) => line.split(':')[0] === name).length, 1, passwd);
    for (const line of passwd.split('\n'))
      if (line !== '' && !/^user:/.test(line)) assert.ok(lines.includes(line), line);
  }
});

const canBuild = process.getuid?.() === 0 && existsSync('/usr/sbin/mke2fs');

test('an image becomes a root filesystem, once', { skip: !canBuild && 'takes root and mke2fs' }, async () => {
  const image = makeImage(
    [DEBIAN, [file('usr/bin/.wh.sudo'), file('app/run', 'go', { mode: 0o755, uid: 33, gid: 33 })]],
    {
      config: { Env: ['PATH=/opt/bin:/usr/bin', 'A=b'], Cmd: ['/app/run'] },
    },
  );
  await using server = await serve(serveImage(image));
  const work = await mkdtemp(join(tmpdir(), 'coppice-rootfs-'));
  const source = registrySource(parseImageReference(`${server.host}/test/image`), {
    insecureRegistries: [server.host],
  });
  try {
    const imagesFolder = join(work, 'images');
    const stages: string[] = [];
    const built = await obtainImageRootfs(source, { imagesFolder, onStage: (stage) => stages.push(stage) });
    assert.deepEqual(built.facts, { shell: '/bin/bash', sudo: false });
    assert.deepEqual(built.config.cmd, ['/app/run']);
    assert.equal(built.artifact.manifest.notes.layers, '2');
    assert.equal(stages.at(-1), 'writing the image');
    const inside = (command: string) =>
      execFileSync('debugfs', ['-R', command, built.rootfs], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] });
    assert.equal(inside('cat /etc/profile.d/coppice-path.sh'), pathScript('/opt/bin:/usr/bin'));
    assert.match(inside('stat /app/run'), /Mode: {2}0755[\s\S]*User: {4}33 {3}Group: {4}33/);
    assert.match(inside('stat /etc/sudoers.d/90-user'), /Mode: {2}0440/);
    assert.match(inside('stat /bin'), /Type: symlink/);
    const again = await obtainImageRootfs(source, { imagesFolder });
    assert.ok(again.artifact.cached);
    assert.deepEqual({ ...again, artifact: 0 }, { ...built, artifact: 0 });
    assert.match(await readFile(join(built.artifact.folder, 'image.json'), 'utf8'), /"A": "b"/);
  } finally {
    source.close();
    await rm(work, { recursive: true });
  }
});
