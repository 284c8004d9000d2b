/** What E2B's clients are told of templates that they build, as schemas; see responses.ts. */
import { z } from 'zod';
import { BUILD_STATUSES, LOG_LEVELS } from '../build-api.ts';

const instant = z.iso.datetime();
const names = z.array(z.string());

export const templateBuildTicket = z.strictObject({
  templateID: z.string(),
  buildID: z.string(),
  public: z.boolean(),
  names,
  tags: names,
  aliases: names,
});

export const buildFileLink = z.strictObject({ present: z.boolean(), url: z.url() });

const buildLogEntry = z.strictObject({
  timestamp: instant,
  message: z.string(),
  level: z.enum(LOG_LEVELS),
  step: z.string().optional(),
});

export const buildInfo = z.strictObject({
  logs: names,
  logEntries: z.array(buildLogEntry),
  templateID: z.string(),
  buildID: z.string(),
  status: z.enum(BUILD_STATUSES),
  reason: z
    .strictObject({ message: z.string(), step: z.string().optional(), logEntries: z.array(buildLogEntry) })
    .optional(),
});

export const buildLogs = z.strictObject({ logs: z.array(buildLogEntry) });
export const templateNames = z.strictObject({ names });
export const nothing = z.strictObject({});
export const assignedTags = z.strictObject({ tags: names, buildID: z.string() });
export const templateTags = z.array(z.strictObject({ tag: z.string(), buildID: z.string(), createdAt: instant }));

export type TemplateBuildTicket = z.infer<typeof templateBuildTicket>;
export type BuildFileLink = z.infer<typeof buildFileLink>;
export type BuildLogEntry = z.infer<typeof buildLogEntry>;
export type BuildInfo = z.infer<typeof buildInfo>;
export type BuildLogs = z.infer<typeof buildLogs>;
export type TemplateNames = z.infer<typeof templateNames>;
export type AssignedTags = z.infer<typeof assignedTags>;
export type TemplateTags = z.infer<typeof templateTags>;
