/** Who builds templates, seen by who keeps the jobs. */
import type { BuildRequest } from '../templates/build-request.ts';
import type { BuildLog } from './build-log.ts';
import type { BuildResult, ShapeWish } from './build-rows.ts';

export interface BuildJob {
  readonly buildID: string;
  readonly templateID: string;
  readonly teamID: string;
  readonly name: string;
  readonly shape: ShapeWish;
  readonly request: BuildRequest;
}

export interface TemplateBuilder {
  /**
   * Publishes the golden checkpoint at `out`, whose folder is there, and says what it made. Errors: CoppiceError, with the step
   * that failed in its details (see stepError). Of what an attempt left that was killed, nothing matters to the next.
   */
  build(job: BuildJob, out: string, log: BuildLog, signal: AbortSignal): Promise<BuildResult>;
}
