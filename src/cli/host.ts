/** The backends of this host, put together: which isolation, which network, which templates. */
import type { BackendProbe, IsolationBackend } from '../isolation/backend.ts';
import { createQemuBackend } from '../isolation/microvm/qemu/driver.ts';
import type { NetworkFabric } from '../network/fabric.ts';
import { createNftablesFabric } from '../network/nftables/driver.ts';
import { probeNftables } from '../network/nftables/probe.ts';
import { createNoNetwork } from '../network/none.ts';
import { TemplateBuilds } from '../node/template-builds.ts';
import type { Home } from '../store/home.ts';
import type { Log } from '../telemetry/log.ts';
import type { ResolvedTemplate } from '../templates/catalogue.ts';
import type { TemplateDefinition } from '../templates/definitions.ts';
import { guestKernel } from '../templates/image.ts';
import { accounts } from './accounts.ts';
import type { Progress } from './progress.ts';

export interface Host {
  readonly backend: IsolationBackend;
  readonly builds: TemplateBuilds;
  /** First uid of the range that VMMs run as; undefined without root. */
  readonly firstUid: number | undefined;
  /** Measured; nothing is made yet. */
  openFabric(): Promise<NetworkFabric>;
  probe(signal?: AbortSignal): Promise<BackendProbe>;
  buildTemplate(
    definition: TemplateDefinition,
    options: { readonly progress: Progress; readonly signal: AbortSignal; readonly force: boolean },
  ): Promise<ResolvedTemplate>;
}

export function openHost(home: Home, log: Log): Host {
  const who = accounts();
  const backend = createQemuBackend({
    log,
    home: { probeFile: home.probeFile },
    rootless: who === undefined,
    kernel: () => guestKernel(home.images),
  });
  const builds = new TemplateBuilds({
    backend,
    imagesFolder: home.images,
    templatesFolder: home.templates,
    machinesFolder: home.machines,
    uid: who?.builder,
    log,
  });
  return {
    backend,
    builds,
    firstUid: who?.firstMachine,
    openFabric: async () => {
      if (!who) return createNoNetwork('not running as root');
      const probe = await probeNftables();
      if (!probe.available) return createNoNetwork(probe.reason);
      return createNftablesFabric({ instance: home.instance, stateFolder: home.network, log });
    },
    probe: (signal) => backend.probe(signal),
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
