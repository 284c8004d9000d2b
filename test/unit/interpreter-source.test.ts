/** What becomes of a cell's text before V8 sees it: statements of modules, types, and what must be left alone. */
import assert from 'node:assert/strict';
import test from 'node:test';
import { asScript, stripTypes } from '../../guest/interpreter/javascript/source.ts';

const LOAD = '__coppice_import__';

test('imports become constants of what import() gives, line for line', () => {
  const cases: readonly (readonly [string, string])[] = [
    ["import fs from 'fs'; fs", `const { default: fs } = await ${LOAD}('fs'); fs`],
    ["import * as os from 'os'", `const os = await ${LOAD}('os');`],
    ['import {a, b as c} from "m"', `const { a, b: c } = await ${LOAD}("m");`],
    ["import d, {a} from 'm'", `const { default: d, a } = await ${LOAD}('m');`],
    ["import d, * as all from 'm'", `const all = await ${LOAD}('m'), { default: d } = all;`],
    ["import 'm'", `await ${LOAD}('m');`],
    [
      "import j from './j.json' with { type: 'json' }",
      `const { default: j } = await ${LOAD}('./j.json', { with: { type: 'json' } });`,
    ],
    ["import {\n  a, // one\n  b,\n} from 'm'\na", `const { a, b } = await ${LOAD}('m');\n\n\n\na`],
    ["await import('m'); import.meta.url", `await ${LOAD}('m'); __coppice_import_meta__.url`],
  ];
  for (const [code, script] of cases) assert.equal(asScript(code).replace(/ +/g, ' '), script, code);
});

test('exports lose their word and keep their declaration', () => {
  const cases: readonly (readonly [string, string])[] = [
    ['export const a = 1', 'const a = 1'],
    ['export async function f() {}', 'async function f() {}'],
    ['export default function f() {}', 'function f() {}'],
    ['export default class A {}', 'class A {}'],
    ['export default { a: 1 }', 'void { a: 1 }'],
    ['let a; export { a }; a', 'let a; ; a'],
    ["export * from 'm'", `await ${LOAD}('m');`],
  ];
  for (const [code, script] of cases) assert.equal(asScript(code).replace(/ +/g, ' '), script, code);
});

test('what only looks like a statement of a module stays', () => {
  for (const code of [
    'const s = "import a from \'b\'"',
    "// import a from 'b'\n1",
    "/* import a from 'b' */ 1",
    `\`import a from "b" \${\`export \${1}\`}\``,
    "const r = /import x from 'y'/.test('') / 2 / 3",
    'const o = { import: 1, export: 2 }; o.import + o.export',
    'function f() { return "export" }',
    "#!/usr/bin/env node import x from 'y'",
  ])
    assert.equal(asScript(code), code);
});

test('a cell that is an object literal is one, and a block is a block', () => {
  assert.equal(asScript('{a: 1, b: 2}'), '({a: 1, b: 2}\n)');
  assert.equal(asScript('{ let a = 1; a }'), '{ let a = 1; a }');
});

test('types go; where places can be kept they are, and enums become code', () => {
  assert.equal(stripTypes('const a: number = 1 as number;').trimEnd().replace(/ +/g, ' '), 'const a = 1 ;');
  assert.match(stripTypes('enum Colour { Red }\nColour.Red'), /Colour\["Red"\]|Colour\[Colour/);
  assert.throws(() => stripTypes('const a: = 1'), /Expression expected|SyntaxError|type/i);
});
