/** What an SDK package offers to its users, found in the package itself: classes by reflection, what is private by its types. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import type { Sandbox } from 'e2b';
import type { Sdk } from '../helpers/generations.ts';

/** An object whose methods a user calls, and the word for it in the matrix. */
export interface Subject {
  readonly word: string;
  /** The class itself for its statics, its prototype for the rest. */
  readonly of: object;
  /** Names of the class and of those above it, in the types of the package. */
  readonly classes: readonly string[];
  readonly isStatic: boolean;
}

const require = createRequire(import.meta.url);
/** Its members are for the package's own classes. */
const NOT_OFFERED = new Set(['ClientFactory', '']);

/** @param bundle the npm package, as it is called here */
export function declaredPrivate(bundle: string): ReadonlySet<string> {
  const types = readFileSync(require.resolve(bundle).replace(/\.js$/, '.d.ts'), 'utf8');
  const found = new Set<string>();
  for (const [, name, body] of types.matchAll(/^declare (?:abstract )?class (\w+)[^\n]*\{\n([\s\S]*?)^\}/gm))
    for (const [, isStatic, member] of body!.matchAll(
      /^ {2,4}(?:private|protected) (static )?(?:readonly |abstract |async )*(?:get )?(\w+)/gm,
    ))
      found.add(`${name}${isStatic ? '.' : '#'}${member}`);
  assert.ok(found.size > 0, `${bundle} has types that are not understood`);
  return found;
}

function chain(made: object, isStatic: boolean): { of: object; name: string }[] {
  const links: { of: object; name: string }[] = [];
  for (let at: object | null = made; at && at !== Object.prototype && at !== Function.prototype; ) {
    const name = isStatic ? (at as { name: string }).name : (at as { constructor: { name: string } }).constructor.name;
    if (NOT_OFFERED.has(name)) break;
    links.push({ of: at, name });
    at = Object.getPrototypeOf(at) as object | null;
  }
  return links;
}

const statics = (word: string, made: object): Subject => {
  return { word, of: made, classes: chain(made, true).map(({ name }) => name), isStatic: true };
};
const members = (word: string, made: object): Subject => {
  const of = Object.getPrototypeOf(made) as object;
  return { word, of, classes: chain(of, false).map(({ name }) => name), isStatic: false };
};

/** Of `e2b`. Handles are not exported: they are those of a sandbox that runs. */
export async function subjectsOf(sdk: Sdk, sandbox: Sandbox): Promise<readonly Subject[]> {
  const handle = await sandbox.commands.run('true', { background: true });
  const watch = await sandbox.files.watchDir('/tmp', () => {});
  await handle.wait();
  await watch.stop();
  return [
    statics('Sandbox', sdk.Sandbox),
    members('sandbox', sandbox),
    members('files', sandbox.files),
    members('watch', watch),
    members('commands', sandbox.commands),
    members('handle', handle),
    members('pty', sandbox.pty),
    members('git', sandbox.git),
    members('sandboxes', sdk.Sandbox.list({ apiKey: 'e2b_00' })),
    members('snapshots', sdk.Sandbox.listSnapshots({ apiKey: 'e2b_00' })),
    statics('Template', sdk.TemplateBase),
    members('template', sdk.Template()),
    statics('Volume', sdk.Volume),
    members('volume', new sdk.Volume('none', 'none', 'none')),
    statics('Secret', sdk.Secret),
    members('secrets', sdk.Secret.list({ apiKey: 'e2b_00' })),
  ];
}

/** Of `@e2b/code-interpreter`: what it adds to the sandbox of `e2b`. */
export function interpreterSubjects(sandbox: object): readonly Subject[] {
  const { of, classes } = members('sandbox', sandbox);
  return [{ word: 'sandbox', of, classes: classes.slice(0, 1), isStatic: false }];
}

/** The methods that it offers, its own and inherited ones, without accessors and what its types call private. */
export function methodsOf(subject: Subject, hidden: ReadonlySet<string>): readonly string[] {
  const found = new Set<string>();
  for (const { of, name } of chain(subject.of, subject.isStatic).slice(0, subject.classes.length))
    for (const [member, { value }] of Object.entries(Object.getOwnPropertyDescriptors(of)))
      if (typeof value === 'function' && member !== 'constructor' && member !== 'prototype')
        if (!hidden.has(`${name}${subject.isStatic ? '.' : '#'}${member}`)) found.add(`${subject.word}.${member}`);
  return [...found];
}

/**
 * Who counts the calls of a method that is counted already. A package may keep the method that it was once asked for
 * (`Template` does), so that one is never wrapped twice.
 */
const countersOf = new WeakMap<object, (() => void)[]>();

/** Has every call of these methods counted from now on, those that the package makes itself included. */
export function countCalls(subjects: readonly Subject[], hidden: ReadonlySet<string>): ReadonlyMap<string, number> {
  const calls = new Map<string, number>();
  for (const subject of subjects)
    for (const method of methodsOf(subject, hidden)) {
      const member = method.slice(subject.word.length + 1);
      const owner = chain(subject.of, subject.isStatic).find(({ of }) => Object.hasOwn(of, member))!.of;
      const before = Object.getOwnPropertyDescriptor(owner, member)!;
      const original = before.value as (...args: unknown[]) => unknown;
      calls.set(method, 0);
      const count = (): void => void calls.set(method, calls.get(method)! + 1);
      const others = countersOf.get(original);
      if (others) {
        others.push(count);
        continue;
      }
      const counters = [count];
      const counted = function (this: unknown, ...args: unknown[]): unknown {
        for (const one of counters) one();
        return original.apply(this, args);
      };
      countersOf.set(counted, counters);
      Object.defineProperty(owner, member, { ...before, value: counted });
    }
  return calls;
}
