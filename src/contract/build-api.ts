/** What control asks of a node about templates that teams build. Part of NodeApi; its rules for errors hold here too. */

export type BuildStatus = 'waiting' | 'building' | 'ready' | 'error';
export const BUILD_STATUSES: readonly BuildStatus[] = ['waiting', 'building', 'ready', 'error'];

export type LogLevel = 'debug' | 'info' | 'warn' | 'error';
/** From the least to the most urgent. */
export const LOG_LEVELS: readonly LogLevel[] = ['debug', 'info', 'warn', 'error'];

export interface BuildWish {
  readonly teamID: string;
  /** As the client wrote it, with or without a tag. */
  readonly name: string;
  /** What else the build is to be known as, once it is ready. */
  readonly tags: readonly string[];
  /** Default: E2B's, within what the host has. */
  readonly cpuCount?: number;
  readonly memoryMB?: number;
  /** MiB that its sandboxes can write at least. */
  readonly freeDiskMB?: number;
}

/** A build that waits to be started. */
export interface BuildTicket {
  readonly templateID: string;
  readonly buildID: string;
  readonly name: string;
  readonly tags: readonly string[];
  readonly public: boolean;
}

export interface BuildName {
  readonly teamID: string;
  readonly templateID: string;
  readonly buildID: string;
}

export interface BuildLogQuery extends BuildName {
  /** Lines to leave out, from the first on that the build said. */
  readonly offset: number;
  /** 1..100 */
  readonly limit: number;
  /** What is less urgent is left out, and not counted. */
  readonly level?: LogLevel;
  /** Default `forward`. */
  readonly direction?: 'forward' | 'backward';
  /** What was said before this instant (`backward`: after it) is left out. */
  readonly cursorMs?: number;
}

export interface BuildLogLine {
  readonly atMs: number;
  readonly level: LogLevel;
  readonly message: string;
  /** `base`, `1`, `2`, …, `finalize`. */
  readonly step?: string;
}

export interface BuildView {
  readonly templateID: string;
  readonly buildID: string;
  readonly status: BuildStatus;
  /** Why it failed, and in which step. */
  readonly reason?: BuildReason;
  readonly logs: readonly BuildLogLine[];
}

export interface BuildReason {
  readonly message: string;
  readonly step?: string;
}

/** An archive that a build may copy from. */
export interface BuildFile {
  readonly present: boolean;
  /** Lets whoever has it upload it, for a while; goes into the URL. */
  readonly ticket: string;
}

export interface TemplateTag {
  readonly tag: string;
  readonly buildID: string;
  readonly createdAtMs: number;
}

/** Templates of other teams are `forbidden` here, unknown ones `template_not_found`. */
export interface BuildApi {
  /**
   * Makes a template of the team, or a further build of the one that has this name. `too_many_builds`: the team has as many
   * under way as it may. `conflict`: the name is a built-in template's.
   */
  requestBuild(wish: BuildWish): Promise<BuildTicket>;
  /** `request`: JSON, as E2B's clients send it. A step that cannot be fails the build and not the call. */
  startBuild(build: BuildName, request: string): Promise<void>;
  getBuild(query: BuildLogQuery): Promise<BuildView>;
  /** `hash`: hex SHA-256, as the client has computed it. */
  buildFile(teamID: string, templateID: string, hash: string): Promise<BuildFile>;
  /** `target`: `name` or `name:tag`. */
  tagTemplate(
    teamID: string,
    target: string,
    tags: readonly string[],
  ): Promise<{ readonly buildID: string; readonly tags: readonly string[] }>;
  untagTemplate(teamID: string, template: string, tags: readonly string[]): Promise<void>;
  listTags(teamID: string, template: string): Promise<readonly TemplateTag[]>;
  /** Whether other teams may make sandboxes of it. Its names, from then on. */
  /** Ends the builds of a team that wait or are under way; they say that they were cancelled. Returns how many. */
  cancelBuilds(teamID: string): Promise<number>;
  publishTemplate(teamID: string, template: string, isPublic: boolean): Promise<readonly string[]>;
}

/** On the traffic socket: the body is an archive, `<templateID>/<hash>/<ticket>`. */
export const TRAFFIC_UPLOAD_HEADER = 'x-coppice-upload';
