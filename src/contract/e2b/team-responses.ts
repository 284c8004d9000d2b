/** What E2B's clients require of answers about teams, keys and access tokens. */
import { z } from 'zod';

const instant = z.iso.datetime();
const count = z.int().min(0);
const teamUser = z.strictObject({ id: z.string(), email: z.string().nullable() });

export const team = z.strictObject({
  teamID: z.uuid(),
  name: z.string(),
  apiKey: z.string().regex(/^e2b_[0-9a-f]{40}$/),
  isDefault: z.boolean(),
});

const mask = z.strictObject({
  prefix: z.string(),
  valueLength: z.int(),
  maskedValuePrefix: z.string(),
  maskedValueSuffix: z.string(),
});

export const teamAPIKey = z.strictObject({
  id: z.uuid(),
  name: z.string(),
  mask,
  createdAt: instant,
  createdBy: teamUser.nullable(),
  lastUsed: instant.nullable(),
});

/** `key` is shown this once. */
export const createdTeamAPIKey = teamAPIKey.extend({ key: z.string().regex(/^e2b_[0-9a-f]{40}$/) });

/** `token` is shown this once. */
export const createdAccessToken = z.strictObject({
  id: z.uuid(),
  name: z.string(),
  token: z.string().regex(/^sk_e2b_[0-9a-f]{40}$/),
  mask,
  createdAt: instant,
});

export const teamMetric = z.strictObject({
  timestamp: instant,
  timestampUnix: count,
  concurrentSandboxes: count,
  sandboxStartRate: z.number().min(0),
});

export const maxTeamMetric = z.strictObject({ timestamp: instant, timestampUnix: count, value: z.number().min(0) });

export type Team = z.infer<typeof team>;
export type TeamAPIKey = z.infer<typeof teamAPIKey>;
export type CreatedTeamAPIKey = z.infer<typeof createdTeamAPIKey>;
export type CreatedAccessToken = z.infer<typeof createdAccessToken>;
export type TeamMetric = z.infer<typeof teamMetric>;
export type MaxTeamMetric = z.infer<typeof maxTeamMetric>;
