/** The keeper's jobs that copy layers. They wait for disks on other threads, and jails are made meanwhile. */
import type { DiskCalls } from './disk-calls.ts';
import type { Jobs } from './keeper-jobs.ts';
import { type LayerCopy, openLayerCopy } from './layer-copy.ts';
import { copyFileSparse } from './sparse-copy.ts';

type Work<Name extends keyof Jobs> = (ask: Jobs[Name]['ask']) => Promise<Jobs[Name]['answer']>;

export function createCopies(calls: DiskCalls): {
  readonly [Name in 'fill' | 'copy' | 'settle' | 'close']: Work<Name>;
} {
  /** By the path of the target. */
  const open = new Map<string, LayerCopy>();
  const close = async ({ to }: { readonly to: string }): Promise<null> => {
    const copy = open.get(to);
    open.delete(to);
    await copy?.close();
    return null;
  };
  return {
    async fill({ from, to, size, stop }) {
      await copyFileSparse(calls, from, to, size, stop);
      return null;
    },
    async copy({ layer, to, stop }) {
      const copy = await openLayerCopy(calls, layer, to);
      open.set(to, copy);
      await copy.approach(stop);
      return null;
    },
    async settle({ to, stop }) {
      const copy = open.get(to);
      if (!copy) throw new Error('the thread that copied the layer ended meanwhile');
      return copy.settle(stop);
    },
    close,
  };
}
