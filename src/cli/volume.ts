/** `coppice volume …`: through the official SDK, as any user would. */
import { Volume } from 'e2b';
import { CoppiceError } from '../contract/errors.ts';
import { type OutputOptions, print, table } from './report.ts';
import { connection } from './sandbox.ts';

export async function list(options: OutputOptions): Promise<void> {
  const found = await Volume.list(connection());
  print(options, found, () =>
    table(
      ['VOLUME', 'NAME'],
      found.map((one) => [one.volumeId, one.name]),
    ),
  );
}

export async function create(name: string, options: OutputOptions): Promise<void> {
  const { volumeId } = await Volume.create(name, connection());
  print(options, { volumeID: volumeId, name }, () => volumeId);
}

/** By name or id. */
export async function remove(names: readonly string[], options: OutputOptions): Promise<void> {
  const known = await Volume.list(connection());
  const chosen = names.map((wanted) => {
    const found = known.find(({ volumeId, name }) => volumeId === wanted || name === wanted);
    if (found) return found;
    throw new CoppiceError('volume_not_found', `no volume ${wanted}; \`coppice volume list\` names those there are`);
  });
  for (const { volumeId } of chosen) await Volume.destroy(volumeId, connection());
  const deleted = chosen.map(({ volumeId, name }) => ({ volumeID: volumeId, name }));
  print(options, deleted, () => deleted.map(({ name }) => `${name}: deleted, with all that was in it`).join('\n'));
}

/** `<name>:<path>` each. */
export function mountsOf(wishes: readonly string[]): { readonly volumeMounts?: Record<string, string> } {
  if (wishes.length === 0) return {};
  const mounts = wishes.map((wish) => {
    const [, name, path] = /^([^:]+):(\/.+)$/.exec(wish) ?? [];
    if (name === undefined || path === undefined)
      throw new CoppiceError('bad_request', `--volume takes <name>:<absolute path>, not ${wish}`);
    return [path, name] as const;
  });
  return { volumeMounts: Object.fromEntries(mounts) };
}
