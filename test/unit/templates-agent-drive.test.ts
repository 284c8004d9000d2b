/** What goes onto the agent drive: sources without types, imports that resolve there, the libraries that ldd names. */
import assert from 'node:assert/strict';
import test from 'node:test';
import { isCoppiceError } from '../../src/contract/errors.ts';
import {
  checkImports,
  collectAgentDrive,
  hashAgentDrive,
  parseLdd,
  stripSource,
} from '../../src/templates/agent-drive.ts';

test('types go, and relative imports name the JavaScript files', () => {
  const source = [
    "import type { Gone } from './types.ts';",
    "import { a, type B } from './a.ts';",
    'import {',
    '  one,',
    "} from '../../src/channel/protocol.ts';",
    "import './effect.ts';",
    "export * from './again.ts';",
    "const later = await import('./later.ts');",
    "import koffi from 'koffi';",
    "const text: string = 'from ./a.ts';",
  ].join('\n');
  const stripped = stripSource(source);
  const found = [...stripped.matchAll(/'([^']*)'/g)].map((match) => match[1]);
  assert.deepEqual(found, [
    './a.js',
    '../../src/channel/protocol.js',
    './effect.js',
    './again.js',
    './later.js',
    'koffi',
    'from ./a.ts',
  ]);
  assert.doesNotMatch(stripped, /Gone|: string|type B/);
});

test('syntax that cannot be erased is an error, not broken JavaScript', () => {
  assert.throws(() => stripSource('enum Colour { Red }'));
});

test('an import that is not on the drive is found before a guest boots', () => {
  const drive = (main: string, more: Record<string, string> = {}) =>
    new Map(
      Object.entries({ 'app/guest/agent/main.js': main, ...more }).map(([path, text]) => [path, Buffer.from(text)]),
    );
  const fails = (texts: Map<string, Buffer>) =>
    assert.throws(
      () => checkImports(texts),
      (error) => isCoppiceError(error, 'internal'),
    );
  checkImports(drive("import fs from 'node:fs';\nimport koffi from 'koffi';\nexport const X = 'user.e2b.';\n"));
  checkImports(drive("import { a } from './a.js';\n", { 'app/guest/agent/a.js': '' }));
  fails(drive("import { a } from './a.js';\n"));
  fails(drive("import pino from 'pino';\n"));
  fails(drive("const x = await import('../gone.js');\n"));
  fails(new Map());
});

test('libraries and the loader are read from ldd', () => {
  const output = [
    '\tlinux-vdso.so.1 (0x00007ffd)',
    '\tlibdl.so.2 => /lib/x86_64-linux-gnu/libdl.so.2 (0x00007f00)',
    '\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f01)',
    '\t/lib64/ld-linux-x86-64.so.2 (0x00007f02)',
  ].join('\n');
  assert.deepEqual(
    [...parseLdd(output)],
    [
      ['libdl.so.2', '/lib/x86_64-linux-gnu/libdl.so.2'],
      ['libc.so.6', '/lib/x86_64-linux-gnu/libc.so.6'],
      ['ld.so', '/lib64/ld-linux-x86-64.so.2'],
    ],
  );
  assert.throws(
    () => parseLdd('\tlibgone.so.1 => not found\n'),
    (error) => isCoppiceError(error, 'host_unfit'),
  );
});

test("this checkout's agent drive is whole, and its hash is that of its content", async () => {
  const files = await collectAgentDrive();
  for (const path of ['app/guest/agent/main.js', 'app/src/channel/protocol.js', 'app/package.json', 'bin/pid1'])
    assert.ok(files.texts.has(path), path);
  for (const path of ['bin/node', 'lib/ld.so', 'lib/libc.so.6']) assert.ok(files.binaries.has(path), path);
  const hash = await hashAgentDrive(files);
  assert.equal(await hashAgentDrive(await collectAgentDrive()), hash);
  const changed = { ...files, texts: new Map([...files.texts, ['app/extra.js', Buffer.from('1')]]) };
  assert.notEqual(await hashAgentDrive(changed), hash);
});
