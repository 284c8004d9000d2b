/** What the agent may answer, checked: a sandbox can put anything on its channel. Unknown members are dropped. */
import { z } from 'zod';
import {
  type AgentMetrics,
  type ExitEvent,
  type FileEntry,
  HOOK_NAME,
  type HooksResult,
  type IdentityResult,
  MAX_HOOKS,
  type ProcessInfo,
  type WatchEvent,
} from './protocol.ts';
import { ProtocolError, parseJSON } from './stream.ts';

const text = z.string().max(65_536);
const whole = z.number().int().min(0).max(Number.MAX_SAFE_INTEGER);
const pid = z.number().int().min(1).max(0x7fffffff);
const textMap = z.record(z.string().max(65_536), z.string());

const fileEntry = z.object({
  name: text,
  path: text,
  type: z.enum(['file', 'directory', 'unknown']),
  size: whole,
  mode: z.number().int().min(0).max(0o7777),
  permissions: z.string().max(16),
  owner: z.string().max(256),
  group: z.string().max(256),
  // The range of a JavaScript Date.
  modifiedMs: z.number().min(-8.64e15).max(8.64e15),
  symlinkTarget: text.optional(),
  metadata: textMap.optional(),
}) satisfies z.ZodType<FileEntry>;

const processInfo = z.object({
  pid,
  cmd: z.string(),
  args: z.array(z.string()),
  env: textMap,
  cwd: text,
  user: z.string().max(256),
  tag: z.string().optional(),
  pty: z.boolean(),
  stdin: z.boolean(),
  service: z.boolean(),
}) satisfies z.ZodType<ProcessInfo>;

const exitEvent = z.object({
  event: z.literal('exit'),
  exitCode: z.number().int().min(-1).max(255),
  signal: z.string().max(64).optional(),
}) satisfies z.ZodType<ExitEvent>;

const identityResult = z.object({
  clockSkewMs: z.number().optional(),
  hostname: z.string().max(256),
  connections: z.object({ cut: whole, left: whole }).optional(),
}) satisfies z.ZodType<IdentityResult>;

const hooksResult = z.object({
  ran: z
    .array(
      z.object({
        name: z.string().regex(HOOK_NAME),
        exitCode: z.number().int().min(-1).max(255),
        ms: whole,
        failure: z.enum(['timeout', 'signal', 'start']).optional(),
      }),
    )
    .max(MAX_HOOKS),
  left: whole,
}) satisfies z.ZodType<HooksResult>;

const metrics = z.object({
  cpuCount: z.number().int().min(1).max(65_536),
  cpuUsedPct: z.number().min(0).max(100),
  memTotal: whole,
  memUsed: whole,
  memCache: whole,
  diskTotal: whole,
  diskUsed: whole,
}) satisfies z.ZodType<AgentMetrics>;

const watchEvent = z.object({
  event: z.enum(['create', 'write', 'remove', 'rename', 'chmod']),
  name: text,
  entry: fileEntry.optional(),
}) satisfies z.ZodType<WatchEvent>;

export const REPLIES = {
  nothing: z.object({}),
  identity: identityResult,
  synced: z.object({ synced: z.boolean() }),
  hooks: hooksResult,
  metrics,
  spawned: z.object({ pid }),
  process: processInfo,
  processes: z.object({ processes: z.array(processInfo).max(65_536) }),
  entry: z.object({ entry: fileEntry }),
  entries: z.object({ entries: z.array(fileEntry) }),
  exit: exitEvent,
  watch: watchEvent,
} as const;

/** Checks a parsed reply. Throws ProtocolError naming the first member that is wrong. */
export function checked<T>(shape: z.ZodType<T>, value: unknown): T {
  const result = shape.safeParse(value);
  if (result.success) return result.data;
  const issue = result.error.issues[0];
  throw new ProtocolError(`an answer of a wrong shape: ${issue?.path.join('.').slice(0, 200)} ${issue?.message}`);
}

export function checkedEvent<T>(shape: z.ZodType<T>, bytes: Buffer): T {
  return checked(shape, parseJSON(bytes.toString()));
}
