/**
 * What E2B's clients require of an answer, as schemas. Required here is what Python's generated models read without a
 * default. The encoders are typed by these schemas; the tests check every answer against them.
 */
import { z } from 'zod';

const instant = z.iso.datetime();
const int = z.int();
const strings = z.record(z.string(), z.string());

export const errorBody = z.strictObject({
  code: z.int().min(400).max(599),
  message: z.string().min(1),
  error_code: z.string().optional(),
});

export const sandbox = z.strictObject({
  templateID: z.string(),
  sandboxID: z.string(),
  clientID: z.string(),
  envdVersion: z.string().regex(/^\d+\.\d+\.\d+$/),
  alias: z.string().optional(),
  envdAccessToken: z.string().optional(),
  trafficAccessToken: z.string().nullable(),
  domain: z.string().nullable(),
});

export const listedSandbox = z.strictObject({
  templateID: z.string(),
  sandboxID: z.string(),
  clientID: z.string(),
  startedAt: instant,
  endAt: instant,
  cpuCount: int,
  memoryMB: int,
  diskSizeMB: int,
  state: z.enum(['running', 'paused']),
  envdVersion: z.string().regex(/^\d+\.\d+\.\d+$/),
  alias: z.string().optional(),
  metadata: strings,
  volumeMounts: z.array(z.strictObject({ name: z.string(), path: z.string() })),
});

export const sandboxDetail = listedSandbox.extend({
  envdAccessToken: z.string().optional(),
  allowInternetAccess: z.boolean().nullable(),
  domain: z.string().nullable(),
  lifecycle: z.strictObject({ autoResume: z.boolean(), onTimeout: z.enum(['kill', 'pause']) }),
});

export const snapshotInfo = z.strictObject({ snapshotID: z.string(), names: z.array(z.string()) });

const buildStatus = z.enum(['waiting', 'building', 'ready', 'error']);

export const template = z.strictObject({
  templateID: z.string(),
  buildID: z.string(),
  cpuCount: int,
  memoryMB: int,
  diskSizeMB: int,
  public: z.boolean(),
  aliases: z.array(z.string()),
  names: z.array(z.string()),
  createdAt: instant,
  updatedAt: instant,
  createdBy: z.strictObject({ id: z.string(), email: z.string().nullable() }).nullable(),
  lastSpawnedAt: instant.nullable(),
  spawnCount: int,
  buildCount: int,
  envdVersion: z.string(),
  buildStatus,
});

export const templateWithBuilds = z.strictObject({
  templateID: z.string(),
  public: z.boolean(),
  aliases: z.array(z.string()),
  names: z.array(z.string()),
  createdAt: instant,
  updatedAt: instant,
  lastSpawnedAt: instant.nullable(),
  spawnCount: int,
  builds: z.array(
    z.strictObject({
      buildID: z.string(),
      status: buildStatus,
      createdAt: instant,
      updatedAt: instant,
      finishedAt: instant.optional(),
      cpuCount: int,
      memoryMB: int,
      diskSizeMB: int.optional(),
      envdVersion: z.string().optional(),
    }),
  ),
});

export const templateAlias = z.strictObject({ templateID: z.string(), public: z.boolean() });

export type Sandbox = z.infer<typeof sandbox>;
export type ListedSandbox = z.infer<typeof listedSandbox>;
export type SandboxDetail = z.infer<typeof sandboxDetail>;
export type SnapshotInfo = z.infer<typeof snapshotInfo>;
export type Template = z.infer<typeof template>;
export type TemplateWithBuilds = z.infer<typeof templateWithBuilds>;
export type TemplateAlias = z.infer<typeof templateAlias>;

const ANSWERS: readonly (readonly [method: string, path: RegExp, status: number, body: z.ZodType])[] = [
  ['POST', /^(?:\/v2)?\/sandboxes$/, 201, sandbox],
  ['POST', /^(?:\/v2)?\/sandboxes\/[^/]+\/connect$/, 200, sandbox],
  ['POST', /^(?:\/v2)?\/sandboxes\/[^/]+\/connect$/, 201, sandbox],
  ['POST', /^\/sandboxes\/[^/]+\/resume$/, 201, sandbox],
  ['POST', /^\/sandboxes\/[^/]+\/snapshots$/, 201, snapshotInfo],
  ['GET', /^\/snapshots$/, 200, z.array(snapshotInfo)],
  ['GET', /^(?:\/v2)?\/sandboxes$/, 200, z.array(listedSandbox)],
  ['GET', /^\/sandboxes\/[^/]+$/, 200, sandboxDetail],
  ['GET', /^(?:\/v2)?\/templates$/, 200, z.array(template)],
  ['GET', /^\/templates\/aliases\/[^/]+$/, 200, templateAlias],
  ['GET', /^\/templates\/[^/]+$/, 200, templateWithBuilds],
];

/** The schema of the JSON body that answers a request; undefined if an answer with that status has none. */
export function answerSchema(method: string, path: string, status: number): z.ZodType | undefined {
  if (status >= 400) return errorBody;
  return ANSWERS.find((each) => each[0] === method && each[1].test(path) && each[2] === status)?.[3];
}
