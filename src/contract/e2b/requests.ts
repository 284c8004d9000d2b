/**
 * What E2B's REST clients send. Two generations are served: v1 (`/sandboxes`), where members that the contract does not
 * know are ignored and null means absent, and v2 (`/v2/sandboxes`), which is strict about both. The network
 * configuration is strict in both: a policy that is not understood must not be skipped.
 */
import { z } from 'zod';
import { nodeStatus } from './node-responses.ts';
import { ENV_LIMITS, METADATA_LIMITS, SECRET_LIMITS, stringMap } from './string-map.ts';

/** E2B's `format: int32`; the parser has made sure that only integer literals arrive as integers. */
const int32 = z
  .int()
  .min(-(2 ** 31))
  .max(2 ** 31 - 1);
const templateName = z.string().min(1).max(256);
const shortText = z.string().max(1024);
const textList = z.array(shortText).max(1000);

/** Sandboxes that one fork may make. */
const FORKS_MAX = 100;

const autoResume = z.object({ enabled: z.boolean() });
const mcp = z.looseObject({}).nullable();
const iam = z.object({ tokens: z.looseObject({}).optional() });
const volumeMounts = z.array(z.object({ name: shortText, path: shortText })).max(1000);
const egressProxy = z
  .object({ address: shortText, username: z.string().max(255).optional(), password: z.string().max(255).optional() })
  .nullable();
const httpsPorts = z.array(z.int().min(1).max(65_535)).max(1000);

const networkV1 = z.strictObject({
  allowPublicTraffic: z.boolean().nullish(),
  allowOut: textList.nullish(),
  denyOut: textList.nullish(),
  egressProxy: egressProxy.optional(),
  maskRequestHost: shortText.nullish(),
  rules: z.looseObject({}).nullish(),
  httpsPorts: httpsPorts.nullish(),
});

const networkV2 = z.strictObject({
  allowPublicTraffic: z.boolean().optional(),
  allowOut: textList.optional(),
  denyOut: textList.optional(),
  egressProxy: egressProxy.optional(),
  maskRequestHost: shortText.optional(),
  rules: z.looseObject({}).optional(),
  httpsPorts: httpsPorts.optional(),
});

/** Body of `POST /volumes`. */
export const newVolume = z.object({
  name: z.string().regex(/^[a-zA-Z0-9_-]{1,128}$/, 'expected 1 to 128 of a-z, A-Z, 0-9, _ and -'),
});

const secretValue = z.string().min(1).max(65_536);

/** Body of `POST /secrets/{id}`: a new version. */
export const secretUpdate = z.object({ value: secretValue, metadata: stringMap(SECRET_LIMITS).nullish() });

/** Body of `POST /secrets`. */
export const newSecret = secretUpdate.extend({ name: z.string().min(1).max(128) });

/** Body of `POST /sandboxes`. */
export const newSandboxV1 = z.object({
  templateID: templateName,
  timeout: int32.nullish(),
  autoPause: z.boolean().nullish(),
  autoPauseMemory: z.boolean().nullish(),
  autoResume: autoResume.nullish(),
  secure: z.boolean().nullish(),
  allow_internet_access: z.boolean().nullish(),
  network: networkV1.nullish(),
  metadata: stringMap(METADATA_LIMITS).nullish(),
  envVars: stringMap(ENV_LIMITS).nullish(),
  mcp: mcp.optional(),
  iam: iam.nullish(),
  volumeMounts: volumeMounts.nullish(),
});

/** Body of `POST /v2/sandboxes`: no `secure`, because a v2 sandbox always is. */
export const newSandboxV2 = z.strictObject({
  templateID: templateName,
  timeout: int32.optional(),
  autoPause: z.boolean().optional(),
  autoPauseMemory: z.boolean().optional(),
  autoResume: autoResume.strict().optional(),
  allow_internet_access: z.boolean().optional(),
  network: networkV2.optional(),
  metadata: stringMap(METADATA_LIMITS).optional(),
  envVars: stringMap(ENV_LIMITS).optional(),
  mcp: mcp.optional(),
  iam: iam.strict().optional(),
  volumeMounts: volumeMounts.optional(),
});

/** What both generations have in common, as the edge reads it. */
export type NewSandbox = z.output<typeof newSandboxV1>;
export type NewSandboxNetwork = z.output<typeof networkV1>;

export const connectSandboxV1 = z.object({ timeout: int32.min(0), memory: z.boolean().nullish() });

export const connectSandboxV2 = z
  .strictObject({ timeout: int32.optional(), memory: z.boolean().optional() })
  .default({});

/** Body of `PUT /sandboxes/{id}/network`: all of what it may reach, as the network of a create has it. Strict like that. */
export const sandboxNetwork = z
  .strictObject({
    allow_internet_access: z.boolean().nullish(),
    allowOut: textList.nullish(),
    denyOut: textList.nullish(),
    egressProxy: egressProxy.optional(),
    rules: z.looseObject({}).nullish(),
  })
  .default({});

/** Body of `POST /sandboxes/{id}/pause`. `memory: false` keeps the disk alone. */
export const sandboxPause = z.object({ memory: z.boolean().nullish() }).default({});

/** Body of `POST /sandboxes/{id}/resume`, deprecated. */
export const sandboxResume = z
  .object({ timeout: int32.nullish(), autoPause: z.boolean().nullish(), memory: z.boolean().nullish() })
  .default({});

/** Body of `POST /sandboxes/{id}/fork`. */
export const sandboxFork = z
  .object({ timeout: int32.nullish(), count: z.int().min(1).max(FORKS_MAX).nullish() })
  .default({});

/** Body of `POST /sandboxes/{id}/rollback`, Coppice's own verb: strict, since no E2B client sends it. */
export const sandboxRollback = z.strictObject({ snapshotID: templateName });

/** Body of `POST /sandboxes/{id}/snapshots`. */
export const sandboxSnapshot = z.object({ name: z.string().min(1).max(256).nullish() }).default({});

/** Body that gives a key or an access token its name. */
export const named = z.object({ name: z.string().min(1).max(1024) });

/** Body of `POST /nodes/{id}`. */
export const nodeStatusChange = z.object({ status: nodeStatus, clusterID: z.string().max(64).nullish() });

export const sandboxTimeout = z.object({ timeout: int32.min(0) });

export const sandboxRefresh = z.object({ duration: z.int().min(0).max(3600).nullish() }).default({});

/** Seconds; E2B's defaults where the client says nothing, and the longest life that a client may ask for. */
export const TIMEOUTS = {
  createV1: 15,
  createV2: 300,
  resume: 15,
  connectV2: 300,
  fork: 15,
  refreshMin: 15,
  max: 24 * 3600,
} as const;

/** Value of the `Idempotency-Key` header. */
export const IDEMPOTENCY_KEY = /^[a-z0-9]{1,255}$/;
