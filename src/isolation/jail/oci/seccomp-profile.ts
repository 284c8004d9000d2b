/** The rules of system calls as OCI's `linux.seccomp`, for runtimes that take no program. */
import { type Architecture, SYSCALLS } from './syscall-numbers.ts';
import { type Conditions, RULES, UNRULED, type Verdict } from './syscall-rules.ts';

/** Holds when argument `index` and `value` are `valueTwo`, in 64 bits. */
export interface ProfileArgument {
  readonly index: number;
  readonly value: number;
  readonly valueTwo: number;
  readonly op: 'SCMP_CMP_MASKED_EQ';
}

export interface ProfileRule {
  readonly names: readonly string[];
  readonly action: 'SCMP_ACT_ALLOW' | 'SCMP_ACT_ERRNO';
  readonly errnoRet?: number;
  /** All must hold. */
  readonly args?: readonly ProfileArgument[];
}

/** As config.json has it (runtime-spec, config-linux.md). */
export interface SeccompProfile {
  readonly defaultAction: 'SCMP_ACT_ERRNO';
  readonly defaultErrnoRet: number;
  readonly architectures: readonly string[];
  readonly syscalls: readonly ProfileRule[];
}

/** All calls whose argument `index`, for each index, has `value` in the bits of `mask`. */
type Cube = readonly { readonly mask: number; readonly value: number }[];

const ANY: Cube = Array.from({ length: 6 }, () => ({ mask: 0, value: 0 }));

const apart = (a: Cube, b: Cube): boolean =>
  a.some((one, arg) => (one.mask & b[arg]!.mask & (one.value ^ b[arg]!.value)) !== 0);

const both = (a: Cube, b: Cube): Cube =>
  a.map((one, arg) => ({
    mask: (one.mask | b[arg]!.mask) >>> 0,
    value: (one.value | b[arg]!.value) >>> 0,
  }));

/** What of `a` is not in `b`, in cubes that do not overlap: those that first differ from `b` in its first bit, its second … */
function without(a: Cube, b: Cube): Cube[] {
  if (apart(a, b)) return [a];
  const rest: Cube[] = [];
  let shared = a;
  for (const [arg, { mask, value }] of b.entries())
    for (let bit = 31; bit >= 0; bit--) {
      const one = (1 << bit) >>> 0;
      if ((mask & one) === 0 || (a[arg]!.mask & one) !== 0) continue;
      const fixed = (bits: number): Cube =>
        shared.map((old, index) =>
          index === arg ? { mask: (old.mask | one) >>> 0, value: (old.value | bits) >>> 0 } : old,
        );
      rest.push(fixed(~value & one));
      shared = fixed(value & one);
    }
  return rest;
}

/**
 * Rules that never overlap, one for each cube: libseccomp has no order of rules, and no "not equal" under a mask. It does
 * have one comparison of each argument, which a cube is.
 */
function separate(rule: Conditions): readonly { readonly cube: Cube; readonly verdict: Verdict }[] {
  let rest: readonly Cube[] = [ANY];
  const found: { cube: Cube; verdict: Verdict }[] = [];
  for (const { when, gives } of rule.cases) {
    let cubes: readonly Cube[] = [ANY];
    for (const { arg, mask = 0xffffffff, is } of when)
      cubes = cubes.flatMap((cube) =>
        is.map((value) => cube.map((old, index) => (index === arg ? { mask, value } : old))),
      );
    for (const cube of cubes) {
      for (const one of rest) if (!apart(one, cube)) found.push({ cube: both(one, cube), verdict: gives });
      rest = rest.flatMap((one) => without(one, cube));
    }
  }
  return [...found, ...rest.map((cube) => ({ cube, verdict: rule.otherwise }))];
}

function toRule(names: readonly string[], verdict: Verdict, cube: Cube = ANY): ProfileRule {
  const args = cube.flatMap(({ mask, value }, index): ProfileArgument[] =>
    mask === 0 ? [] : [{ index, value: mask, valueTwo: value, op: 'SCMP_CMP_MASKED_EQ' }],
  );
  return {
    names,
    ...(verdict === 0 ? { action: 'SCMP_ACT_ALLOW' } : { action: 'SCMP_ACT_ERRNO', errnoRet: verdict }),
    ...(args.length === 0 ? {} : { args }),
  };
}

/**
 * The same verdicts as `seccompProgram`'s, but for calls made as another architecture or x32: libseccomp kills who makes
 * one. A name that the host's libseccomp does not know is left out by the runtime, and gets the default.
 */
export function seccompProfile(architecture: Architecture): SeccompProfile {
  const ruled = [...SYSCALLS[architecture].numbers.keys()].filter((name) => RULES.has(name));
  const flat = new Map<Verdict, string[]>();
  const conditional: ProfileRule[] = [];
  for (const name of ruled) {
    const rule = RULES.get(name)!;
    if (typeof rule === 'number') flat.set(rule, [...(flat.get(rule) ?? []), name]);
    else for (const { cube, verdict } of separate(rule)) conditional.push(toRule([name], verdict, cube));
  }
  return {
    defaultAction: 'SCMP_ACT_ERRNO',
    defaultErrnoRet: UNRULED,
    architectures: [SYSCALLS[architecture].oci],
    syscalls: [...[...flat].map(([verdict, names]) => toRule(names, verdict)), ...conditional],
  };
}
