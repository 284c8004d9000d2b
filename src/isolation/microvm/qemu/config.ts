/**
 * The command line of a machine. Golden boot, clone and start have the same machine, CPU and devices in the same order on
 * the same buses: a device state restores into nothing else. What differs: the memory mapping (shared, private), the kernel
 * (a clone loads none), the layer (raw image, overlay over it) and what the console and the network card are connected to.
 */
import type { MachineNetwork, MachineShape } from '../../backend.ts';

export type Accelerator = 'kvm' | 'tcg';

/** Name of the guest's port, in /sys/class/virtio-ports/<port>/name. */
const CHANNEL_PORT = 'coppice.channel';
export const QMP_SOCKET = 'qmp.sock';
export const CHANNEL_SOCKET = 'channel.sock';
/** Locally administered and the same in every clone: each machine is alone on its link. */
const MAC = '02:c0:99:1c:e0:01';
/**
 * No PCI, no USB, no option ROMs, no PIT and PIC: an ACPI microvm boots from the local APIC and the TSC alone. The
 * description of the device state is left out, since nothing reads it.
 */
const MACHINE =
  'microvm,acpi=on,rtc=on,pit=off,pic=off,x-option-roms=off,isa-serial=on,usb=off,suppress-vmdesc=on,dump-guest-core=off,mem-merge=off';
/** MiB of translated code a machine may hold under TCG; untouched parts cost nothing. */
export const TRANSLATION_MB = 128;

/** What a checkpoint depends on besides the VMM's version. */
export interface VmmHost {
  readonly accelerator: Accelerator;
  /** kHz of the time stamp counter; a guest of TCG sees it as it is. */
  readonly tscKHz: number;
  /** Model name of the host's CPU: what `-cpu host` stands for. */
  readonly cpuModel: string;
}

export type MachineRole =
  | {
      readonly kind: 'boot';
      readonly kernel: string;
      readonly initrd: string;
      /** Raw image, written by the guest. */
      readonly layer: string;
    }
  | {
      readonly kind: 'clone';
      readonly layer: string;
      readonly overlay: string;
    }
  | {
      /** Boots what a clone would restore: on the same memory file, so that it owns what it writes as a clone does. */
      readonly kind: 'start';
      readonly kernel: string;
      readonly initrd: string;
      readonly layer: string;
      readonly overlay: string;
    };

export interface MachineConfig {
  readonly emulator: string;
  readonly host: VmmHost;
  readonly id: string;
  readonly folder: string;
  readonly shape: MachineShape;
  readonly role: MachineRole;
  readonly memory: string;
  readonly rootfs: string;
  readonly agentDrive: string;
  readonly network?: MachineNetwork | undefined;
  /** Uid and gid that the VMM changes to once everything is open. */
  readonly uid?: number | undefined;
  /** Inherited: a stream socket for the first monitor. */
  readonly monitor: number;
}

/** Name of the machine type with its options, as a golden checkpoint's manifest records it. */
export const machineName = MACHINE;

/** CPU model as a golden checkpoint's manifest records it. */
export function cpuName(host: VmmHost): string {
  return host.accelerator === 'kvm' ? `host:${host.cpuModel}` : `max:tsc=${host.tscKHz}`;
}

/** Whether a checkpoint made on `made` runs on `here`: time must not run at another speed (one part in a thousand). */
export function sameCpu(made: string, here: string): boolean {
  if (made === here) return true;
  const [a, b] = [made, here].map((name) => Number(/^max:tsc=(\d+)$/.exec(name)?.[1] ?? Number.NaN));
  return Math.abs(a! - b!) <= b! / 1000;
}

/** Arguments of QEMU itself, without the program's name. */
export function qemuArguments(config: MachineConfig): string[] {
  const { host, shape, role, folder } = config;
  const boot = role.kind === 'boot';
  return [
    ['-name', `coppice-${config.id}`],
    ['-nodefaults', '-no-user-config', '-no-reboot'],
    ['-display', 'none'],
    ...privilegeArguments(config.uid),
    ['-M', `${MACHINE},memory-backend=ram`],
    ...acceleratorArguments(host),
    ['-smp', String(shape.cpuCount)],
    ['-m', `${shape.memoryMB}M`],
    [
      '-object',
      JSON.stringify({
        'qom-type': 'memory-backend-file',
        id: 'ram',
        size: shape.memoryMB * 2 ** 20,
        'mem-path': config.memory,
        share: boot,
        merge: false,
        dump: false,
      }),
    ],
    ['-chardev', `socket,id=monitor-fd,fd=${config.monitor}`, '-mon', 'chardev=monitor-fd,mode=control'],
    ['-chardev', `socket,id=monitor,path=${optionValue(`${folder}/${QMP_SOCKET}`)},server=on,wait=off`],
    ['-mon', 'chardev=monitor,mode=control'],
    boot ? ['-chardev', 'stdio,id=console,signal=off'] : ['-chardev', 'null,id=console'],
    ['-serial', 'chardev:console'],
    ['-global', 'migration.send-configuration=off', '-global', 'migration.x-events=on'],
    ['-global', 'virtio-mmio.force-legacy=false'],
    ...drive(7, 'coppice-root', readOnly('root', config.rootfs)),
    ...drive(6, 'coppice-agent', readOnly('agent', config.agentDrive)),
    ...drive(5, 'coppice-layer', layerNodes(role)),
    ['-device', 'virtio-serial-device,bus=virtio-mmio-bus.4,max_ports=2'],
    ['-chardev', `socket,id=channel,path=${optionValue(`${folder}/${CHANNEL_SOCKET}`)},server=on,wait=off`],
    ['-device', `virtserialport,nr=1,chardev=channel,name=${CHANNEL_PORT}`],
    ['-netdev', networkBackend(config.network)],
    ['-device', `virtio-net-device,bus=virtio-mmio-bus.3,netdev=net,mac=${MAC},guest_announce=off`],
    ['-object', 'rng-builtin,id=rng', '-device', 'virtio-rng-device,bus=virtio-mmio-bus.2,rng=rng'],
    role.kind === 'clone'
      ? ['-incoming', 'defer']
      : ['-kernel', role.kernel, '-initrd', role.initrd, '-append', kernelCommandLine(host)],
    boot ? [] : ['-S'],
  ].flat();
}

/**
 * The system call filter. It would also keep QEMU from changing its own uid, so that part is left to the change itself:
 * afterwards there is no capability, no_new_privs is set (by libseccomp), and nothing can be executed.
 */
function privilegeArguments(uid: number | undefined): string[][] {
  const filter = 'on,obsolete=deny,spawn=deny,resourcecontrol=deny';
  return uid === undefined
    ? [['-sandbox', `${filter},elevateprivileges=deny`]]
    : [
        ['-sandbox', filter],
        ['-runas', `${uid}:${uid}`],
      ];
}

export function acceleratorArguments(host: VmmHost): string[][] {
  return host.accelerator === 'kvm'
    ? [
        ['-accel', 'kvm'],
        ['-cpu', 'host'],
      ]
    : [
        ['-accel', `tcg,thread=multi,tb-size=${TRANSLATION_MB}`],
        ['-cpu', 'max'],
      ];
}

/**
 * Under TCG the guest is told the counter's speed: it has no other clock to measure it against. Watchdogs are off, since a
 * parked machine's clock runs on and would set them off when it wakes; huge pages are off, since a clone owns what it
 * touches; pressure (`psi`) is not accounted for at each switch of tasks; a reboot, which ends the VMM, is a triple fault,
 * since the other ways wait for devices that are not there. Speculation guards are off under TCG only, which has no
 * speculation of the guest's own.
 */
export function kernelCommandLine(host: VmmHost): string {
  const clock = `tsc_early_khz=${host.tscKHz} tsc=reliable lpj=${host.tscKHz * 4} no_timer_check mitigations=off`;
  return [
    'console=ttyS0 loglevel=5 panic=-1 reboot=t net.ifnames=0 8250.nr_uarts=1 random.trust_cpu=on',
    'nowatchdog rcupdate.rcu_cpu_stall_suppress=1 sysctl.kernel.hung_task_timeout_secs=0',
    'transparent_hugepage=never audit=0 psi=0',
    host.accelerator === 'tcg' ? clock : '',
  ]
    .join(' ')
    .trim();
}

/** Separates the program from what must be set before it starts: its namespace and limits. `exec`s: the pid stays. */
export function wrappedCommand(
  config: MachineConfig,
  limits: { readonly fileBytes: number },
): { readonly file: string; readonly args: string[] } {
  const chain = [
    ...['prlimit', '--core=0', `--fsize=${limits.fileBytes}`, '--'],
    ...(config.network ? ['nsenter', `--net=${config.network.namespace}`, '--'] : []),
    config.emulator,
    ...qemuArguments(config),
  ];
  return { file: chain[0]!, args: chain.slice(1) };
}

interface Node {
  readonly 'node-name': string;
  readonly [option: string]: unknown;
}

/** Flushes are not passed on: what a machine writes lives no longer than it, and a checkpoint syncs its own files. */
const CACHE = { cache: { direct: false, 'no-flush': true } };

function readOnly(name: string, filename: string): readonly Node[] {
  return [
    {
      'node-name': name,
      driver: 'file',
      filename,
      'read-only': true,
      'auto-read-only': false,
      locking: 'off',
      ...CACHE,
    },
  ];
}

function layerNodes(role: MachineRole): readonly Node[] {
  const writable = { driver: 'file', 'read-only': false, 'auto-read-only': false, discard: 'unmap', ...CACHE };
  if (role.kind === 'boot') return [{ 'node-name': 'layer', filename: role.layer, ...writable }];
  return [
    ...readOnly('layer-base', role.layer),
    { 'node-name': 'layer-file', filename: role.overlay, ...writable },
    {
      'node-name': 'layer',
      driver: 'qcow2',
      file: 'layer-file',
      backing: 'layer-base',
      'read-only': false,
      discard: 'unmap',
      'l2-cache-size': 1_048_576,
      'l2-cache-entry-size': 4096,
      'refcount-cache-size': 65_536,
      ...CACHE,
    },
  ];
}

/**
 * The last node is the drive. Buses are taken from the top, as QEMU itself does: a drive on bus 0 hangs at its first read.
 * Errors of the host's disk are the guest's to see: the default would stop the machine.
 */
function drive(bus: number, serial: string, nodes: readonly Node[]): string[][] {
  const name = nodes.at(-1)!['node-name'];
  return [
    ...nodes.map((node) => ['-blockdev', JSON.stringify(node)]),
    [
      '-device',
      `virtio-blk-device,bus=virtio-mmio-bus.${bus},drive=${name},serial=${serial},num-queues=1,werror=report,rerror=report`,
    ],
  ];
}

/** A tap without offload headers, so that it is the same card that the golden boot had, whose hub leads nowhere. */
function networkBackend(network: MachineNetwork | undefined): string {
  return network
    ? `tap,id=net,ifname=${optionValue(network.port)},script=no,downscript=no,vhost=off,vnet_hdr=off`
    : 'hubport,id=net,hubid=0';
}

/** In QEMU's option syntax a comma within a value is doubled. */
function optionValue(value: string): string {
  return value.replaceAll(',', ',,');
}
