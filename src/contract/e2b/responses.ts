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

export const volume = z.strictObject({ volumeID: z.string(), name: z.string() });

export const volumeAndToken = volume.extend({ token: z.string().min(1), domain: z.string().optional() });

export const secret = z.strictObject({
  secretID: z.string(),
  name: z.string(),
  currentVersion: int,
  metadata: strings,
  createdAt: instant,
  updatedAt: instant,
});

/** An entry of a volume, see volumes/entry.ts. */
export const volumeEntry = z.strictObject({
  name: z.string(),
  path: z.string(),
  type: z.enum(['unknown', 'file', 'directory', 'symlink']),
  size: int,
  mode: int,
  uid: int,
  gid: int,
  atime: instant,
  mtime: instant,
  ctime: instant,
  target: z.string().optional(),
});

/** Of the content API of volumes alone: its code is a word. */
export const contentErrorBody = z.strictObject({ code: z.string().min(1), message: z.string().min(1) });

export const sandboxDetail = listedSandbox.extend({
  envdAccessToken: z.string().optional(),
  allowInternetAccess: z.boolean().nullable(),
  domain: z.string().nullable(),
  network: z.strictObject({ allowPublicTraffic: z.boolean(), maskRequestHost: z.string().optional() }),
  lifecycle: z.strictObject({ autoResume: z.boolean(), onTimeout: z.enum(['kill', 'pause']) }),
});

/** Exactly one of the two for each fork. `code` of its error is an HTTP status. */
export const forkResult = z.union([
  z.strictObject({ sandbox }),
  z.strictObject({ error: z.strictObject({ code: z.int().min(400).max(599), message: z.string().min(1) }) }),
]);

/** `snapshotID` and `names` are E2B's; the rest is Coppice's own, for who draws a tree of them. */
export const snapshotInfo = z.strictObject({
  snapshotID: z.string(),
  names: z.array(z.string()),
  buildID: z.string(),
  parentID: z.string(),
  sourceID: z.string(),
  memory: z.boolean(),
  ownBytes: int,
  sharedBytes: int,
  createdAt: instant,
});

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
export type ForkResult = z.infer<typeof forkResult>;
export type SnapshotInfo = z.infer<typeof snapshotInfo>;
export type Template = z.infer<typeof template>;
export type TemplateWithBuilds = z.infer<typeof templateWithBuilds>;
export type TemplateAlias = z.infer<typeof templateAlias>;
