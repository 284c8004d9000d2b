/** docs/e2b-matrix.md, written from what a run proved. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { DECLARED_VERBS } from '../../src/contract/e2b/answers.ts';
import { PENDING_VERBS } from '../../src/contract/e2b/routes.ts';
import { ENVD_CALLS } from './envd.ts';
import { CLIENT_SIDE } from './exceptions.ts';
import type { Column, Proof, Results } from './results.ts';

export const MATRIX = join(import.meta.dirname, '..', '..', 'docs', 'e2b-matrix.md');
const CLI_TEST = 'test/clients/e2b-cli.test.ts';
const MICROVMS = '## On microVMs';

const HEAD = `# E2B, method by method

Written by \`test/clients/conformance.test.ts\` from its own run, and compared with it by every run after: what is in a cell is
the test that passed, or it would not be there. The columns of the first two tables are packages of npm, unmodified; their rows
are what those packages offer, found in them by reflection. The test of a cell is called as its column and its row are, and lies in
the file that the cell names; \`bin/test clients\` runs all, and this one alone:

    COPPICE_TEST_KINDS=jail node --test --test-name-pattern='e2b 2.50.0 files.write' test/clients/conformance.test.ts

A row fails unless the SDK's own method was called in it. Every answer of the REST API to every test is held against the schemas
of \`src/contract/e2b\` (\`test/conformance/front.ts\`). After a change: \`npm run matrix\` (root, the templates of \`bin/test\`).
`;

/** What the tables of jails are. */
export function jailText(results: Results): string {
  return [
    HEAD,
    '## SDK methods\n',
    methodTable(results.sdks),
    `\nNot in the table, since no server has a part in them: ${CLIENT_SIDE.filter(
      ([, reason]) => !/^(rows|of the format)/.test(reason),
    )
      .map(([, reason]) => reason)
      .join('; ')}.\n`,
    '## Code interpreter\n',
    methodTable(results.interpreters),
    '\n## REST verbs\n',
    'Beside each verb the first test of a column that asked for it and got it. Verbs that answer 501 were asked by a test of the last\ncolumn.\n',
    restTable(results),
    '\n## envd, by binary protobuf\n',
    'The services that the SDKs speak to by JSON, called by a client that speaks binary protobuf as the Python SDK does\n(`test/conformance/envd.ts`).\n',
    table(
      ['call', 'test'],
      ENVD_CALLS.map((call) => [code(call), results.envd.get(call) ?? '**none**']),
    ),
    `\n## E2B's command line\n\n\`@e2b/cli\` 2.19.0, unmodified, in [${CLI_TEST}](../${CLI_TEST}):\n`,
    ...cliTests().map((name) => `- ${name}`),
    '',
  ].join('\n');
}

/** What differs on microVMs. */
export function microvmText(results: Results): string {
  return [
    MICROVMS,
    '',
    `The same tests, run on microVMs: all ${results.passed} that were run passed. What differs from the tables above:`,
    '',
    table(
      ['test', 'on microVMs'],
      [...results.differs].map(([title, how]) => [escaped(title), how]),
    ),
    '',
  ].join('\n');
}

/** The file with the part of one kind replaced. */
export function merged(kind: 'jail' | 'microvm', results: Results): { readonly was: string; readonly is: string } {
  let was = '';
  try {
    was = readFileSync(MATRIX, 'utf8');
  } catch {
    // The first time there is none.
  }
  const at = was.includes(MICROVMS) ? was.indexOf(MICROVMS) : was.length;
  const jails = kind === 'jail' ? jailText(results) : was.slice(0, at);
  const microvms = kind === 'microvm' ? microvmText(results) : was.slice(at);
  const parts = [jails, microvms].map((part) => part.trimEnd()).filter(Boolean);
  return { was, is: `${parts.join('\n\n')}\n` };
}

function methodTable(columns: readonly Column[]): string {
  const methods = [...new Set(columns.flatMap((column) => [...column.methods.keys()]))];
  return table(
    ['method', 'what is proven', ...columns.map(({ name }) => name)],
    methods.map((method) => [
      code(method),
      words(columns.flatMap((column) => column.methods.get(method) ?? [])),
      ...columns.map((column) => cell(column.methods.get(method))),
    ]),
  );
}

function words(proofs: readonly Proof[]): string {
  return [...new Set(proofs.map(({ how, proves }) => (how === 'refused' ? `refused: ${proves}` : proves)))]
    .map(escaped)
    .join('. ');
}

function cell(proofs: readonly Proof[] | undefined): string {
  if (proofs === undefined) return 'not in this package';
  const files = new Set(proofs.flatMap((proof) => (proof.how === 'none' ? [] : [proof.file])));
  return [...files].map((file) => `[${file}](../test/conformance/rows/${file})`).join(' ') || '–';
}

function restTable(results: Results): string {
  const pending = new Set(PENDING_VERBS.map(({ method, path }) => `${method} ${path}`));
  const columns = [...results.rest];
  return table(
    ['verb', ...columns.map(([name]) => name)],
    DECLARED_VERBS.map((verb) => [
      `${code(verb)}${pending.has(verb) ? ' (501)' : ''}`,
      ...columns.map(([, asked]) => {
        const tests = asked.get(verb) ?? new Set();
        const [first = ''] = tests;
        return tests.has(verb) ? 'of its own name' : first && code(first);
      }),
    ]),
  );
}

/** Verbs that no test of this run asked for. */
export function unasked(results: Results): readonly string[] {
  return DECLARED_VERBS.filter((verb) => ![...results.rest.values()].some((asked) => asked.has(verb)));
}

function cliTests(): string[] {
  const source = readFileSync(join(import.meta.dirname, '..', '..', CLI_TEST), 'utf8');
  return [...source.matchAll(/^test\('([^']+)'/gm)].map(([, name]) => name!);
}

/** What is about the sandbox itself comes first, so that its verbs are seen in tests of theirs. */
export const rowFiles = (): readonly string[] =>
  readdirSync(join(import.meta.dirname, 'rows')).sort(
    (a, b) => Number(a > b) - Number(a < b) + 2 * first(b) - 2 * first(a),
  );

const first = (file: string): number => Number(file === 'sandbox.ts');

const code = (text: string): string => `\`${text}\``;
const escaped = (text: string): string => text.replaceAll('|', '\\|').replaceAll('<', '&lt;');

function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]): string => `| ${cells.join(' | ')} |`;
  return [line(head), line(head.map(() => '---')), ...rows.map(line)].join('\n');
}
