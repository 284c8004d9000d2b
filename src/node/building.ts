/** Everything that templates of teams are built with, put together. */
import type { Backends } from '../isolation/backends.ts';
import type { Log } from '../telemetry/log.ts';
import { Admission } from './admission.ts';
import { BuildBases } from './build-base.ts';
import { BuildFiles } from './build-files.ts';
import { BuildJobs } from './build-jobs.ts';
import { buildLimits } from './build-shape.ts';
import { BuilderMachines } from './builder-machines.ts';
import type { BuiltTemplates } from './built-templates.ts';
import type { Fleet } from './fleet.ts';
import type { HotTier } from './hot-tier.ts';
import { ImageBuilder } from './image-builder.ts';
import type { KnownTemplates } from './known-templates.ts';
import type { Rows } from './rows.ts';
import { StepResults } from './step-results.ts';
import type { TemplateBuilder } from './template-builder.ts';

export interface BuildingOptions {
  /** Exists, as the next three. */
  readonly buildsFolder: string;
  readonly stepsFolder: string;
  readonly uploadsFolder: string;
  readonly imagesFolder: string;
  /** See RegistryHttpOptions. */
  readonly insecureRegistries: readonly string[];
  /** Removes image files that nothing is made of any more; no build is under way meanwhile. */
  readonly sweepImages?: () => Promise<void>;
  /** Default: the one that builds. */
  readonly builder?: TemplateBuilder;
}

export interface Building {
  readonly jobs: BuildJobs;
  readonly files: BuildFiles;
}

export function openBuilding(
  options: BuildingOptions,
  parts: {
    readonly backends: Backends;
    readonly rows: Rows;
    readonly fleet: Fleet;
    readonly hot: HotTier;
    readonly templates: KnownTemplates;
    readonly built: BuiltTemplates;
    readonly seed: Buffer;
    readonly memoryBudgetMB: number | undefined;
    readonly log: Log;
  },
): Building {
  const { imagesFolder, insecureRegistries, buildsFolder } = options;
  const { backends, rows, fleet, hot, templates, built, seed, memoryBudgetMB, log } = parts;
  const files = new BuildFiles({ folder: options.uploadsFolder, seed, log });
  const steps = new StepResults({ rows: rows.steps, folder: options.stepsFolder, log });
  const builder =
    options.builder ??
    new ImageBuilder({
      backends,
      machines: new BuilderMachines({ fleet, hot }),
      bases: new BuildBases({ backends, templates, imagesFolder, insecureRegistries }),
      files,
      steps,
      imagesFolder,
      log,
    });
  const jobs = new BuildJobs({
    rows,
    folder: buildsFolder,
    templates,
    built,
    files,
    steps,
    builder,
    limits: buildLimits(new Admission(memoryBudgetMB).freeMB),
    onRetired: (buildID) => hot.drain(buildID),
    sweepImages: options.sweepImages ?? (async () => {}),
    log,
  });
  return { jobs, files };
}
