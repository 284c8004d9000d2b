/** Runs the rows of one SDK generation: one after the other, since its methods are counted while a row calls them. */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import type { Sandbox as CodeSandbox } from '@e2b/code-interpreter';
import type { Sandbox, SandboxOpts } from 'e2b';
import type { Kind } from '../behaviours/support/kinds.ts';
import type { GENERATIONS, INTERPRETER_GENERATIONS } from '../helpers/generations.ts';
import type { TestServer } from '../helpers/oci-image.ts';
import type { TestService } from '../helpers/service.ts';
import { CLIENT_SIDE, EXCEPTIONS } from './exceptions.ts';
import { type Front, openFront } from './front.ts';
import { rowFiles } from './matrix.ts';
import { type Column, prove, type Results } from './results.ts';
import type { CodeRow, CodeRowContext, Row, RowContext } from './row.ts';
import { countCalls, declaredPrivate, interpreterSubjects, methodsOf, type Subject, subjectsOf } from './surface.ts';

export interface ConformanceWorld {
  readonly kind: Kind;
  readonly results: Results;
  service(): TestService;
  registry(): TestServer;
}

const ROW_MS = 300_000;
const KILL_MS = 30_000;
/** Columns run beside each other, and what is in them would too. */
const ONE_BY_ONE = { concurrency: 1 };
const OF_INTERPRETER = 'interpreter.ts';

const ROWS: readonly (readonly [file: string, rows: readonly Row[]])[] = await Promise.all(
  rowFiles()
    .filter((file) => file !== OF_INTERPRETER)
    .map(
      async (file) =>
        [file, ((await import(join(import.meta.dirname, 'rows', file))) as { default: Row[] }).default] as const,
    ),
);
const { default: CODE_ROWS } = (await import('./rows/interpreter.ts')) as { default: readonly CodeRow[] };

type Ends = (() => unknown)[];

export function generationRows(world: ConformanceWorld, generation: (typeof GENERATIONS)[number]): void {
  const { kind, results } = world;
  const { name, bundle, sdk } = generation;
  const column: Column = { name, methods: new Map() };
  results.sdks.push(column);
  // The order of its columns is that of their names here.
  results.rest.set(name, new Map());
  describe(name, ONE_BY_ONE, () => {
    let front: Front;
    let sandbox: Sandbox;
    let subjects: readonly Subject[];
    let calls: ReadonlyMap<string, number>;
    const options = (): RowContext['sdkOptions'] => ({ ...world.service().sdk, apiUrl: front.url });
    before(async () => {
      front = await openFront(world.service().port);
      results.rest.set(name, front.asked);
      sandbox = await sdk.Sandbox.create(kind.base, { ...options(), timeoutMs: 900_000 });
      subjects = await subjectsOf(sdk, sandbox);
      calls = countCalls(subjects, declaredPrivate(bundle));
    });
    after(async () => {
      await sandbox?.kill({ requestTimeoutMs: KILL_MS });
      await front?.close();
    });
    test(results, 'every method that the package offers has a row or a reason', () => {
      const hidden = declaredPrivate(bundle);
      const offered = subjects.flatMap((subject) => methodsOf(subject, hidden));
      const rows = ROWS.flatMap(([, each]) => each.flatMap(({ method, also = [] }) => [method, ...also]));
      const known = new Set([...rows, ...EXCEPTIONS.map(({ method }) => method)]);
      assert.deepEqual(
        offered.filter((method) => !known.has(method)),
        [],
        'without a row and a reason',
      );
      const exports = Object.keys(sdk).filter((word) => !CLIENT_SIDE.some(([names]) => names.test(word)));
      assert.deepEqual(exports, [], 'exported without a row and a reason');
      for (const method of offered) column.methods.set(method, []);
      for (const { method, reason } of EXCEPTIONS)
        if (offered.includes(method)) prove(column, [method], { how: 'none', proves: reason });
    });
    const context = (ends: Ends): RowContext => ({
      kind,
      sdk,
      sandbox,
      service: world.service(),
      registry: world.registry(),
      sdkOptions: options(),
      tag: `${kind.name}-${bundle}`,
      atEnd: (end) => void ends.push(end),
      create: async (more?: SandboxOpts) => {
        const made = await sdk.Sandbox.create(kind.base, { ...options(), timeoutMs: 600_000, ...more });
        ends.push(() => made.kill({ requestTimeoutMs: KILL_MS }));
        return made;
      },
    });
    for (const [file, rows] of ROWS)
      for (const row of rows) runRow(world, column, row, file, () => ({ front, calls }), context);
  });
}

export function interpreterRows(
  world: ConformanceWorld,
  { name, bundle, sdk }: (typeof INTERPRETER_GENERATIONS)[number],
): void {
  const { kind, results } = world;
  const column: Column = { name, methods: new Map() };
  results.interpreters.push(column);
  describe(name, ONE_BY_ONE, () => {
    let front: Front;
    let sandbox: CodeSandbox;
    let subjects: readonly Subject[];
    let calls: ReadonlyMap<string, number>;
    before(async () => {
      front = await openFront(world.service().port);
      const options = { ...world.service().sdk, apiUrl: front.url, timeoutMs: 900_000 };
      sandbox = await sdk.Sandbox.create(kind.code, options);
      subjects = interpreterSubjects(sandbox);
      calls = countCalls(subjects, declaredPrivate(bundle));
    });
    after(async () => {
      await sandbox?.kill({ requestTimeoutMs: KILL_MS });
      await front?.close();
    });
    test(results, 'every method that the package adds has a row', () => {
      const offered = subjects.flatMap((subject) => methodsOf(subject, declaredPrivate(bundle)));
      const known = new Set(CODE_ROWS.flatMap(({ method, also = [] }) => [method, ...also]));
      assert.deepEqual(
        offered.filter((method) => !known.has(method)),
        [],
        'without a row',
      );
      for (const method of offered) column.methods.set(method, []);
    });
    const context = (ends: Ends): CodeRowContext => ({
      kind,
      sdk,
      sandbox,
      service: world.service(),
      sdkOptions: { ...world.service().sdk, apiUrl: front.url },
      tag: `${kind.name}-${bundle.replace(/\W+/g, '-')}`,
      atEnd: (end) => void ends.push(end),
    });
    for (const row of CODE_ROWS) runRow(world, column, row, OF_INTERPRETER, () => ({ front, calls }), context);
  });
}

function runRow<C>(
  { kind, results }: ConformanceWorld,
  column: Column,
  row: Row<C>,
  file: string,
  rig: () => { readonly front: Front; readonly calls: ReadonlyMap<string, number> },
  contextOf: (ends: Ends) => C,
): void {
  const refused = row.refused?.on.includes(kind.name) ? row.refused : undefined;
  const title = `${row.method}: ${refused ? `refused, ${refused.reason}` : row.proves}`;
  if (row.slow && kind.ownKernel) {
    results.differs.set(title, 'not run: takes minutes where machines are emulated');
    return;
  }
  if (row.refused && !refused) results.differs.set(title, 'holds');
  const methods = [row.method, ...(row.also ?? [])];
  test(results, title, async () => {
    const { front, calls } = rig();
    front.during(row.method);
    await withEnds(async (ends) => {
      const context = contextOf(ends);
      const before = new Map(calls);
      await (refused ?? row).run(context);
      const uncalled = methods.filter((method) => calls.get(method) === before.get(method));
      assert.deepEqual(uncalled, [], 'methods that the row is about and did not call');
    });
    front.check();
    prove(column, methods, { how: refused ? 'refused' : 'holds', proves: refused?.reason ?? row.proves, file });
  });
}

/** A test that counts for the matrix. */
export function test(results: Results, title: string, work: () => void | Promise<void>): void {
  results.planned += 1;
  it(title, { timeout: ROW_MS }, async () => {
    await work();
    results.passed += 1;
  });
}

/** Runs `work`, then what it left to be done at its end, last first. */
export async function withEnds(work: (ends: Ends) => Promise<void>): Promise<void> {
  const ends: Ends = [];
  const failures: unknown[] = [];
  await work(ends).catch((error: unknown) => failures.push(error));
  for (const end of ends.reverse())
    await Promise.resolve()
      .then(end)
      .catch((error: unknown) => failures.push(error));
  if (failures.length === 1) throw failures[0];
  if (failures.length > 1) throw new AggregateError(failures, failures.map(String).join('; and then '));
}
