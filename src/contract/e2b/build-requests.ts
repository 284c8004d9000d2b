/** What E2B's clients send of templates that they build. The build itself is read by the node. */
import { z } from 'zod';
import { LOG_LEVELS } from '../build-api.ts';

const name = z.string().min(1).max(256);
const int32 = z.int().max(2 ** 31 - 1);
const tags = z.array(z.string().min(1).max(256)).max(1000);

/** Body of `POST /v3/templates`. `alias` and `teamID` are of older clients. */
export const templateBuildRequest = z
  .object({
    name: name.nullish(),
    alias: name.nullish(),
    tags: tags.nullish(),
    teamID: z.string().max(64).nullish(),
    cpuCount: int32.nullish(),
    memoryMB: int32.nullish(),
    minFreeDiskMb: int32.min(0).nullish(),
  })
  .refine((body) => Boolean(body.name ?? body.alias), { path: ['name'], message: 'expected a name' });

/** Body of `POST /v2/templates/{id}/builds/{buildID}`. */
export const templateBuildStart = z.looseObject({});

/** Body of `PATCH /v2/templates/{id}`. */
export const templateUpdate = z.object({ public: z.boolean().nullish() }).default({});

/** Body of `POST /templates/tags`. */
export const assignTags = z.object({ target: name, tags });

/** Body of `DELETE /templates/tags`. */
export const removeTags = z.object({ name, tags });

const once = z.string().max(64);
const whole = once.regex(/^\d{1,15}$/, 'expected a whole number').transform(Number);
const limit = once
  .regex(/^\d{1,3}$/, 'expected an integer from 0 to 100')
  .transform(Number)
  .pipe(z.int().min(0).max(100))
  .default(100);
const level = z.enum(LOG_LEVELS).optional();

/** `GET /templates/{id}/builds/{buildID}/status`. */
export const buildStatusQuery = z.object({ logsOffset: whole.default(0), limit, level });

/** `GET /templates/{id}/builds/{buildID}/logs`. */
export const buildLogsQuery = z.object({
  cursor: whole.optional(),
  limit,
  direction: z.enum(['forward', 'backward']).default('forward'),
  level,
  source: z.enum(['temporary', 'persistent']).optional(),
});
