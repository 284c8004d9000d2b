/** SIGKILL for parts of a service that runs, and the wait until all of it serves again. */
import { setTimeout as sleep } from 'node:timers/promises';
import { machineOf } from '../../../src/isolation/microvm/qemu/census.ts';
import { commandLine, listPids } from '../../../src/isolation/process-table.ts';
import { processesOf } from '../../behaviours/support/processes.ts';
import type { Random } from '../../helpers/random.ts';
import type { TestService } from '../../helpers/service.ts';
import { until } from '../../helpers/until.ts';

/** `again`: the node, and the one that comes after it while that begins. */
export type Victim = 'node' | 'again' | 'control' | 'vmm' | 'any vmm';

const BACK_MS = 60_000;
/** A node begins in about that time. */
const BEGINS_MS = 1_500;

export class Strikes {
  readonly #service: TestService;
  readonly #random: Random;

  constructor(service: TestService, random: Random) {
    this.#service = service;
    this.#random = random;
  }

  /** The id of the sandbox whose VMM it was, if it was one. */
  async strike(victim: Victim, target: string | undefined): Promise<string | undefined> {
    if (victim === 'vmm') return this.#killVmm(target === undefined ? undefined : processesOf(target)[0]);
    if (victim === 'any vmm') {
      const vmms = listPids().filter((pid) => this.#machineOf(pid) !== undefined);
      return this.#killVmm(vmms.length > 0 ? this.#random.pick(vmms) : undefined);
    }
    if (victim === 'control') {
      const before = this.#controlPid();
      if (before !== undefined) kill(before);
      await until('another control', () => ![before, undefined].includes(this.#controlPid()), BACK_MS);
    } else {
      await this.#killNode();
      if (victim === 'again') {
        await sleep(this.#random.below(BEGINS_MS));
        await this.#killNode();
      }
    }
    return undefined;
  }

  /** Resolves when every part of the service serves. */
  async serving(): Promise<void> {
    const { node, url } = this.#service;
    const ready = async (): Promise<boolean> => {
      const [status, health] = await Promise.all([
        node.status().catch(() => undefined),
        fetch(`${url}/health`).catch(() => undefined),
      ]);
      await health?.arrayBuffer();
      return status?.ready === true && health?.status === 200;
    };
    await until('the service is back', ready, BACK_MS);
  }

  async #killNode(): Promise<void> {
    const before = this.#service.nodePid();
    if (before !== 0) kill(before);
    await until('another node', () => ![0, before].includes(this.#service.nodePid()), BACK_MS);
  }

  #killVmm(pid: number | undefined): string | undefined {
    const id = pid === undefined ? undefined : this.#machineOf(pid);
    if (pid !== undefined && id !== undefined) kill(pid);
    return id;
  }

  /** The machine of this service whose VMM that is. */
  #machineOf(pid: number): string | undefined {
    return machineOf(commandLine(pid), this.#service.home.machines);
  }

  #controlPid(): number | undefined {
    const { folder } = this.#service.home;
    return listPids().find((pid) => {
      const args = commandLine(pid);
      return args.includes('run-control') && args.includes(folder);
    });
  }
}

function kill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch (error) {
    // It came to its end by itself.
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}
