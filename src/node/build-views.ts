/** Templates of teams as their list shows them. */
import { ENVD_VERSION, type TemplateBuildView, type TemplateView } from '../contract/node-api.ts';
import type { BuildRow, TemplateRow } from './build-rows.ts';
import { DEFAULT_TAG } from './known-templates.ts';
import type { Rows } from './rows.ts';

/** Of all teams. `hot`: how many machines of a build wait. */
export function viewsOfBuilt(all: Rows, hot: (buildID: string) => number): TemplateView[] {
  const rows = all.builds;
  return rows.templates().flatMap((template) => {
    const builds = rows.ofTemplate(template.templateID);
    const meant = rows.tags(template.templateID).find(({ tag }) => tag === DEFAULT_TAG)?.buildID;
    const shown = builds.find(({ buildID }) => buildID === meant) ?? builds[0];
    return shown ? [viewOf(template, shown, builds, all, hot)] : [];
  });
}

function viewOf(
  template: TemplateRow,
  shown: BuildRow,
  builds: readonly BuildRow[],
  all: Rows,
  hot: (buildID: string) => number,
): TemplateView {
  const { templateID, teamID, name, createdAtMs, updatedAtMs } = template;
  const { count, lastAtMs } = all.spawns(templateID);
  const { buildID, state, result } = shown;
  return {
    templateID,
    buildID,
    aliases: [name],
    ...(result?.shape ?? shown.shape),
    envdVersion: ENVD_VERSION,
    isolation: result?.isolation ?? 'microvm',
    createdAtMs,
    updatedAtMs,
    spawnCount: count,
    ...(lastAtMs === undefined ? {} : { lastSpawnedAtMs: lastAtMs }),
    hot: hot(buildID),
    teamID,
    public: template.public,
    status: state === 'deleting' ? 'error' : state,
    builds: builds.map(buildViewOf),
  };
}

function buildViewOf(row: BuildRow): TemplateBuildView {
  const { buildID, state, result, shape, createdAtMs, updatedAtMs, finishedAtMs } = row;
  return {
    buildID,
    status: state === 'deleting' ? 'error' : state,
    createdAtMs,
    updatedAtMs,
    ...(finishedAtMs === undefined ? {} : { finishedAtMs }),
    ...(result?.shape ?? shape),
  };
}
