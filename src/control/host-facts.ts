/** The machine that control runs on, and with it the node: a unix socket is all that lies between them. */
import { readFile, statfs } from 'node:fs/promises';
import { cpus, freemem, machine, totalmem } from 'node:os';

export interface HostFacts {
  readonly cpuCount: number;
  /** Of the whole machine, since it was last asked; at first since the machine's start. */
  readonly cpuPercent: number;
  readonly memoryTotalBytes: number;
  readonly memoryUsedBytes: number;
  readonly disk: {
    readonly mountPoint: string;
    readonly device: string;
    readonly filesystemType: string;
    readonly usedBytes: number;
    readonly totalBytes: number;
  };
  readonly cpu: {
    readonly family: string;
    readonly model: string;
    readonly modelName: string;
    readonly architecture: string;
  };
}

/** @param folder on the disk that counts */
export function createHostFacts(folder: string): () => Promise<HostFacts> {
  let before = { busy: 0, all: 0 };
  const cpuPercent = (): number => {
    const now = { busy: 0, all: 0 };
    for (const { times } of cpus()) {
      const all = times.user + times.nice + times.sys + times.idle + times.irq;
      now.all += all;
      now.busy += all - times.idle;
    }
    const share = now.all > before.all ? (now.busy - before.busy) / (now.all - before.all) : 0;
    before = now;
    return Math.max(0, Math.min(100, Math.round(share * 100)));
  };
  return async () => ({
    cpuCount: cpus().length,
    cpuPercent: cpuPercent(),
    memoryTotalBytes: totalmem(),
    memoryUsedBytes: totalmem() - freemem(),
    disk: await diskOf(folder),
    cpu: await cpuOf(),
  });
}

async function diskOf(folder: string): Promise<HostFacts['disk']> {
  const { bsize, blocks, bfree } = await statfs(folder);
  const mounts = (await readFile('/proc/self/mounts', 'utf8').catch(() => ''))
    .split('\n')
    .map((line) => line.split(' '));
  const above = mounts.filter(([, point]) => point === '/' || point === folder || folder.startsWith(`${point}/`));
  // Of mounts on one point the last is on top.
  const [device = '', mountPoint = '/', filesystemType = ''] = above.reduce<string[]>(
    (best, one) => ((one[1]?.length ?? 0) >= (best[1]?.length ?? 0) ? one : best),
    [],
  );
  return { mountPoint, device, filesystemType, usedBytes: (blocks - bfree) * bsize, totalBytes: blocks * bsize };
}

async function cpuOf(): Promise<HostFacts['cpu']> {
  const text = await readFile('/proc/cpuinfo', 'utf8').catch(() => '');
  const value = (name: string): string => new RegExp(`^${name}\\s*:\\s*(.*)$`, 'm').exec(text)?.[1]?.trim() ?? '';
  return {
    family: value('cpu family'),
    model: value('model'),
    modelName: value('model name') || (cpus()[0]?.model ?? ''),
    architecture: machine(),
  };
}
