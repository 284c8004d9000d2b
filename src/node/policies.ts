/**
 * What the network lets a sandbox do: its owner's wish, which is in its row, and what the fabric does of it. A wish is durable
 * before it is done, and who finds the two apart makes them agree.
 */
import { CoppiceError } from '../contract/errors.ts';
import type { NetworkUpdate } from '../contract/node-api.ts';
import type { NetworkFabric } from '../network/fabric.ts';
import type { Fleet } from './fleet.ts';
import type { Member } from './member.ts';
import { notFound } from './ownership.ts';
import type { Owner, Rows } from './rows.ts';
import type { Turns } from './turns.ts';

export interface PoliciesOptions {
  readonly fabric: NetworkFabric;
  readonly rows: Rows;
  readonly fleet: Fleet;
  readonly turns: Turns;
}

export class Policies {
  readonly #options: PoliciesOptions;

  constructor(options: PoliciesOptions) {
    this.#options = options;
  }

  /** `unsupported_policy`: this host gives guests no network. */
  demandAble({ allowInternetAccess }: NetworkUpdate): void {
    if (allowInternetAccess === true && !this.#options.fabric.enforcing)
      throw new CoppiceError('unsupported_policy', 'allow_internet_access: guests have no network on this host');
  }

  /** One transaction when the policy differs from what stands; none on the usual claim. */
  async settle(member: Member, owner: Owner): Promise<void> {
    const internet = owner.allowInternet !== false;
    if (!member.attachment || member.internet === internet) return;
    await this.#options.fabric.setPolicy(member.id, { allowInternet: internet });
    member.internet = internet;
  }

  /** As NodeApi.updateNetwork, of a sandbox that is the caller's. */
  async update(id: string, network: NetworkUpdate): Promise<void> {
    const { rows, turns } = this.#options;
    this.demandAble(network);
    await turns.take(id, async () => {
      if (!rows.setInternet(id, network.allowInternetAccess)) throw notFound(id);
      await this.#agree(id);
    });
  }

  /** False: an update was not done to its end. */
  agrees(id: string): boolean {
    const { rows, fleet } = this.#options;
    const owner = rows.get(id)?.owner;
    const held = fleet.sandbox(id) ?? fleet.aside(id);
    return !owner || !held?.attachment || held.internet === (owner.allowInternet !== false);
  }

  /** What an update could not do is done. */
  async reconcile(id: string): Promise<void> {
    await this.#options.turns.take(id, () => this.#agree(id));
  }

  async #agree(id: string): Promise<void> {
    const { fabric, rows, fleet } = this.#options;
    const owner = rows.get(id)?.owner;
    if (!owner) return;
    const member = fleet.sandbox(id);
    if (member) return this.settle(member, owner);
    // A paused one whose machine holds it has its port still.
    const aside = fleet.aside(id);
    const internet = owner.allowInternet !== false;
    if (!aside?.attachment || aside.internet === internet) return;
    await fabric.setPolicy(id, { allowInternet: internet });
    fleet.adoptAside({ ...aside, internet });
  }
}
