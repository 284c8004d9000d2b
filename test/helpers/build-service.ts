/** The whole service with a home whose images are its own, so that templates can be built in it. */
import { mkdirSync, readdirSync, realpathSync, rmSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import type { Home } from '../../src/store/home.ts';
import { type StartOptions, startService, type TestService } from './service.ts';

/** @param templates names of built-in templates that are there. */
export function startBuildService(
  env: Readonly<Record<string, string>>,
  templates: readonly string[],
  options: StartOptions = {},
): Promise<TestService> {
  return startService(env, templates, { ...options, prepare: ownImages });
}

/** The shared artifacts stay where they are; what is built lies beside links to them. */
function ownImages(home: Home): () => void {
  const shared = realpathSync(home.images);
  rmSync(home.images);
  mkdirSync(home.images, { mode: 0o755 });
  for (const name of readdirSync(shared))
    if (!name.startsWith('.')) symlinkSync(join(shared, name), join(home.images, name));
  return () => {};
}
