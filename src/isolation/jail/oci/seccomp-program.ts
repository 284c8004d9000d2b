/** The rules of system calls as a seccomp filter in classic BPF, as include/uapi/linux/{filter,seccomp}.h define it. */
import { type Architecture, SYSCALLS } from './syscall-numbers.ts';
import { type ArgumentTest, type Conditions, RULES, UNRULED, type Verdict } from './syscall-rules.ts';

/** struct sock_filter: code, jt, jf, k. */
type Instruction = readonly [code: number, jt: number, jf: number, k: number];

const LOAD_WORD = 0x20;
const AND = 0x54;
const JUMP = 0x05;
const JUMP_EQUAL = 0x15;
const JUMP_AT_LEAST = 0x35;
const RETURN = 0x06;

const SECCOMP_RET_ALLOW = 0x7fff0000;
const SECCOMP_RET_ERRNO = 0x00050000;

/** Offsets in struct seccomp_data. Both architectures are little-endian: the low word of an argument comes first. */
const NUMBER = 0;
const ARCHITECTURE = 4;
const argument = (index: number): number => 16 + 8 * index;

/** BPF_MAXINSNS: the kernel takes no longer program. */
const LONGEST = 4096;

const give = (verdict: Verdict): Instruction[] => [
  [RETURN, 0, 0, verdict === 0 ? SECCOMP_RET_ALLOW : SECCOMP_RET_ERRNO | verdict],
];

/** `then` when the test holds; else execution goes on behind it. */
function guarded(test: ArgumentTest, then: readonly Instruction[]): Instruction[] {
  const code: Instruction[] = [[LOAD_WORD, 0, 0, argument(test.arg)]];
  if (test.mask !== undefined) code.push([AND, 0, 0, test.mask]);
  test.is.forEach((value, index) => {
    const left = test.is.length - 1 - index;
    code.push([JUMP_EQUAL, left, left === 0 ? short(then.length) : 0, value]);
  });
  return [...code, ...then];
}

function decide(rule: Verdict | Conditions): Instruction[] {
  if (typeof rule === 'number') return give(rule);
  return [
    ...rule.cases.flatMap((one) => one.when.reduceRight((then, test) => guarded(test, then), give(one.gives))),
    ...give(rule.otherwise),
  ];
}

function short(distance: number): number {
  if (distance > 255) throw new RangeError(`a conditional jump over ${distance} instructions`);
  return distance;
}

/** The numbers from `first` up to the next run's all have this rule. */
interface Run {
  readonly first: number;
  readonly rule: Verdict | Conditions;
}

function runs(architecture: Architecture): readonly Run[] {
  const found: Run[] = [{ first: 0, rule: UNRULED }];
  const add = (first: number, rule: Verdict | Conditions): void => {
    if (found.at(-1)?.first === first) found.pop();
    if (found.at(-1)?.rule !== rule) found.push({ first, rule });
  };
  const ruled = [...SYSCALLS[architecture].numbers]
    .flatMap(([name, number]) => (RULES.has(name) ? [{ number, rule: RULES.get(name)! }] : []))
    .sort((a, b) => a.number - b.number);
  for (const { number, rule } of ruled) {
    add(number, rule);
    // The last run has no end: numbers above every name, x32's bit among them.
    found.push({ first: number + 1, rule: UNRULED });
  }
  return found;
}

/** Halves the runs by number: eight comparisons find one of two hundred, a chain would take hundreds. */
function search(among: readonly Run[]): Instruction[] {
  if (among.length === 1) return decide(among[0]!.rule);
  const half = among.length >> 1;
  const low = search(among.slice(0, half));
  const high = search(among.slice(half));
  const k = among[half]!.first;
  if (low.length <= 255) return [[JUMP_AT_LEAST, low.length, 0, k], ...low, ...high];
  return [[JUMP_AT_LEAST, 0, 1, k], [JUMP, 0, 0, low.length], ...low, ...high];
}

/**
 * The filter as an array of struct sock_filter. A call made as another architecture gets ENOSYS, as x32 ones do.
 *
 * A decision that depends on the number alone reads nothing else, so that the kernel (5.11 and later) finds it out when
 * the filter is set, and lets such calls through without running it.
 */
export function seccompProgram(architecture: Architecture): Buffer {
  const code: readonly Instruction[] = [
    [LOAD_WORD, 0, 0, ARCHITECTURE],
    [JUMP_EQUAL, 1, 0, SYSCALLS[architecture].audit],
    ...give(UNRULED),
    [LOAD_WORD, 0, 0, NUMBER],
    ...search(runs(architecture)),
  ];
  if (code.length > LONGEST) throw new RangeError(`a filter of ${code.length} instructions`);
  const program = Buffer.alloc(code.length * 8);
  code.forEach(([operation, jt, jf, k], index) => {
    program.writeUInt16LE(operation, index * 8);
    program.writeUInt8(jt, index * 8 + 2);
    program.writeUInt8(jf, index * 8 + 3);
    program.writeUInt32LE(k >>> 0, index * 8 + 4);
  });
  return program;
}
