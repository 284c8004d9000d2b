/** What a build runs in the guest, run here: files arrive as COPY of a Dockerfile would bring them. */
import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import {
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import test from 'node:test';
import { BUILD_SCRIPTS } from '../../src/templates/build-plan.ts';

const isRoot = process.getuid?.() === 0;
const ME = `${process.getuid?.()}:${process.getgid?.()}`;
/** As the guest has them: its busybox where this host has one, else the host's own tools. */
const BUSYBOX = ['/bin/busybox', '/usr/bin/busybox', join(tmpdir(), 'coppice-test-cache/busybox/bin/busybox')].find(
  (path) => existsSync(path),
);
const SHELLS: readonly (readonly string[])[] = [['sh'], ...(BUSYBOX === undefined ? [] : [[BUSYBOX, 'sh']])];

function run(shell: readonly string[], name: keyof typeof BUILD_SCRIPTS, args: readonly string[]) {
  const [command, ...before] = shell;
  const bb = shell.length > 1 ? shell[0]! : '';
  return spawnSync(command!, [...before, '-c', BUILD_SCRIPTS[name], name, bb, ...args], { encoding: 'utf8' });
}

interface World {
  readonly root: string;
  /** Writes files, `path -> text`; one that begins with `->` is a link. */
  fill(folder: string, files: Readonly<Record<string, string>>): void;
  copy(
    files: Readonly<Record<string, string>>,
    source: string,
    target: string,
    more?: { kind?: string; owner?: string; mode?: string; gzip?: boolean },
  ): { status: number | null; stderr: string };
}

function inWorld(check: (world: World) => void): void {
  for (const shell of SHELLS) {
    const work = mkdtempSync(join(tmpdir(), 'coppice-scripts-'));
    const fill: World['fill'] = (folder, files) => {
      for (const [path, text] of Object.entries(files)) {
        mkdirSync(dirname(join(folder, path)), { recursive: true });
        if (text.startsWith('->')) symlinkSync(text.slice(2), join(folder, path));
        else writeFileSync(join(folder, path), text);
      }
    };
    const root = join(work, 'root');
    mkdirSync(root);
    try {
      check({
        root,
        fill,
        copy(files, source, target, { kind = '', owner = ME, mode = '', gzip = true } = {}) {
          const context = mkdtempSync(join(work, 'context-'));
          fill(context, files);
          mkdirSync(join(work, 'stage'), { recursive: true });
          const archive = join(work, 'stage', 'files.tar');
          execFileSync('tar', ['-C', context, gzip ? '-czf' : '-cf', archive, ...readdirSync(context)]);
          const { status, stderr } = run(shell, 'copy', [archive, source, join(root, target), kind, owner, mode]);
          assert.deepEqual(readdirSync(join(work, 'stage')), [], 'nothing stays behind');
          return { status, stderr };
        },
      });
    } finally {
      rmSync(work, { recursive: true });
    }
  }
}

test('a file becomes a file, or goes into a folder', () => {
  inWorld(({ root, copy, fill }) => {
    assert.equal(copy({ 'a.txt': 'one' }, 'a.txt', 'new/deep/b.txt').status, 0);
    assert.equal(readFileSync(join(root, 'new/deep/b.txt'), 'utf8'), 'one');
    assert.equal(copy({ 'a.txt': 'two' }, 'a.txt', 'folder', { kind: 'folder', gzip: false }).status, 0);
    assert.equal(readFileSync(join(root, 'folder/a.txt'), 'utf8'), 'two');
    assert.equal(copy({ 'x/a.txt': 'three' }, 'x/a.txt', 'folder').status, 0);
    assert.equal(readFileSync(join(root, 'folder/a.txt'), 'utf8'), 'three');
    // A link in the way is replaced, not followed.
    fill(root, { 'precious.txt': 'gold', link: '->precious.txt' });
    assert.equal(copy({ 'a.txt': 'four' }, 'a.txt', 'link').status, 0);
    assert.equal(readFileSync(join(root, 'precious.txt'), 'utf8'), 'gold');
    assert.ok(lstatSync(join(root, 'link')).isFile());
  });
});

test('a folder brings its content, and joins one that is there', () => {
  inWorld(({ root, copy, fill }) => {
    const app = {
      'app/main.py': 'new',
      'app/.hidden': 'h',
      'app/lib/a b.py': 'x',
      'app/link': '->main.py',
      'app/..odd': 'o',
    };
    assert.equal(copy(app, 'app', 'srv').status, 0);
    assert.deepEqual(readdirSync(join(root, 'srv')).toSorted(), ['..odd', '.hidden', 'lib', 'link', 'main.py']);
    assert.equal(readlinkSync(join(root, 'srv/link')), 'main.py');
    fill(root, {
      'opt/main.py': 'old',
      'opt/kept': 'kept',
      'opt/real/other': 'x',
      'opt/lib': '->real',
      'opt/.hidden': '->kept',
    });
    const before = statSync(join(root, 'opt'));
    assert.equal(copy(app, 'app', 'opt').status, 0);
    assert.equal(readFileSync(join(root, 'opt/main.py'), 'utf8'), 'new');
    assert.equal(readFileSync(join(root, 'opt/kept'), 'utf8'), 'kept');
    assert.ok(lstatSync(join(root, 'opt/.hidden')).isFile());
    // A folder that is a link stays one.
    assert.equal(readlinkSync(join(root, 'opt/lib')), 'real');
    assert.deepEqual(readdirSync(join(root, 'opt/real')).toSorted(), ['a b.py', 'other']);
    assert.deepEqual([statSync(join(root, 'opt')).mode, statSync(join(root, 'opt')).uid], [before.mode, before.uid]);
    assert.equal(copy({ one: '1', 'two/three': '3' }, '.', 'all').status, 0);
    assert.deepEqual(readdirSync(join(root, 'all')).toSorted(), ['one', 'two']);
    assert.equal(copy({ l: '->nowhere' }, 'l', 'links', { kind: 'folder' }).status, 0);
    assert.equal(readlinkSync(join(root, 'links/l')), 'nowhere');
  });
});

test('owner and mode are those that are asked for, of what came alone', { skip: !isRoot && 'takes root' }, () => {
  inWorld(({ root, copy, fill }) => {
    fill(root, { 'etc/passwd': 'root' });
    assert.equal(
      copy({ 'd/tool': 'x', 'd/link': `->${join(root, 'etc/passwd')}` }, 'd', 'bin', { owner: '12:34', mode: '0750' })
        .status,
      0,
    );
    const of = (path: string) => {
      const { uid, gid, mode } = lstatSync(join(root, path));
      return [uid, gid, mode & 0o7777];
    };
    assert.deepEqual(of('bin/tool'), [12, 34, 0o750]);
    assert.deepEqual(of('bin/link').slice(0, 2), [12, 34]);
    assert.deepEqual(of('etc/passwd'), [0, 0, 0o644]);
    assert.equal(copy({ f: 'x' }, 'f', 'made/f', { owner: 'daemon:' }).status, 0);
    assert.deepEqual(of('made/f').slice(0, 2), [1, 1]);
    assert.deepEqual(of('made').slice(0, 2), [0, 0]);
  });
});

test('what cannot be copied says so', () => {
  inWorld(({ copy, fill, root }) => {
    const missing = copy({ a: 'x' }, 'b', 't');
    assert.deepEqual([missing.status, missing.stderr.trim()], [1, 'source path does not exist: b']);
    fill(root, { 'dir/inner/x': 'x', file: 'f' });
    assert.match(copy({ 'a/inner': 'x' }, 'a', 'dir').stderr, /cannot replace a folder with a file/);
    assert.match(copy({ 'a/x/y': 'x' }, 'a/x', 'file').stderr, /file/i);
    assert.notEqual(copy({ a: 'x' }, 'a', 't', { owner: 'nobody-of-that-name:' }).status, 0);
  });
});

test('a working directory is made, and what is there is left alone', () => {
  for (const shell of SHELLS) {
    const root = mkdtempSync(join(tmpdir(), 'coppice-workdir-'));
    try {
      const owner = isRoot ? '12:34' : ME;
      assert.equal(run(shell, 'workdir', [join(root, 'a/b c/d'), owner]).status, 0);
      assert.ok(statSync(join(root, 'a/b c/d')).isDirectory());
      if (isRoot)
        assert.deepEqual(
          [statSync(join(root, 'a')).uid, statSync(join(root, 'a/b c/d')).gid, statSync(root).uid],
          [12, 34, 0],
        );
      assert.equal(run(shell, 'workdir', [join(root, 'a'), '0:0']).status, 0);
      if (isRoot) assert.equal(statSync(join(root, 'a')).uid, 12);
      assert.equal(run(shell, 'workdir', ['/', '0:0']).status, 0);
      writeFileSync(join(root, 'file'), '');
      assert.notEqual(run(shell, 'workdir', [join(root, 'file/x'), owner]).status, 0);
    } finally {
      rmSync(root, { recursive: true });
    }
  }
});

test('an account that is there is not made; PATH is written for login shells', () => {
  for (const shell of SHELLS) {
    const root = mkdtempSync(join(tmpdir(), 'coppice-account-'));
    try {
      writeFileSync(join(root, 'passwd'), 'root:x:0:0::/:/bin/sh\nlast.one:x:1:1:::');
      for (const name of ['root', 'last.one'])
        assert.equal(run(shell, 'user', [name, join(root, 'passwd')]).status, 0, name);
      const file = join(root, 'etc/profile.d/path.sh');
      for (const text of ['one', "it's 100% $HOME\n"]) {
        assert.equal(run(shell, 'path', [file, text]).status, 0);
        assert.equal(readFileSync(file, 'utf8'), text);
      }
    } finally {
      rmSync(root, { recursive: true });
    }
  }
});
