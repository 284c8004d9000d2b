/** The filter and the profile of a jail say what the rules say, by an interpreter of each; and the rules say what they must. */
import assert from 'node:assert/strict';
import test from 'node:test';
import fc from 'fast-check';
import { seccompProfile, seccompProgram } from '../../src/isolation/jail/oci/seccomp.ts';
import { type Architecture, SYSCALLS } from '../../src/isolation/jail/oci/syscall-numbers.ts';
import { type Conditions, RULES, type Verdict, verdict } from '../../src/isolation/jail/oci/syscall-rules.ts';

const ARCHITECTURES: readonly Architecture[] = ['x64', 'arm64'];
const AUDIT = { i386: 0x40000003, arm: 0x40000028, x64: 0xc000003e, arm64: 0xc00000b7 };
const ENOSYS = 38;
const EPERM = 1;

interface Call {
  readonly audit: number;
  /** Of 32 bits. */
  readonly number: number;
  /** Of 64 bits. */
  readonly args: readonly bigint[];
}

/** Runs a filter as net/core/filter.c does. `read`: the offsets loaded; `steps`: instructions executed. */
function run(program: Buffer, call: Call): { gives: number; read: readonly number[]; steps: number } {
  const data = Buffer.alloc(64);
  data.writeUInt32LE(call.number, 0);
  data.writeUInt32LE(call.audit, 4);
  call.args.forEach((value, index) => {
    data.writeBigUInt64LE(value, 16 + 8 * index);
  });
  const read: number[] = [];
  let a = 0;
  let at = 0;
  for (let steps = 1; steps <= 4096; steps++, at++) {
    const k = program.readUInt32LE(at * 8 + 4);
    const jump = (holds: boolean): void => {
      at += program[at * 8 + (holds ? 2 : 3)]!;
    };
    switch (program.readUInt16LE(at * 8)) {
      case 0x20:
        read.push(k);
        a = data.readUInt32LE(k);
        break;
      case 0x54:
        a = (a & k) >>> 0;
        break;
      case 0x05:
        at += k;
        break;
      case 0x15:
        jump(a === k);
        break;
      case 0x35:
        jump(a >= k);
        break;
      case 0x06: {
        if (k === 0x7fff0000) return { gives: 0, read, steps };
        assert.equal(k & 0xffff0000, 0x00050000, `neither allowed nor an errno: ${k.toString(16)}`);
        return { gives: k & 0xffff, read, steps };
      }
      default:
        assert.fail(`instruction ${program.subarray(at * 8, at * 8 + 8).toString('hex')}`);
    }
  }
  assert.fail('no end');
}

const low = (value: bigint): number => Number(value & 0xffffffffn);
const names = (architecture: Architecture): ReadonlyMap<number, string> =>
  new Map([...SYSCALLS[architecture].numbers].map(([name, number]) => [number, name]));

/** Every value that a rule compares something with, and its neighbours. */
const telling = [
  ...new Set(
    [...RULES.values()].flatMap((rule) =>
      typeof rule === 'number'
        ? []
        : rule.cases.flatMap((one) => one.when.flatMap((what) => [what.mask ?? 0, ...what.is])),
    ),
  ),
].flatMap((value) => [value, value + 1, Math.max(0, value - 1)]);

const word = fc.oneof(
  fc.constantFrom(...telling.map((value) => BigInt(value >>> 0))),
  fc.nat(63).map((value) => BigInt(value)),
  fc.nat(31).map((bit) => 1n << BigInt(bit)),
  fc.bigInt({ min: 0n, max: 0xffffffffn }),
);
const argument = fc
  .tuple(word, fc.oneof(fc.constant(0n), fc.bigInt({ min: 0n, max: 0xffffffffn })))
  .map(([lower, upper]) => lower | (upper << 32n));
const argumentsOfCall = fc.array(argument, { minLength: 6, maxLength: 6 });

for (const architecture of ARCHITECTURES) {
  const program = seccompProgram(architecture);
  const profile = seccompProfile(architecture);
  const { audit, numbers } = SYSCALLS[architecture];
  const named = names(architecture);
  const conditional = [...numbers].filter(([name]) => typeof RULES.get(name) === 'object');

  test(`${architecture}: the filter is one that the kernel takes`, () => {
    assert.equal(program.length % 8, 0);
    const length = program.length / 8;
    assert.ok(length <= 4096, `${length} instructions`);
    for (let at = 0; at < length; at++) {
      const code = program.readUInt16LE(at * 8);
      const k = program.readUInt32LE(at * 8 + 4);
      if (code === 0x20) assert.ok(k % 4 === 0 && k < 64);
      if (code === 0x05) assert.ok(at + 1 + k < length);
      if (code === 0x15 || code === 0x35)
        for (const side of [2, 3]) assert.ok(at + 1 + program[at * 8 + side]! < length);
    }
    assert.equal(program.readUInt16LE(program.length - 8), 0x06);
  });

  test(`${architecture}: the filter gives what the rules give, for every number and any arguments`, () => {
    const number = fc.oneof(
      { weight: 4, arbitrary: fc.constantFrom(...conditional.map(([, one]) => one)) },
      { weight: 2, arbitrary: fc.nat(600) },
      { weight: 1, arbitrary: fc.nat(600).map((one) => one + 0x40000000) },
      { weight: 1, arbitrary: fc.nat(0xffffffff) },
    );
    fc.assert(
      fc.property(number, argumentsOfCall, (one, args) => {
        const name = named.get(one);
        const expected = verdict(name === undefined ? undefined : RULES.get(name), args.map(low));
        assert.equal(run(program, { audit, number: one, args }).gives, expected, `${name} ${one}`);
      }),
      { numRuns: 20_000 },
    );
    const args = Array<bigint>(6).fill(0n);
    for (let one = 0; one < 1_200; one++) {
      const name = named.get(one);
      const expected = verdict(name === undefined ? undefined : RULES.get(name), [0, 0, 0, 0, 0, 0]);
      assert.equal(run(program, { audit, number: one, args }).gives, expected, `${name} ${one}`);
    }
  });

  test(`${architecture}: a call of another architecture is not implemented`, () => {
    fc.assert(
      fc.property(fc.constantFrom(...Object.values(AUDIT), 0), fc.nat(600), argumentsOfCall, (other, one, args) => {
        if (other !== audit) assert.equal(run(program, { audit: other, number: one, args }).gives, ENOSYS);
      }),
    );
  });

  test(`${architecture}: a decision by number alone reads only architecture and number, in few steps`, () => {
    for (const [name, one] of numbers) {
      const { read, steps } = run(program, { audit, number: one, args: Array<bigint>(6).fill(0n) });
      if (typeof RULES.get(name) !== 'object') assert.deepEqual(read, [4, 0], name);
      assert.ok(steps <= 32, `${name} takes ${steps} steps`);
    }
  });

  test(`${architecture}: the profile gives what the rules give, and none of its rules overlap`, () => {
    assert.equal(profile.defaultErrnoRet, ENOSYS);
    assert.deepEqual(profile.architectures, [architecture === 'x64' ? 'SCMP_ARCH_X86_64' : 'SCMP_ARCH_AARCH64']);
    const byName = new Map<string, (typeof profile.syscalls)[number][]>();
    for (const rule of profile.syscalls)
      for (const name of rule.names) {
        byName.set(name, [...(byName.get(name) ?? []), rule]);
        assert.ok(numbers.has(name), name);
        // libseccomp takes one comparison of an argument.
        assert.equal(new Set(rule.args?.map((one) => one.index)).size, rule.args?.length ?? 0);
      }
    const check = (name: string, args: readonly bigint[]): void => {
      const matching = (byName.get(name) ?? []).filter((rule) =>
        (rule.args ?? []).every((one) => (args[one.index]! & BigInt(one.value)) === BigInt(one.valueTwo)),
      );
      assert.ok(matching.length <= 1, `${name} ${args}`);
      const [rule] = matching;
      const given = rule === undefined ? ENOSYS : rule.action === 'SCMP_ACT_ALLOW' ? 0 : rule.errnoRet;
      assert.equal(given, verdict(RULES.get(name), args.map(low)), `${name} ${args}`);
    };
    for (const name of numbers.keys()) check(name, Array<bigint>(6).fill(0n));
    fc.assert(
      fc.property(fc.constantFrom(...conditional.map(([name]) => name)), argumentsOfCall, (name, args) => {
        check(name, args);
      }),
      { numRuns: 20_000 },
    );
  });
}

test('every rule is of a call that exists, and has one form', () => {
  for (const [name, rule] of RULES) {
    assert.ok(
      ARCHITECTURES.some((one) => SYSCALLS[one].numbers.has(name)),
      name,
    );
    if (typeof rule === 'object')
      for (const { when } of (rule as Conditions).cases)
        assert.equal(new Set(when.map((one) => one.arg)).size, when.length, name);
  }
});

/** By number, from the kernel's table, so that it does not depend on ours. Arguments left out are zero. */
const X64: readonly (readonly [what: string, number: number, args: readonly bigint[], gives: Verdict])[] = [
  ['read', 0, [], 0],
  ['execve', 59, [], 0],
  ['fork', 57, [], 0],
  ['futex', 202, [], 0],
  ['ptrace', 101, [], 0],
  ['mbind', 237, [], 0],
  ['set_mempolicy', 238, [], 0],
  ['get_mempolicy', 239, [], 0],
  ['adjtimex', 159, [], 0],
  ['sync_file_range', 277, [], 0],
  ['io_submit', 209, [], 0],
  ['inotify_init1', 294, [], 0],
  ['memfd_create', 319, [], 0],
  ['membarrier', 324, [], 0],
  ['rseq', 334, [], 0],
  ['pidfd_open', 434, [], 0],
  ['landlock_create_ruleset', 444, [], 0],
  ['process_vm_readv', 310, [], 0],
  ['sched_setattr', 314, [], 0],
  ['chroot', 161, [], 0],
  ['mknod', 133, [], 0],
  ['fchmodat2', 452, [], 0],
  ['mount', 165, [], EPERM],
  ['umount2', 166, [], EPERM],
  ['pivot_root', 155, [], EPERM],
  ['open_tree', 428, [], EPERM],
  ['move_mount', 429, [], EPERM],
  ['fsopen', 430, [], EPERM],
  ['fsconfig', 431, [], EPERM],
  ['fsmount', 432, [], EPERM],
  ['fspick', 433, [], EPERM],
  ['mount_setattr', 442, [], EPERM],
  ['open_tree_attr', 467, [], EPERM],
  ['setns', 308, [], EPERM],
  ['bpf', 321, [], EPERM],
  ['perf_event_open', 298, [], EPERM],
  ['userfaultfd', 323, [], EPERM],
  ['add_key', 248, [], EPERM],
  ['request_key', 249, [], EPERM],
  ['keyctl', 250, [], EPERM],
  ['init_module', 175, [], EPERM],
  ['finit_module', 313, [], EPERM],
  ['delete_module', 176, [], EPERM],
  ['kexec_load', 246, [], EPERM],
  ['kexec_file_load', 320, [], EPERM],
  ['reboot', 169, [], EPERM],
  ['syslog', 103, [], EPERM],
  ['open_by_handle_at', 304, [], EPERM],
  ['settimeofday', 164, [], EPERM],
  ['clock_settime', 227, [], EPERM],
  ['iopl', 172, [], EPERM],
  ['swapon', 167, [], EPERM],
  ['io_uring_setup', 425, [], ENOSYS],
  ['io_uring_enter', 426, [], ENOSYS],
  ['memfd_secret', 447, [], ENOSYS],
  ['clone3', 435, [], ENOSYS],
  ['modify_ldt', 154, [], ENOSYS],
  ['the first that has no name', 470, [], ENOSYS],
  ['mount as x32', 0x40000000 + 165, [], ENOSYS],
  ['read as x32', 0x40000000, [], ENOSYS],
  ['clone as fork does', 56, [0x01200011n], 0],
  ['clone of a thread', 56, [0x003d0f00n], 0],
  ['clone of a user namespace', 56, [0x10000011n], EPERM],
  ['clone of a mount namespace', 56, [0x00020011n], EPERM],
  ['clone of a cgroup namespace', 56, [0x02000011n], EPERM],
  ['clone of a network namespace, with high bits', 56, [0xffffffff40000011n], EPERM],
  ['unshare of files', 272, [0x400n], 0],
  ['unshare of a user namespace', 272, [0x10000000n], EPERM],
  ['unshare of a time namespace', 272, [0x80n], EPERM],
  ['unshare of a user namespace among others', 272, [0x10000400n], EPERM],
  ['ioctl TCGETS', 16, [0n, 0x5401n], 0],
  ['ioctl TIOCSTI', 16, [0n, 0x5412n], EPERM],
  ['ioctl TIOCSTI with high bits', 16, [0n, 0xffffffff00005412n], EPERM],
  ['ioctl TIOCLINUX', 16, [0n, 0x541cn], EPERM],
  ['ioctl TIOCSETD', 16, [0n, 0x5423n], EPERM],
  ['personality, asked', 135, [0xffffffffn], 0],
  ['personality ADDR_NO_RANDOMIZE', 135, [0x40000n], 0],
  ['personality READ_IMPLIES_EXEC', 135, [0x400000n], EPERM],
  ['socket unix', 41, [1n, 0x80001n, 0n], 0],
  ['socket TCP', 41, [2n, 0x80801n, 6n], 0],
  ['socket UDP', 41, [10n, 2n, 17n], 0],
  ['socket ping', 41, [2n, 2n, 1n], 0],
  ['socket raw ICMP', 41, [2n, 3n, 1n], 0],
  ['socket netlink route', 41, [16n, 0x80003n, 0n], 0],
  ['socket netlink audit', 41, [16n, 3n, 9n], 93],
  ['socket netlink netfilter', 41, [16n, 3n, 12n], 93],
  ['socket netlink xfrm', 41, [16n, 3n, 6n], 93],
  ['socket SCTP', 41, [2n, 1n, 132n], 93],
  ['socket DCCP', 41, [2n, 6n, 0n], 93],
  ['socket UDP-Lite', 41, [2n, 2n, 136n], 93],
  ['socket packet', 41, [17n, 3n, 0x300n], 97],
  ['socket packet by its old type', 41, [2n, 10n, 0x300n], 93],
  ['socket vsock', 41, [40n, 1n, 0n], 97],
  ['socket vsock with high bits', 41, [0x100000028n, 1n, 0n], 97],
  ['socket alg', 41, [38n, 5n, 0n], 97],
  ['socket key', 41, [15n, 3n, 2n], 97],
  ['socket XDP', 41, [44n, 3n, 0n], 97],
  ['socket TIPC', 41, [30n, 5n, 0n], 97],
  ['socket CAN', 41, [29n, 3n, 1n], 97],
  ['socketpair unix', 53, [1n, 1n, 0n], 0],
  ['socketpair TIPC', 53, [30n, 1n, 0n], 95],
];

test('x64: calls that must pass pass, and calls that must not do not', () => {
  const program = seccompProgram('x64');
  for (const [what, number, args, gives] of X64)
    assert.equal(
      run(program, { audit: AUDIT.x64, number, args: Array.from({ length: 6 }, (_, index) => args[index] ?? 0n) })
        .gives,
      gives,
      what,
    );
});

test('arm64: a few by number', () => {
  const program = seccompProgram('arm64');
  const gives = (number: number, ...args: bigint[]): number =>
    run(program, { audit: AUDIT.arm64, number, args: Array.from({ length: 6 }, (_, index) => args[index] ?? 0n) })
      .gives;
  assert.deepEqual(
    [63, 64, 221, 98, 235, 293, 283, 84, 33].map((one) => gives(one)),
    Array(9).fill(0),
  );
  assert.deepEqual(
    [40, 39, 41, 268, 280, 241, 217, 219, 142, 105, 273].map((one) => gives(one)),
    Array(11).fill(EPERM),
  );
  assert.deepEqual(
    [425, 435, 447, 244, 300, 470].map((one) => gives(one)),
    Array(6).fill(ENOSYS),
  );
  assert.deepEqual([gives(220, 0x11n), gives(220, 0x10000011n)], [0, EPERM]);
  assert.deepEqual([gives(97, 0x400n), gives(97, 0x10000000n)], [0, EPERM]);
  assert.deepEqual([gives(29, 0n, 0x5401n), gives(29, 0n, 0x5412n)], [0, EPERM]);
  assert.deepEqual([gives(198, 2n, 1n, 0n), gives(198, 40n, 1n, 0n), gives(199, 30n)], [0, 97, 95]);
});
