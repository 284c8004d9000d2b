/** The durable rows of templates that teams build: the templates, their tags, their builds and what these say. */
import {
  type BuildLogLine,
  type BuildLogQuery,
  type BuildReason,
  LOG_LEVELS,
  type LogLevel,
  type TemplateTag,
} from '../contract/build-api.ts';
import { CoppiceError } from '../contract/errors.ts';
import type { Isolation, MachineImage, MachineShape } from '../isolation/backend.ts';
import type { Database } from '../store/database.ts';
import type { Runtime } from './runtime.ts';

/** `deleting`: nobody can ask for it; its files are there for as long as something lies on them. */
export type BuildState = 'waiting' | 'building' | 'ready' | 'error' | 'deleting';

export interface TemplateRow {
  /** 20 of [a-z0-9]. */
  readonly templateID: string;
  readonly teamID: string;
  /** One of each in a team. */
  readonly name: string;
  readonly public: boolean;
  readonly createdAtMs: number;
  readonly updatedAtMs: number;
}

/** What came out of a build. Paths of the image are relative to the folder of builds. */
export interface BuildResult {
  readonly isolation: Isolation;
  readonly image: MachineImage;
  readonly shape: MachineShape;
  readonly languages: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  readonly runtime: Runtime;
  /** What its steps left is in its golden checkpoint alone, and not in its root filesystem. */
  readonly inPlace?: true;
}

export interface BuildRow {
  /** UUID, and the name of its folder. */
  readonly buildID: string;
  readonly templateID: string;
  readonly teamID: string;
  /** Of the template, which may be gone. */
  readonly name: string;
  readonly state: BuildState;
  /** What it is to be known as when it is ready. */
  readonly tags: readonly string[];
  readonly shape: ShapeWish;
  /** JSON, from its start to its end: it may hold credentials. */
  readonly request: string | undefined;
  /** How often it was begun. */
  readonly attempts: number;
  readonly reason: BuildReason | undefined;
  readonly result: BuildResult | undefined;
  readonly createdAtMs: number;
  readonly updatedAtMs: number;
  readonly finishedAtMs: number | undefined;
}

/** `diskSizeMB`: at least. */
export interface ShapeWish {
  readonly cpuCount: number;
  readonly memoryMB: number;
  readonly diskSizeMB: number;
}

interface RawTemplate {
  template_id: string;
  team_id: string;
  name: string;
  public: number;
  created_at: number;
  updated_at: number;
}

interface RawBuild {
  build_id: string;
  template_id: string;
  team_id: string;
  name: string;
  state: BuildState;
  tags: string;
  shape: string;
  request: string | null;
  attempts: number;
  reason: string | null;
  result: string | null;
  created_at: number;
  updated_at: number;
  finished_at: number | null;
}

type Value = string | number | null;

export class BuildRows {
  readonly #db: Database;

  constructor(db: Database) {
    this.#db = db;
  }

  #run(sql: string, ...values: Value[]): number {
    return Number(this.#db.prepare(sql).run(...values).changes);
  }

  #all<T>(sql: string, ...values: Value[]): T[] {
    return this.#db.prepare(sql).all(...values) as T[];
  }

  #templates(sql: string, ...values: Value[]): TemplateRow[] {
    return this.#all<RawTemplate>(sql, ...values).map(templateFromRaw);
  }

  #builds(sql: string, ...values: Value[]): BuildRow[] {
    return this.#all<RawBuild>(sql, ...values).map(buildFromRaw);
  }

  /** The template that has the name, or a new one by `templateID`; and a build of it that waits. */
  request(wish: {
    readonly teamID: string;
    readonly name: string;
    readonly templateID: string;
    readonly buildID: string;
    readonly tags: readonly string[];
    readonly shape: ShapeWish;
  }): TemplateRow {
    const { teamID, name, templateID, buildID, tags, shape } = wish;
    const now = Date.now();
    return this.#db.transaction(() => {
      this.#run(
        `INSERT INTO template VALUES (?, ?, ?, 0, ?, ?) ON CONFLICT (team_id, name) DO NOTHING`,
        templateID,
        teamID,
        name,
        now,
        now,
      );
      const template = this.#templates('SELECT * FROM template WHERE team_id = ? AND name = ?', teamID, name)[0]!;
      this.#run(
        `INSERT INTO build (build_id, template_id, team_id, name, state, tags, shape, created_at, updated_at)
         VALUES (?, ?, ?, ?, 'waiting', ?, ?, ?, ?)`,
        buildID,
        template.templateID,
        teamID,
        name,
        JSON.stringify(tags),
        JSON.stringify(shape),
        now,
        now,
      );
      return template;
    });
  }

  /** False: it does not wait. */
  start(buildID: string, request: string): boolean {
    const now = Date.now();
    return (
      this.#run(
        `UPDATE build SET state = 'building', request = ?, started_at = ?, updated_at = ?
         WHERE build_id = ? AND state = 'waiting'`,
        request,
        now,
        now,
        buildID,
      ) === 1
    );
  }

  /** Work on it begins, perhaps again. How often it has. */
  attempt(buildID: string): number {
    const sql = `UPDATE build SET attempts = attempts + 1, updated_at = ? WHERE build_id = ? RETURNING attempts`;
    return this.#all<{ attempts: number }>(sql, Date.now(), buildID)[0]?.attempts ?? 0;
  }

  /** The attempt that was cut off in good order was none. */
  pardon(buildID: string): void {
    this.#run(
      `UPDATE build SET attempts = attempts - 1 WHERE build_id = ? AND state = 'building' AND attempts > 0`,
      buildID,
    );
  }

  /** All at once: it is ready, and what its tags mean from now on. False: it is not being built any more. */
  publish(buildID: string, result: BuildResult): boolean {
    return this.#db.transaction(() => {
      const build = this.get(buildID);
      const now = Date.now();
      if (!build || !this.#finish(buildID, 'ready', null, JSON.stringify(result), now)) return false;
      for (const tag of build.tags) this.#tag(build.templateID, tag, buildID, now);
      this.#run('UPDATE template SET updated_at = ? WHERE template_id = ?', now, build.templateID);
      return true;
    });
  }

  /** False: it neither waits nor is built. */
  fail(buildID: string, reason: BuildReason): boolean {
    return this.#finish(buildID, 'error', JSON.stringify(reason), null, Date.now());
  }

  #finish(
    buildID: string,
    state: 'ready' | 'error',
    reason: string | null,
    result: string | null,
    now: number,
  ): boolean {
    return (
      this.#run(
        `UPDATE build SET state = ?, reason = ?, result = ?, request = NULL, updated_at = ?, finished_at = ?
         WHERE build_id = ? AND state IN ('waiting', 'building')`,
        state,
        reason,
        result,
        now,
        now,
        buildID,
      ) === 1
    );
  }

  get(buildID: string): BuildRow | undefined {
    return this.#builds('SELECT * FROM build WHERE build_id = ?', buildID)[0];
  }

  inState(state: BuildState): BuildRow[] {
    return this.#builds('SELECT * FROM build WHERE state = ? ORDER BY started_at, created_at', state);
  }

  /** Newest first. */
  ofTemplate(templateID: string): BuildRow[] {
    return this.#builds(
      `SELECT * FROM build WHERE template_id = ? AND state <> 'deleting' ORDER BY created_at DESC, build_id DESC`,
      templateID,
    );
  }

  /** Under way, of one team. */
  countBuilding(teamID: string): number {
    const sql = `SELECT count(*) AS count FROM build WHERE team_id = ? AND state = 'building'`;
    return this.#all<{ count: number }>(sql, teamID)[0]!.count;
  }

  countTemplates(teamID: string): number {
    return this.#all<{ count: number }>('SELECT count(*) AS count FROM template WHERE team_id = ?', teamID)[0]!.count;
  }

  /** Whose files are there or may come: their names are folders'. */
  withFiles(): BuildRow[] {
    return this.#builds(`SELECT * FROM build WHERE state IN ('building', 'ready', 'deleting')`);
  }

  templates(): TemplateRow[] {
    return this.#templates('SELECT * FROM template ORDER BY created_at, template_id');
  }

  template(templateID: string): TemplateRow | undefined {
    return this.#templates('SELECT * FROM template WHERE template_id = ?', templateID)[0];
  }

  /** Templates of any team that have this name. */
  named(name: string): TemplateRow[] {
    return this.#templates('SELECT * FROM template WHERE name = ? ORDER BY created_at, template_id', name);
  }

  tags(templateID: string): TemplateTag[] {
    return this.#all<{ tag: string; build_id: string; created_at: number }>(
      'SELECT * FROM template_tag WHERE template_id = ? ORDER BY created_at DESC, tag',
      templateID,
    ).map((raw) => ({ tag: raw.tag, buildID: raw.build_id, createdAtMs: raw.created_at }));
  }

  tag(templateID: string, tags: readonly string[], buildID: string): void {
    this.#db.transaction(() => {
      // It may have lost its last one meanwhile.
      if (this.get(buildID)?.state !== 'ready') throw new CoppiceError('template_not_found', 'the build is gone');
      for (const tag of tags) this.#tag(templateID, tag, buildID, Date.now());
    });
  }

  #tag(templateID: string, tag: string, buildID: string, now: number): void {
    this.#run(
      `INSERT INTO template_tag VALUES (?, ?, ?, ?)
       ON CONFLICT (template_id, tag) DO UPDATE SET build_id = excluded.build_id, created_at = excluded.created_at`,
      templateID,
      tag,
      buildID,
      now,
    );
  }

  untag(templateID: string, tags: readonly string[]): void {
    this.#db.transaction(() => {
      for (const tag of tags) this.#run('DELETE FROM template_tag WHERE template_id = ? AND tag = ?', templateID, tag);
    });
  }

  setPublic(templateID: string, isPublic: boolean): void {
    const sql = 'UPDATE template SET public = ?, updated_at = ? WHERE template_id = ?';
    this.#run(sql, isPublic ? 1 : 0, Date.now(), templateID);
  }

  /** It is gone for everybody; what its builds left goes when nothing needs it any more. */
  deleteTemplate(templateID: string): void {
    this.#db.transaction(() => {
      this.#run('DELETE FROM template WHERE template_id = ?', templateID);
      this.#run(`UPDATE build SET state = 'deleting', request = NULL WHERE template_id = ?`, templateID);
    });
  }

  /**
   * Those that no tag means any more; what ended or was forgotten before `beforeMs` and came to nothing; templates that are left
   * without a build.
   */
  retire(beforeMs: number): void {
    this.#run(
      `UPDATE build SET state = 'deleting' WHERE state = 'ready'
         AND build_id NOT IN (SELECT build_id FROM template_tag)`,
    );
    this.#run(
      `UPDATE build SET state = 'deleting', request = NULL WHERE state IN ('waiting', 'error') AND updated_at < ?`,
      beforeMs,
    );
    this.#run(
      `DELETE FROM template WHERE template_id NOT IN (SELECT template_id FROM build WHERE state <> 'deleting')`,
    );
  }

  /** Its files are gone. */
  forget(buildID: string): void {
    this.#db.transaction(() => {
      this.#run('DELETE FROM build_log WHERE build_id = ?', buildID);
      this.#run('DELETE FROM build WHERE build_id = ?', buildID);
    });
  }

  /** How many lines it has said. */
  countLines(buildID: string): number {
    const sql = 'SELECT count(*) AS count FROM build_log WHERE build_id = ?';
    return this.#all<{ count: number }>(sql, buildID)[0]!.count;
  }

  say(buildID: string, from: number, lines: readonly BuildLogLine[]): void {
    this.#db.transaction(() => {
      for (const [index, { atMs, level, step, message }] of lines.entries())
        this.#run(
          'INSERT OR REPLACE INTO build_log VALUES (?, ?, ?, ?, ?, ?)',
          buildID,
          from + index,
          atMs,
          level,
          step ?? null,
          message,
        );
    });
  }

  said(
    buildID: string,
    query: Pick<BuildLogQuery, 'offset' | 'limit' | 'level' | 'direction' | 'cursorMs'>,
  ): BuildLogLine[] {
    const { offset, limit, level = LOG_LEVELS[0]!, direction = 'forward', cursorMs = null } = query;
    const [beyond, order] = direction === 'forward' ? ['>=', 'ASC'] : ['<=', 'DESC'];
    return this.#all<{ at: number; level: LogLevel; step: string | null; message: string }>(
      `SELECT * FROM build_log WHERE build_id = ? AND level IN (SELECT value FROM json_each(?))
         AND (? IS NULL OR at ${beyond} ?) ORDER BY line ${order} LIMIT ? OFFSET ?`,
      buildID,
      JSON.stringify(LOG_LEVELS.slice(LOG_LEVELS.indexOf(level))),
      cursorMs,
      cursorMs,
      limit,
      offset,
    ).map(
      ({ at, level, step, message }): BuildLogLine => ({
        atMs: at,
        level,
        message,
        ...(step === null ? {} : { step }),
      }),
    );
  }
}

function templateFromRaw(raw: RawTemplate): TemplateRow {
  return {
    templateID: raw.template_id,
    teamID: raw.team_id,
    name: raw.name,
    public: raw.public === 1,
    createdAtMs: raw.created_at,
    updatedAtMs: raw.updated_at,
  };
}

function buildFromRaw(raw: RawBuild): BuildRow {
  return {
    buildID: raw.build_id,
    templateID: raw.template_id,
    teamID: raw.team_id,
    name: raw.name,
    state: raw.state,
    tags: JSON.parse(raw.tags),
    shape: JSON.parse(raw.shape),
    request: raw.request ?? undefined,
    attempts: raw.attempts,
    reason: raw.reason === null ? undefined : JSON.parse(raw.reason),
    result: raw.result === null ? undefined : JSON.parse(raw.result),
    createdAtMs: raw.created_at,
    updatedAtMs: raw.updated_at,
    finishedAtMs: raw.finished_at ?? undefined,
  };
}
