/** What a rig measures: the machines of one template on this host. */
import { openHost } from '../../src/cli/host.ts';
import type { Home } from '../../src/store/home.ts';
import type { Log } from '../../src/telemetry/log.ts';
import { findTemplate } from './clones.ts';
import { describeHost } from './machine.ts';

export interface RigOptions {
  readonly home: Home;
  readonly template: string;
  readonly log: Log;
  readonly signal: AbortSignal;
  readonly onStage: (stage: string, fraction?: number) => void;
}

/** What every result says of what it was measured on. */
export interface SubjectFacts {
  readonly at: string;
  readonly machine: ReturnType<typeof describeHost>;
  readonly backend: string;
  readonly accelerator: string;
  readonly vmm: string;
  readonly template: string;
}

/** template_not_found when it is not built. */
export async function openSubject(options: RigOptions) {
  const host = openHost(options.home, options.log);
  const template = await findTemplate(host, options.template);
  const backend = host.backends.of(template.isolation);
  const probe = await backend.probe(options.signal);
  const facts = (): SubjectFacts => ({
    at: new Date().toISOString(),
    machine: describeHost(),
    backend: backend.name,
    accelerator: probe.accelerator,
    vmm: probe.version,
    template: options.template,
  });
  return { host, template, backend, facts };
}
