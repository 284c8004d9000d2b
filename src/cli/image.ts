/** `coppice image …`: images of other tools, brought to this host as files, for templates to be built from. */
import { resolve } from 'node:path';
import { CoppiceError } from '../contract/errors.ts';
import { openHome } from '../store/home.ts';
import { importImage, listImported, removeImported } from '../templates/oci/imported.ts';
import { bytes, type OutputOptions, print, table } from './report.ts';
import { readSettings } from './settings.ts';

const images = (): string => openHome(readSettings().homeFolder).images;

export async function bring(
  file: string,
  name: string,
  options: OutputOptions & { readonly member?: string },
): Promise<void> {
  const abort = new AbortController();
  process.once('SIGINT', () => abort.abort(new CoppiceError('aborted', 'interrupted')));
  const { member } = options;
  const image = await importImage(images(), {
    file: resolve(file),
    name,
    signal: abort.signal,
    ...(member === undefined ? {} : { member }),
  });
  print(options, image, () => `imported; builds name it fromImage('${image.name}')`);
}

export async function list(options: OutputOptions): Promise<void> {
  const found = await listImported(images());
  print(options, found, () =>
    table(
      ['IMAGE', 'DIGEST', 'SIZE', 'IMPORTED'],
      found.map((one) => [one.name, one.digest, bytes(one.bytes), new Date(one.importedAtMs).toISOString()]),
    ),
  );
}

export async function remove(names: readonly string[], options: OutputOptions): Promise<void> {
  const folder = images();
  const removed: string[] = [];
  for (const name of names) {
    if (!(await removeImported(folder, name)))
      throw new CoppiceError(
        'bad_request',
        `no image ${name} was imported; \`coppice image list\` names those there are`,
      );
    removed.push(name);
  }
  print(options, { removed }, () => removed.join('\n'));
}
