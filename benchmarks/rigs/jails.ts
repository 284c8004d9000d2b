/**
 * Rig: jails. The rows that a jail is promised by, beside what others take on the same root filesystem, in one run:
 * creates, what the official packages see, idle memory, many at once. Clocks are in the result.
 */
import { openHost } from '../../src/cli/host.ts';
import { CoppiceError } from '../../src/contract/errors.ts';
import { findTemplate, measureWake } from './clones.ts';
import { type Creates, measureCreates } from './creates.ts';
import { type ForeignFloors, measureForeign } from './jail-floors.ts';
import { type ManyJails, measureMany } from './jail-many.ts';
import { type IdleMemory, weighIdleJails } from './jail-memory.ts';
import { type CodeRuns, type Echoes, measureCode, measureEchoes } from './jail-sdk.ts';
import { type Layers, layersOf, measureAgentLayers, measureServiceLayers } from './layers.ts';
import { describeHost } from './machine.ts';
import { withService } from './service.ts';
import type { Summary } from './statistics.ts';
import type { RigOptions } from './subject.ts';

export interface JailsRigOptions extends RigOptions {
  /** Rounds of every row. */
  readonly n: number;
  /** Jails held for the row of idle memory. */
  readonly idle: number;
  /** Jails at once; 0: that row is not measured. */
  readonly many: number;
}

export interface JailsResult {
  readonly rig: 'jails';
  readonly at: string;
  readonly machine: ReturnType<typeof describeHost>;
  readonly backend: string;
  readonly accelerator: string;
  /** Of the runtime. */
  readonly version: string;
  readonly template: string;
  readonly create: {
    readonly clock: string;
    readonly hot: Creates;
    readonly cold: Creates;
  };
  readonly sdk: { readonly clock: string; readonly hot: Echoes; readonly cold: Echoes };
  /** null: its template is not built. */
  readonly code_interpreter: ({ readonly clock: string; readonly template: string } & CodeRuns) | null;
  readonly layers: Layers;
  readonly idle_memory_per_jail_mib: IdleMemory;
  readonly many: ManyJails | null;
  readonly floors: ForeignFloors & { readonly clock: string; readonly thaw_to_answer_ms: Summary };
}

const CODE_TEMPLATE = 'code-interpreter-v1-jail';
const HOT = 2;

export async function runJailsRig(options: JailsRigOptions): Promise<JailsResult> {
  const { home, log, signal, n, onStage } = options;
  const host = openHost(home, log);
  const template = await findTemplate(host, options.template);
  if (template.isolation !== 'jail')
    throw new CoppiceError('bad_request', `template '${options.template}' makes ${template.isolation}s, not jails`);
  const backend = host.backends.of('jail');
  const probe = await backend.probe(signal);
  if (!probe.usable) throw new CoppiceError('host_unfit', probe.notices.join('; '));
  const code = (await host.builds.ready()).some(({ aliases }) => aliases.includes(CODE_TEMPLATE));
  const row = { template: options.template, n, signal };
  const service = { home, log, signal };

  onStage('floors: crun, runc and podman on the same root filesystem');
  const foreign = await measureForeign(template.image.rootfs, n, signal);
  onStage('floor: thawing parked jails');
  const cloning = { host, home, template, log, signal };
  const thaw = await measureWake(cloning, n);
  onStage('layers: the agent by its raw channel');
  const agentLayers = await measureAgentLayers(cloning, n);
  onStage('hot tier: filling it');
  const hot = await withService({ ...service, pool: HOT }, async (running) => {
    await running.untilHot(HOT);
    onStage('hot: creates');
    const creates = await measureCreates(running, { ...row, hot: HOT });
    onStage('hot: create to first echo by the SDK');
    const echoes = await measureEchoes(running, { ...row, hot: HOT });
    onStage('layers: the service');
    const layers = await measureServiceLayers(running, { ...row, home, hot: HOT });
    if (!code) return { creates, echoes, layers, runs: undefined };
    onStage('hot: run_code');
    const runs = await measureCode(running, { ...row, template: CODE_TEMPLATE, hot: HOT });
    return { creates, echoes, layers, runs };
  });
  onStage('cold: creates, and create to first echo by the SDK');
  const cold = await withService({ ...service, pool: 0 }, async (running) => ({
    creates: await measureCreates(running, { ...row, hot: 0 }),
    echoes: await measureEchoes(running, { ...row, hot: 0 }),
  }));
  onStage(`memory of ${options.idle} idle jails`);
  const idle = await weighIdleJails({ ...service, template: options.template, jails: options.idle });
  const many =
    options.many === 0
      ? null
      : await measureMany({
          ...service,
          template: options.template,
          jails: options.many,
          onProgress: (stage, fraction) => onStage(`${options.many} jails at once: ${stage}`, fraction),
        });

  return {
    rig: 'jails',
    at: new Date().toISOString(),
    machine: describeHost(),
    backend: backend.name,
    accelerator: probe.accelerator,
    version: probe.version,
    template: options.template,
    create: {
      clock:
        'POST /v2/sandboxes sent to 201 received, c=1, each of a service at rest, keep-alive, loopback; hot: the agent has answered before the 201; cold: the jail runs, its agent starts with the first request (see sdk.cold)',
      hot: hot.creates,
      cold: cold.creates,
    },
    sdk: {
      clock:
        "Sandbox.create called to the result of commands.run('echo first') in hand, e2b's package in this process, one after the other",
      hot: hot.echoes,
      cold: cold.echoes,
    },
    code_interpreter: hot.runs
      ? {
          clock:
            'runCode called to its result in hand, @e2b/code-interpreter in this process; the first after a hot create, then ten more each',
          template: CODE_TEMPLATE,
          ...hot.runs,
        }
      : null,
    layers: layersOf(hot.layers, agentLayers),
    idle_memory_per_jail_mib: idle,
    many,
    floors: {
      clock:
        'thaw: freezer released to the answer of the agent on the raw channel; the others: process started to its end, /bin/true on an overlay of the same root filesystem',
      thaw_to_answer_ms: thaw,
      ...foreign,
    },
  };
}
