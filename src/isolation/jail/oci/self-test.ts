/** One jail that does nothing, to see that all of the parts work on this host. */
import { randomBytes } from 'node:crypto';
import { chmodSync, closeSync, existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { COMMAND_DEADLINE_MS } from './command.ts';
import type { JailConfig } from './config.ts';
import type { DiskCalls } from './disk-calls.ts';
import type { Launcher } from './launcher.ts';
import { createLayer, onLoop, readBlank } from './layer.ts';
import { LAYER_FILE } from './names.ts';
import { mountOverlay } from './roots.ts';
import { MS, type Syscalls } from './syscalls.ts';

/** MiB; enough to see whether such a layer can be mounted. */
const LAYER_MB = 16;
const PREFIX = 'test-';
/** What /bin/true needs, of the host. Not every architecture has a lib64. */
const HOST_FOLDERS = ['usr', 'bin', 'lib', 'lib64'].filter((name) => existsSync(`/${name}`));

export interface SelfTest {
  /** That of all jails. */
  readonly folder: string;
  readonly syscalls: Syscalls;
  readonly calls: DiskCalls;
  readonly launcher: Launcher;
}

/** What processes that were killed in their self-test have left. */
export function sweepSelfTests(folder: string): void {
  for (const name of readdirSync(folder)) {
    const path = join(folder, name);
    const old = name.startsWith(PREFIX) && Date.now() - statSync(path).mtimeMs > COMMAND_DEADLINE_MS * 2;
    if (old) rmSync(path, { recursive: true, force: true });
  }
}

/** @param namespace open user namespace of the range of users at `uid`. @param userNamespace as the configuration has it. */
export async function runSelfTest(
  { folder: parent, syscalls, calls, launcher }: SelfTest,
  uid: number,
  namespace: number,
  userNamespace: JailConfig['userNamespace'],
): Promise<void> {
  const folder = mkdtempSync(join(parent, PREFIX));
  chmodSync(folder, 0o711);
  const mounted: string[] = [];
  try {
    const at = (name: string): string => {
      const path = join(folder, name);
      mkdirSync(path, { mode: 0o755 });
      return path;
    };
    const [layer, mapped, root] = [at('layer'), at('mapped'), at('root')];
    const image = createLayer(join(folder, LAYER_FILE), LAYER_MB, readBlank(parent, LAYER_MB, calls));
    try {
      onLoop(image, false, syscalls, (device) => syscalls.mount(device, layer, 'ext4', MS.NODEV, 'discard'));
    } finally {
      closeSync(image);
    }
    mounted.push(layer);
    for (const name of ['lower', 'upper', 'work']) mkdirSync(join(layer, name), { mode: 0o755 });
    for (const name of [...HOST_FOLDERS, 'proc', 'dev']) mkdirSync(join(layer, 'lower', name));
    syscalls.mountMapped(layer, mapped, namespace, { readOnly: false });
    mounted.push(mapped);
    const within = (name: string): string => join(mapped, name);
    mountOverlay(syscalls, { lower: within('lower'), upper: within('upper'), work: within('work') }, root, uid);
    mounted.push(root);
    const config = launcher.configure({
      hostname: 'test',
      root,
      drive: root,
      shape: { cpuCount: 1, memoryMB: 64, diskSizeMB: LAYER_MB },
      userNamespace,
      network: 'own',
    });
    const host = HOST_FOLDERS.map((name) => ({
      destination: `/${name}`,
      type: 'bind',
      source: `/${name}`,
      options: ['rbind', 'ro'],
    }));
    const id = `test${randomBytes(8).toString('hex')}`;
    await launcher.run(
      id,
      folder,
      {
        ...config,
        process: { ...(config.process as object), args: ['/bin/true'] },
        // /proc and /dev of its own.
        mounts: [...(config.mounts as readonly object[]).slice(0, 2), ...host],
      },
      { groups: [], detached: false },
    );
    launcher.forget(id);
  } finally {
    for (const target of mounted.toReversed()) syscalls.unmount(target);
    rmSync(folder, { recursive: true, force: true });
  }
}
