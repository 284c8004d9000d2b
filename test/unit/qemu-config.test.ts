import assert from 'node:assert/strict';
import test from 'node:test';
import { machineOf } from '../../src/isolation/microvm/qemu/census.ts';
import {
  cpuName,
  kernelCommandLine,
  type MachineConfig,
  qemuArguments,
  sameCpu,
  wrappedCommand,
} from '../../src/isolation/microvm/qemu/config.ts';
import { parseCpuInfo } from '../../src/isolation/microvm/qemu/host.ts';
import { checkFolder } from '../../src/isolation/microvm/qemu/launch.ts';

const host = { accelerator: 'tcg', tscKHz: 2_600_000, cpuModel: 'Some CPU' } as const;
const common = {
  emulator: 'qemu',
  host,
  id: 'abc',
  folder: '/m/abc',
  shape: { cpuCount: 2, memoryMB: 512, diskSizeMB: 1024 },
  memory: '/g/memory',
  rootfs: '/i/root',
  agentDrive: '/i/agent',
  uid: 70_000,
  monitor: 3,
} satisfies Partial<MachineConfig>;
const boot: MachineConfig = { ...common, role: { kind: 'boot', kernel: '/i/k', initrd: '/i/r', layer: '/g/layer' } };
const clone: MachineConfig = { ...common, role: { kind: 'clone', layer: '/g/layer', overlay: '/m/abc/o' } };
const start: MachineConfig = {
  ...common,
  role: { kind: 'start', kernel: '/i/k', initrd: '/i/r', layer: '/g/layer', overlay: '/m/abc/o' },
};
const after = (args: readonly string[], name: string) =>
  args.flatMap((arg, at) => (arg === name ? [args[at + 1]!] : []));

test('a clone has the machine, CPU and devices of its boot, in the same order', () => {
  for (const name of ['-M', '-cpu', '-accel', '-smp', '-m', '-device', '-serial', '-global'])
    assert.deepEqual(after(qemuArguments(clone), name), after(qemuArguments(boot), name), name);
  assert.equal(after(qemuArguments(boot), '-device').length, 7);
});

test('the memory file is shared by the boot and private to a clone', () => {
  const memory = (config: MachineConfig) => JSON.parse(after(qemuArguments(config), '-object')[0]!);
  assert.equal(memory(boot).share, true);
  assert.equal(memory(clone).share, false);
  assert.equal(memory(clone)['mem-path'], '/g/memory');
  assert.equal(memory(clone).size, 512 * 2 ** 20);
});

test('only a boot loads a kernel; a clone waits for its state', () => {
  const args = qemuArguments(clone);
  for (const name of ['-kernel', '-initrd', '-append']) assert.equal(args.includes(name), false, name);
  assert.deepEqual(after(args, '-incoming'), ['defer']);
});

test('a start is a clone that boots', () => {
  const args = (config: MachineConfig) => qemuArguments(config);
  const kernel = args(boot).slice(args(boot).indexOf('-kernel'));
  assert.deepEqual(args(start), [
    ...args(clone).filter((arg) => !['-incoming', 'defer', '-S'].includes(arg)),
    ...kernel,
    '-S',
  ]);
});

test('a clone can write to its own overlay only, and names the backing of it', () => {
  const nodes = after(qemuArguments(clone), '-blockdev').map((text) => JSON.parse(text));
  const writable = nodes.filter((node) => node['read-only'] === false);
  assert.deepEqual(
    writable.map((node) => node['node-name']),
    ['layer-file', 'layer'],
  );
  assert.equal(writable[0].filename, '/m/abc/o');
  assert.equal(writable[1].backing, 'layer-base');
});

test('a guest cannot fill the disk of the host by its console', () => {
  assert.ok(qemuArguments(clone).includes('null,id=console'));
  assert.ok(wrappedCommand(clone, { fileBytes: 5 }).args.includes('--fsize=5'));
});

test('the VMM drops its uid and its system calls', () => {
  assert.deepEqual(after(qemuArguments(clone), '-runas'), ['70000:70000']);
  assert.match(after(qemuArguments(clone), '-sandbox')[0]!, /^on,.*spawn=deny/);
  const rootless = qemuArguments({ ...clone, uid: undefined });
  assert.deepEqual(after(rootless, '-runas'), []);
  assert.match(after(rootless, '-sandbox')[0]!, /elevateprivileges=deny/);
});

test('without a network the card leads nowhere, and never out by the VMM', () => {
  assert.deepEqual(after(qemuArguments(clone), '-netdev'), ['hubport,id=net,hubid=0']);
  const attached = { ...clone, network: { kind: 'tap', port: 'cp,1', namespace: '/run/netns/x' } as const };
  assert.match(after(qemuArguments(attached), '-netdev')[0]!, /^tap,id=net,ifname=cp,,1,script=no,downscript=no/);
  assert.deepEqual(wrappedCommand(attached, { fileBytes: 1 }).args.slice(3, 7), [
    'nsenter',
    '--net=/run/netns/x',
    '--',
    'qemu',
  ]);
});

test('the guest is told the speed of the counter under TCG only', () => {
  assert.match(kernelCommandLine(host), /tsc_early_khz=2600000 tsc=reliable lpj=10400000/);
  assert.doesNotMatch(kernelCommandLine({ ...host, accelerator: 'kvm' }), /tsc|mitigations/);
});

test('a checkpoint fits a counter of the same speed, give or take a thousandth', () => {
  const at = (tscKHz: number) => cpuName({ ...host, tscKHz });
  assert.equal(sameCpu(at(2_600_000), at(2_600_900)), true);
  assert.equal(sameCpu(at(2_600_000), at(2_700_000)), false);
  assert.equal(sameCpu('host:A', 'host:A'), true);
  assert.equal(sameCpu('host:A', 'host:B'), false);
  assert.equal(sameCpu('host:A', at(2_600_000)), false);
});

test('a machine is known by its command line, and another home keeps its own', () => {
  const args = ['qemu', ...qemuArguments(clone)];
  assert.equal(machineOf(args, '/m'), 'abc');
  assert.equal(machineOf(args, '/other'), undefined);
  assert.equal(machineOf(['vim', '/m/abc/o'], '/m'), undefined);
  assert.equal(machineOf(['coppice-abc', '/m/abc/o'], '/m'), undefined);
});

test('a folder too long for a socket is refused by name', () => {
  checkFolder(`/${'x'.repeat(80)}`);
  assert.throws(() => checkFolder(`/${'x'.repeat(100)}`), { code: 'host_unfit', message: /107/ });
});

test('the speed of the counter is read from where it is told', () => {
  const info = (model: string, mhz: string, flags: string) =>
    `model name\t: ${model}\ncpu MHz\t\t: ${mhz}\nflags\t\t: ${flags}\n`;
  assert.equal(parseCpuInfo(info('AMD EPYC', '2596.122', 'tsc hypervisor')).tscKHz, 2_596_122);
  assert.equal(parseCpuInfo(info('Xeon @ 2.10GHz', '3300.5', 'tsc aperfmperf')).tscKHz, 2_100_000);
  assert.equal(parseCpuInfo(info('AMD Ryzen', '4100.0', 'tsc aperfmperf')).tscKHz, 4_100_000);
  assert.equal(parseCpuInfo('').tscKHz, undefined);
});
