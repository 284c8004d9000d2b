/** `coppice template …` */
import { join } from 'node:path';
import { CoppiceError } from '../contract/errors.ts';
import { openHome } from '../store/home.ts';
import { createLog } from '../telemetry/log.ts';
import type { ResolvedTemplate } from '../templates/catalogue.ts';
import { BUILT_IN_TEMPLATES } from '../templates/definitions.ts';
import { openHost } from './host.ts';
import { holdServiceLock } from './lock.ts';
import { createProgress } from './progress.ts';
import { type OutputOptions, print, table } from './report.ts';
import { setUpPackages } from './set-up.ts';
import { readSettings } from './settings.ts';

export async function list(options: OutputOptions): Promise<void> {
  const home = openHome(readSettings().homeFolder);
  const host = openHost(home, createLog({ name: 'cli', level: 'error' }));
  const templates = await host.builds.list();
  print(options, templates, () =>
    table(
      ['TEMPLATE', 'NAMES', 'BUILD', 'VCPU', 'MIB', 'DISK MIB', 'MADE'],
      templates.map((one) => [
        one.template.templateID,
        [one.template.name, ...one.template.aliases].join(' '),
        one.build.buildID,
        String(one.build.shape.cpuCount),
        String(one.build.shape.memoryMB),
        String(one.build.shape.diskSizeMB),
        new Date(one.build.createdAtMs).toISOString(),
      ]),
    ),
  );
}

export async function build(
  names: readonly string[],
  options: OutputOptions & { readonly force?: boolean },
): Promise<void> {
  const unknown = names.filter((name) => !BUILT_IN_TEMPLATES.some((one) => one.name === name));
  if (unknown.length > 0) {
    const known = BUILT_IN_TEMPLATES.map((one) => one.name).join(', ');
    throw new CoppiceError('template_not_found', `no built-in template ${unknown.join(', ')}; there are: ${known}`);
  }
  const home = openHome(readSettings().homeFolder);
  const log = createLog({ name: 'build', file: join(home.logs, 'build.log') });
  const abort = new AbortController();
  process.once('SIGINT', () => abort.abort(new CoppiceError('aborted', 'interrupted')));
  const progress = createProgress();
  await setUpPackages(progress, abort.signal);
  const host = openHost(home, log);
  // A running node clones from the builds that are there: none may be replaced under it.
  const lock = holdServiceLock(home);
  const wanted = BUILT_IN_TEMPLATES.filter((one) => names.length === 0 || names.includes(one.name));
  const built: ResolvedTemplate[] = [];
  try {
    for (const definition of wanted) {
      built.push(
        await host.buildTemplate(definition, { progress, signal: abort.signal, force: options.force === true }),
      );
    }
    if (names.length === 0) await host.builds.sweep();
  } finally {
    progress.stop();
    lock.release();
  }
  print(options, built, () =>
    built.map((one) => `${one.template.name}  ${one.template.templateID}  ${one.build.buildID}`).join('\n'),
  );
}
