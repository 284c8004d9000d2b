/** Everything between a bare machine and a service that can start. Idempotent; the second time it only looks. */
import type { Home } from '../store/home.ts';
import type { Log } from '../telemetry/log.ts';
import { BUILT_IN_TEMPLATES } from '../templates/definitions.ts';
import { installPackages, missingPackages } from '../templates/packages.ts';
import { openHost } from './host.ts';
import type { Progress } from './progress.ts';

type Wishes = Parameters<typeof missingPackages>[0];

export async function setUp(
  home: Home,
  log: Log,
  progress: Progress,
  signal: AbortSignal,
  wishes: Wishes = {},
): Promise<void> {
  await setUpPackages(progress, signal, wishes);
  const host = openHost(home, log);
  const { backends } = await host.measure(signal);
  for (const definition of BUILT_IN_TEMPLATES)
    if (backends.has(definition.isolation)) await host.buildTemplate(definition, { progress, signal, force: false });
  await host.builds.sweep();
}

export async function setUpPackages(progress: Progress, signal: AbortSignal, wishes: Wishes = {}): Promise<void> {
  const missing = await missingPackages(wishes);
  if (missing.length === 0) return;
  progress.step(`installing ${missing.join(', ')}`);
  await installPackages(signal, () => {}, missing);
  progress.done();
}
