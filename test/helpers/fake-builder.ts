/** A builder of templates that makes what FakeHost can clone, or fails, or waits, as a test wants. */
import { mkdir, rename, writeFile } from 'node:fs/promises';
import { contentOf } from '../../src/isolation/backend.ts';
import type { BuildLog } from '../../src/node/build-log.ts';
import type { BuildResult } from '../../src/node/build-rows.ts';
import type { BuildJob, TemplateBuilder } from '../../src/node/template-builder.ts';
import { fakeTemplate } from './fake-backend.ts';

export class FakeBuilder implements TemplateBuilder {
  readonly jobs: BuildJob[] = [];
  readonly signals: AbortSignal[] = [];
  /** What the next builds do before they end. */
  act: (job: BuildJob, log: BuildLog, signal: AbortSignal) => Promise<void> = async () => {};
  /** What they do once their files are there. */
  afterwards: (job: BuildJob) => Promise<void> = async () => {};

  async build(job: BuildJob, out: string, log: BuildLog, signal: AbortSignal): Promise<BuildResult> {
    this.jobs.push(job);
    this.signals.push(signal);
    log.say('info', `building ${job.name}`, 'base');
    await this.act(job, log, signal);
    signal.throwIfAborted();
    const { image, checkpoint } = fakeTemplate(`built-${job.buildID}`);
    await mkdir(`${out}.new`, { recursive: true });
    await writeFile(`${out}.new/manifest.json`, JSON.stringify(checkpoint.manifest));
    await writeFile(`${out}.new/content.json`, JSON.stringify({ disk: [contentOf(checkpoint.manifest)], memory: [] }));
    await rename(`${out}.new`, out);
    await this.afterwards(job);
    return {
      isolation: 'microvm',
      image,
      shape: job.shape,
      languages: [],
      env: { BUILT: job.buildID },
      runtime: { user: 'somebody', workdir: '/srv', shell: '/bin/bash', sudo: false },
    };
  }

  /** The next build begins and waits until it is aborted or `release` is called. */
  hold(): { readonly reached: Promise<void>; readonly release: () => void } {
    const reached = Promise.withResolvers<void>();
    const gate = Promise.withResolvers<void>();
    this.act = async (_job, _log, signal) => {
      reached.resolve();
      const aborted = new Promise<void>((resolve) => {
        signal.addEventListener('abort', () => resolve(), { once: true });
      });
      await Promise.race([gate.promise, aborted]);
    };
    return { reached: reached.promise, release: gate.resolve };
  }

  /** From now on nothing special. */
  free(): void {
    this.act = async () => {};
    this.afterwards = async () => {};
  }
}
