/** What clients ask of metrics, logs, events and webhooks. */
import { z } from 'zod';
import { LOG_LEVELS } from '../node-api.ts';
import { eventKindOf } from './activity-encode.ts';
import { eventType } from './activity-responses.ts';

const once = z.string().max(8192);
const whole = (most: number) =>
  once
    .regex(/^\d{1,15}$/, 'expected an integer')
    .transform(Number)
    .pipe(z.int().max(most));
const unixMs = whole(8_640_000_000_000_000);
const unixSeconds = whole(8_640_000_000_000);

/** Entries of one answer. */
const LOGS_MAX = 1000;

/** `GET /sandboxes/{id}/metrics`: seconds, both included. */
export const sandboxMetricsQuery = z.object({ start: unixSeconds.optional(), end: unixSeconds.optional() });

/** `GET /sandboxes/metrics`: ids with commas between. */
export const latestMetricsQuery = z.object({
  sandbox_ids: z
    .union([once, z.array(once).max(100)])
    .transform((value) => [value].flat().flatMap((part) => part.split(',')))
    .pipe(z.array(z.string().min(1).max(128)).max(100)),
});

/** `GET /sandboxes/{id}/logs`: milliseconds. E2B's own server takes any limit and answers with what it likes. */
export const logsQueryV1 = z.object({
  start: unixMs.optional(),
  limit: whole(Number.MAX_SAFE_INTEGER)
    .transform((limit) => Math.min(limit, LOGS_MAX))
    .default(LOGS_MAX),
});

/** `GET /v2/sandboxes/{id}/logs`: milliseconds. */
export const logsQueryV2 = z.object({
  cursor: unixMs.optional(),
  limit: whole(LOGS_MAX).default(LOGS_MAX),
  direction: z.enum(['forward', 'backward']).default('backward'),
  level: z.enum(LOG_LEVELS).optional(),
  search: once.max(256).optional(),
});

/** `GET /events/sandboxes`. */
export const eventsQuery = z.object({
  offset: whole(1_000_000).default(0),
  limit: whole(100).pipe(z.int().min(1)).default(10),
  orderAsc: z
    .enum(['true', 'false'])
    .default('false')
    .transform((text) => text === 'true'),
  types: z
    .union([once, z.array(once).max(16)])
    .transform((value) => [value].flat().flatMap((part) => part.split(',')))
    .pipe(z.array(eventType).max(16))
    .transform((types) => types.map(eventKindOf))
    .optional(),
});

const name = z.string().min(1).max(128);
const url = z.string().min(1).max(2048);
const events = z.array(eventType).min(1).max(16);
const signatureSecret = z.string().min(8).max(256);

export const newWebhook = z.object({
  name,
  url,
  enabled: z.boolean().default(true),
  events,
  signatureSecret: signatureSecret.optional(),
});

export const webhookChange = z.object({
  name: name.optional(),
  url: url.optional(),
  enabled: z.boolean().optional(),
  events: events.optional(),
  signatureSecret: signatureSecret.optional(),
});

export const webhookReplay = z.object({ eventID: z.uuid() });

/** `GET /events/webhooks/{id}/deliveries`: newest first. */
export const deliveriesQuery = z.object({ limit: whole(100).pipe(z.int().min(1)).default(20) });
