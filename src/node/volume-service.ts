/**
 * Volumes of machines that mount them by network: from a server of this node's, at their gateway. Which machine may have which
 * is read from its row, by the address that the fabric vouches for, at each connection: nothing is kept of it here.
 */
import { AgentError } from '../channel/agent.ts';
import { CoppiceError } from '../contract/errors.ts';
import type { Isolation } from '../isolation/backend.ts';
import type { Backends } from '../isolation/backends.ts';
import { type NetworkFabric, SERVICE_PORT } from '../network/fabric.ts';
import type { Log } from '../telemetry/log.ts';
import type { createNfsProcess, HeldVolumes, NfsProcess } from '../volumes/nfs/process.ts';
import type { Member } from './member.ts';
import type { Rows } from './rows.ts';
import type { Mounted, Volumes } from './volumes.ts';

export interface VolumeServiceOptions {
  readonly backends: Backends;
  readonly fabric: NetworkFabric;
  readonly rows: Rows;
  readonly volumes: Volumes;
  readonly serve: typeof createNfsProcess;
  readonly log: Log;
}

/** Under emulation, the first time that a guest does it. */
const MOUNT_DEADLINE_MS = 30_000;

export class VolumeService {
  readonly #options: VolumeServiceOptions;
  readonly #server: NfsProcess;

  constructor(options: VolumeServiceOptions) {
    this.#options = options;
    const { serve, log } = options;
    this.#server = serve({ port: SERVICE_PORT, exportsOf: (address) => this.#exportsOf(address), log });
  }

  /** Whether machines of this kind have their volumes from here. */
  serves(isolation: Isolation): boolean {
    return this.#options.backends.of(isolation).capabilities.volumes === 'network';
  }

  /** `unsupported_policy`: machines of this kind have none on this host. */
  demandAble(isolation: Isolation): void {
    if (this.serves(isolation) && !this.#options.fabric.enforcing)
      throw new CoppiceError(
        'unsupported_policy',
        `volumeMounts: a ${isolation} mounts volumes by network, and guests have no network on this host`,
      );
  }

  /** Its machine reaches what it has mounted, or will. */
  async open({ id, attachment }: Pick<Member, 'id' | 'attachment'>): Promise<void> {
    if (!attachment) throw new CoppiceError('unsupported_policy', `volumeMounts: sandbox ${id} has no network`);
    await Promise.all([this.#server.start(attachment.service), this.#options.fabric.openService(id)]);
  }

  /** What its row says is mounted, instead of what was. `bad_request`: something is in the way. */
  async mount(member: Member, mounted: readonly Mounted[], signal?: AbortSignal): Promise<void> {
    await this.open(member);
    const agent = await member.agent();
    const mounts = mounted.map(({ volumeID, path }) => ({ volumeID, path }));
    const deadline = AbortSignal.timeout(MOUNT_DEADLINE_MS);
    await agent
      .mountVolumes(
        { server: member.attachment!.gateway, port: SERVICE_PORT, mounts },
        signal ? AbortSignal.any([signal, deadline]) : deadline,
      )
      .catch((error: unknown) => {
        if (!(error instanceof AgentError) || error.code !== 'invalid_argument') throw error;
        throw new CoppiceError('bad_request', `volumeMounts: ${error.message}`, { cause: error });
      });
  }

  /** Machines of an earlier process wait for what they have mounted. One that cannot be served holds up no other. */
  async atStart(): Promise<void> {
    const { rows, fabric, log } = this.#options;
    const [one] = (await fabric.attached()).filter(({ id, kind }) => {
      return kind === 'tap' && (rows.get(id)?.owner?.volumes ?? []).length > 0;
    });
    if (!one) return;
    await this.#server
      .start(one.service)
      .catch((error: unknown) => log.error({ error }, 'volumes of microVMs are not served'));
  }

  async stop(): Promise<void> {
    await this.#server.stop();
  }

  async #exportsOf(address: string): Promise<HeldVolumes | undefined> {
    const { fabric, rows, volumes } = this.#options;
    const lease = (await fabric.leased()).find((one) => one.address === address);
    if (!lease) return undefined;
    const held: { readonly volumeID: string; readonly fd: number; readonly release: () => void }[] = [];
    const release = (): void => {
      for (const one of held) one.release();
    };
    try {
      // One may be mounted at several places.
      for (const volumeID of new Set(rows.get(lease.id)?.owner?.volumes.map((one) => one.volumeID))) {
        const { root, release } = await volumes.use(volumeID);
        held.push({ volumeID, fd: root, release });
      }
    } catch (error) {
      release();
      throw error;
    }
    return { exports: held.map(({ volumeID, fd }) => ({ volumeID, fd })), release };
  }
}
