/** The backends of one host as one: by kind for a new machine, by name for a recorded one, all of them for a count. */
import { CoppiceError } from '../contract/errors.ts';
import type { Isolation, IsolationBackend, Machine, MachineRecord } from './backend.ts';

export class Backends {
  readonly all: readonly IsolationBackend[];

  /** At most one of each kind. */
  constructor(all: readonly IsolationBackend[]) {
    this.all = all;
  }

  has(kind: Isolation): boolean {
    return this.all.some((backend) => backend.kind === kind);
  }

  /** host_unfit when this host has none. */
  of(kind: Isolation): IsolationBackend {
    const found = this.all.find((backend) => backend.kind === kind);
    if (!found) throw new CoppiceError('host_unfit', `this host runs no ${kind}s`);
    return found;
  }

  /** undefined: the machine is gone, or its backend is. */
  async adopt(record: MachineRecord): Promise<Machine | undefined> {
    return this.all.find((backend) => backend.name === record.backend)?.adopt(record);
  }

  async census(machinesFolder: string): ReturnType<IsolationBackend['census']> {
    const items = (await Promise.all(this.all.map((backend) => backend.census(machinesFolder)))).flat();
    // A cgroup and a folder look the same whoever made them, so each backend names them.
    return [...new Map(items.map((item) => [`${item.kind} ${item.id} ${item.detail}`, item])).values()];
  }

  /** Whichever made it: a sweep needs no record. */
  async sweep(id: string, machinesFolder: string): Promise<void> {
    for (const backend of this.all) await backend.sweep(id, machinesFolder);
  }
}
