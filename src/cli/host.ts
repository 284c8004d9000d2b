/** The backends of this host, put together: which isolation, which network, which templates. */
import { CoppiceError } from '../contract/errors.ts';
import type { BackendStatus } from '../contract/node-api.ts';
import type { IsolationBackend } from '../isolation/backend.ts';
import { Backends } from '../isolation/backends.ts';
import { createOciBackend } from '../isolation/jail/oci/driver.ts';
import { createQemuBackend } from '../isolation/microvm/qemu/driver.ts';
import type { NetworkFabric } from '../network/fabric.ts';
import { createNftablesFabric } from '../network/nftables/driver.ts';
import { probeNftables } from '../network/nftables/probe.ts';
import { createNoNetwork } from '../network/none.ts';
import type { UidRanges } from '../node/nursery.ts';
import { inUse } from '../node/snapshot-template.ts';
import { TemplateBuilds } from '../node/template-builds.ts';
import type { Home } from '../store/home.ts';
import type { Log } from '../telemetry/log.ts';
import type { ResolvedTemplate } from '../templates/catalogue.ts';
import type { TemplateDefinition } from '../templates/definitions.ts';
import { guestKernel } from '../templates/image.ts';
import { accounts } from './accounts.ts';
import type { Progress } from './progress.ts';

/** What this host's backends turned out to be. */
export interface Measured {
  /** Those that work here. */
  readonly backends: Backends;
  readonly status: readonly BackendStatus[];
  readonly notices: readonly string[];
}

export interface Host {
  /** Every backend this platform knows, whether or not it works here: what another run left must be found. */
  readonly backends: Backends;
  readonly builds: TemplateBuilds;
  /** The uids that machines take; undefined without root. */
  readonly uids: UidRanges | undefined;
  /** Measured; nothing is made yet. */
  openFabric(): Promise<NetworkFabric>;
  /** host_unfit when no backend works. */
  measure(signal?: AbortSignal): Promise<Measured>;
  buildTemplate(
    definition: TemplateDefinition,
    options: { readonly progress: Progress; readonly signal: AbortSignal; readonly force: boolean },
  ): Promise<ResolvedTemplate>;
}

export function openHost(home: Home, log: Log): Host {
  const who = accounts();
  const qemu = createQemuBackend({
    log,
    home: { probeFile: home.probeFile },
    rootless: who === undefined,
    kernel: () => guestKernel(home.images),
  });
  const oci = createOciBackend({ log, folder: home.jails, uids: who?.machines.jail });
  // The jails' first: a sweep takes their mounts away before the folder they are in.
  const backends = new Backends([oci, qemu]);
  const builds = new TemplateBuilds({
    backends,
    imagesFolder: home.images,
    templatesFolder: home.templates,
    machinesFolder: home.machines,
    inUse: () => inUse(home.nodeDatabase, home.snapshots),
    uid: who?.builder,
    log,
  });
  return {
    backends,
    builds,
    uids: who?.machines,
    measure: async (signal) => {
      const usable: IsolationBackend[] = [];
      const status: BackendStatus[] = [];
      const notices: string[] = [];
      // The default's first.
      for (const backend of [qemu, oci]) {
        const probe = await backend.probe(signal);
        notices.push(...probe.notices);
        if (!probe.usable) continue;
        usable.push(backend);
        status.push({ isolation: backend.kind, backend: backend.name, accelerator: probe.accelerator });
      }
      if (usable.length === 0) throw new CoppiceError('host_unfit', `no isolation works here: ${notices.join('; ')}`);
      return { backends: new Backends(usable), status, notices };
    },
    openFabric: async () => {
      if (!who) return createNoNetwork('not running as root');
      const probe = await probeNftables();
      if (!probe.available) return createNoNetwork(probe.reason);
      return createNftablesFabric({ instance: home.instance, stateFolder: home.network, log });
    },
    buildTemplate: (definition, { progress, signal, force }) =>
      builds.build(definition, {
        signal,
        force,
        onProgress: ({ label, fraction, etaSeconds, done }) => {
          if (done) progress.done(label);
          else
            progress.step(label, {
              ...(fraction === undefined ? {} : { fraction }),
              ...(etaSeconds === undefined ? {} : { etaSeconds }),
            });
        },
      }),
  };
}
