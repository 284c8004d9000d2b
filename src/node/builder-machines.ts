/** Machines that builds need for a while: counted like any other, made when there is room, undone whatever happens. */
import { setTimeout as sleep } from 'node:timers/promises';
import { CoppiceError, isCoppiceError } from '../contract/errors.ts';
import type { Isolation, MachineShape } from '../isolation/backend.ts';
import type { BuildLog } from './build-log.ts';
import type { Fleet } from './fleet.ts';
import type { HotTier } from './hot-tier.ts';
import type { Member } from './member.ts';
import type { LentPlace, ReadyTemplate } from './nursery.ts';

export interface BuilderMachinesOptions {
  readonly fleet: Fleet;
  readonly hot: HotTier;
}

/** For sandboxes to end, so that there is room. */
const ROOM_DEADLINE_MS = 600_000;
const ROOM_EVERY_MS = 2_000;

interface Asked {
  readonly isolation: Isolation;
  readonly shape: MachineShape;
}

export class BuilderMachines {
  readonly #options: BuilderMachinesOptions;

  constructor(options: BuilderMachinesOptions) {
    this.#options = options;
  }

  /** A machine of the template, with the network, that nobody else sees. */
  async grown<T>(
    template: ReadyTemplate,
    log: BuildLog,
    signal: AbortSignal,
    work: (member: Member) => Promise<T>,
  ): Promise<T> {
    const { fleet } = this.#options;
    const wish = { signal, allowInternet: true, env: () => ({ E2B_SANDBOX: 'true' }), forPool: false };
    const member = await this.#whenRoom(template, log, signal, () => fleet.grow(template, wish));
    try {
      return await work(member);
    } finally {
      await fleet.bury(member, 'its build needs it no more');
    }
  }

  /** A place to boot in. */
  async lent<T>(asked: Asked, log: BuildLog, signal: AbortSignal, work: (place: LentPlace) => Promise<T>): Promise<T> {
    return this.#whenRoom(asked, log, signal, () => this.#options.fleet.lend(asked, signal, work));
  }

  /** Idle machines of the hot tier give way. `capacity`: there was no room for too long. */
  async #whenRoom<T>(asked: Asked, log: BuildLog, signal: AbortSignal, act: () => Promise<T>): Promise<T> {
    const { fleet, hot } = this.#options;
    const deadline = Date.now() + ROOM_DEADLINE_MS;
    for (let waited = false; ; waited = true) {
      if (!fleet.fits(asked)) {
        if (await hot.shedOne(undefined)) continue;
      } else {
        try {
          return await act();
        } catch (error) {
          // Somebody else was faster.
          if (!isCoppiceError(error, 'capacity') || fleet.fits(asked)) throw error;
        }
      }
      if (Date.now() > deadline)
        throw new CoppiceError('capacity', `no room for a machine of ${asked.shape.memoryMB} MiB to build in`);
      if (!waited) log.say('info', 'Waiting for room on the host.');
      await sleep(ROOM_EVERY_MS, undefined, { signal });
    }
  }
}
