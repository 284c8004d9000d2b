/** Sandboxes as a client may see them: one, or a page of many. */
import { wireState } from '../contract/e2b/encode.ts';
import {
  ENVD_VERSION,
  type ListSandboxesQuery,
  type ListSandboxesResult,
  type SandboxState,
  type SandboxView,
} from '../contract/node-api.ts';
import { accessToken, trafficToken } from './identifiers.ts';
import { type KnownTemplates, namesOf } from './known-templates.ts';
import type { Template } from './nursery.ts';
import type { MachineRow, Owner } from './rows.ts';

/** Of a sandbox: what it demands of its callers. */
export interface Tokens {
  readonly accessToken?: string;
  readonly trafficToken?: string;
}

export class Views {
  readonly #templates: KnownTemplates;
  readonly #seed: Buffer;

  /** `seed`: what access tokens are derived from. */
  constructor(templates: KnownTemplates, seed: Buffer) {
    this.#templates = templates;
    this.#seed = seed;
  }

  /** What envd demands of the callers of a secure sandbox, and other ports of one whose traffic is not public. */
  tokensOf(sandboxID: string, owner: Owner): Tokens {
    return {
      ...(owner.secure ? { accessToken: accessToken(this.#seed, sandboxID) } : {}),
      ...(owner.publicTraffic ? {} : { trafficToken: trafficToken(this.#seed, sandboxID) }),
    };
  }

  ofRow(row: MachineRow): SandboxView {
    return this.of({ ...row, owner: row.owner! }, this.#templates.of(row));
  }

  of(
    sandbox: {
      readonly id: string;
      readonly templateID: string;
      readonly generation: string;
      readonly state: MachineRow['state'];
      readonly owner: Owner;
    },
    template: Template | undefined,
  ): SandboxView {
    const { id, templateID, generation, owner } = sandbox;
    const shape = template?.shape ?? { cpuCount: 1, memoryMB: 0, diskSizeMB: 0 };
    const tokens = this.tokensOf(id, owner);
    return {
      sandboxID: id,
      teamID: owner.teamID,
      templateID,
      ...(template?.aliases[0] ? { alias: template.aliases[0] } : {}),
      // Sandboxes have an owner, and rows that have one are in a state that clients know too.
      state: sandbox.state as SandboxState,
      startedAtMs: owner.startedAtMs,
      endAtMs: owner.endAtMs,
      onTimeout: owner.onTimeout,
      autoResume: owner.autoResume,
      ...shape,
      envdVersion: ENVD_VERSION,
      ...(tokens.accessToken === undefined ? {} : { envdAccessToken: tokens.accessToken }),
      publicTraffic: owner.publicTraffic,
      ...(tokens.trafficToken === undefined ? {} : { trafficAccessToken: tokens.trafficToken }),
      ...(owner.maskRequestHost === undefined ? {} : { maskRequestHost: owner.maskRequestHost }),
      volumeMounts: owner.volumes.map(({ name, path }) => ({ name, path })),
      metadata: owner.metadata,
      ...(owner.allowInternet === undefined ? {} : { allowInternetAccess: owner.allowInternet }),
      isolation: template?.isolation ?? 'microvm',
      generation,
    };
  }

  /** `rows`: the sandboxes of the query's team, in its order. */
  page(rows: readonly MachineRow[], query: ListSandboxesQuery): ListSandboxesResult {
    const sign = query.order === 'asc' ? 1 : -1;
    const { after, states } = query;
    const matching = rows.filter(
      (row) =>
        (states as readonly unknown[]).includes(listedAs(row)) &&
        (query.startedAfterMs === undefined || row.owner!.startedAtMs >= query.startedAfterMs) &&
        (query.template === undefined || this.#isOf(row, query.template)) &&
        Object.entries(query.metadata ?? {}).every(([key, value]) => row.owner!.metadata[key] === value) &&
        (after === undefined || sign * comparePosition(positionOf(row), after) > 0),
    );
    const page = matching.slice(0, query.limit);
    const last = page.at(-1);
    return {
      sandboxes: page.map((row) => this.ofRow(row)),
      ...(last && matching.length > page.length ? { next: positionOf(last) } : {}),
      totalRunning: rows.filter((row) => listedAs(row) === 'running').length,
    };
  }

  #isOf(row: MachineRow, name: string): boolean {
    if (row.templateID === name) return true;
    const template = this.#templates.of(row);
    return template !== undefined && namesOf(template).includes(name);
  }
}

/** What is on its way into or out of a pause is listed as what it will be. */
function listedAs(row: MachineRow): 'running' | 'paused' | undefined {
  return wireState(row.state as SandboxState);
}

type Position = { readonly startedAtMs: number; readonly sandboxID: string };

function positionOf(row: MachineRow): Position {
  return { startedAtMs: row.owner!.startedAtMs, sandboxID: row.id };
}

function comparePosition(a: Position, b: Position): number {
  if (a.startedAtMs !== b.startedAtMs) return a.startedAtMs - b.startedAtMs;
  return a.sandboxID < b.sandboxID ? -1 : a.sandboxID > b.sandboxID ? 1 : 0;
}
