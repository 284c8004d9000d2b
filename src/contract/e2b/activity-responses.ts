/** What E2B's clients require of metrics, logs and events, as schemas; webhooks are as E2B's hosted service has them. */
import { z } from 'zod';
import { EVENT_KINDS, LOG_LEVELS } from '../node-api.ts';

const instant = z.iso.datetime();
const bytes = z.int().min(0);

export const sandboxMetric = z.strictObject({
  timestamp: instant,
  timestampUnix: z.int(),
  cpuCount: z.int().min(1),
  cpuUsedPct: z.number().min(0).max(100),
  memUsed: bytes,
  memTotal: bytes,
  memCache: bytes,
  diskUsed: bytes,
  diskTotal: bytes,
});

export const latestMetrics = z.strictObject({ sandboxes: z.record(z.string(), sandboxMetric) });

const sandboxLogEntry = z.strictObject({
  timestamp: instant,
  level: z.enum(LOG_LEVELS),
  message: z.string(),
  fields: z.record(z.string(), z.string()),
});

/** Of the first generation: E2B's command line parses each `line` as a JSON object that has a `level`. */
export const sandboxLogsV1 = z.strictObject({
  logs: z.array(z.strictObject({ timestamp: instant, line: z.string() })),
  logEntries: z.array(sandboxLogEntry),
});

export const sandboxLogs = z.strictObject({ logs: z.array(sandboxLogEntry) });

export const EVENT_TYPES = EVENT_KINDS.map((kind) => `sandbox.lifecycle.${kind}` as const);
export const eventType = z.enum(EVENT_TYPES);

export const lifecycleEvent = z.strictObject({
  id: z.uuid(),
  version: z.literal('v2'),
  type: eventType,
  timestamp: instant,
  event_category: z.literal('lifecycle'),
  event_label: z.enum(['create', 'update', 'pause', 'resume', 'checkpoint', 'kill']),
  event_data: z.record(z.string(), z.unknown()),
  sandbox_id: z.string(),
  sandbox_execution_id: z.string(),
  sandbox_template_id: z.string(),
  sandbox_build_id: z.string(),
  sandbox_team_id: z.string(),
});

export const webhook = z.strictObject({
  id: z.uuid(),
  teamID: z.uuid(),
  name: z.string(),
  url: z.string(),
  enabled: z.boolean(),
  events: z.array(eventType),
  createdAt: instant,
});

/** The secret is shown this once, when it was not the client's own. */
export const createdWebhook = webhook.extend({ signatureSecret: z.string().optional() });

export const webhookDelivery = z.strictObject({
  id: z.uuid(),
  eventID: z.uuid(),
  type: eventType,
  state: z.enum(['pending', 'delivered', 'dead']),
  attempts: z.int().min(0),
  createdAt: instant,
  /** Of the last attempt. */
  status: z.int().nullable(),
  error: z.string().nullable(),
});

export const queuedDelivery = z.strictObject({ id: z.uuid() });

export type WireMetric = z.infer<typeof sandboxMetric>;
export type WireLogEntry = z.infer<typeof sandboxLogEntry>;
export type WireLogsV1 = z.infer<typeof sandboxLogsV1>;
export type WireEvent = z.infer<typeof lifecycleEvent>;
export type WireEventType = z.infer<typeof eventType>;
export type WireWebhook = z.infer<typeof webhook>;
export type WireDelivery = z.infer<typeof webhookDelivery>;
