/** What node.proto says of metrics, logs and events, to and from the types of node-api.ts. */
import { create, type MessageInitShape } from '@bufbuild/protobuf';
import {
  type Event as EventMessage,
  type EventSchema,
  type EventsRequest as EventsMessage,
  EventsRequestSchema,
  type LogEntry as LogEntryMessage,
  type LogEntrySchema,
  type LogsRequest as LogsMessage,
  LogsRequestSchema,
  type Metric as MetricMessage,
  type MetricSchema,
} from '../gen/node_pb.js';
import {
  EVENT_KINDS,
  type EventsQuery,
  type LifecycleEvent,
  LOG_LEVELS,
  type LogEntry,
  type LogsQuery,
  type SandboxMetric,
} from '../node-api.ts';
import { fromPairs, malformed, oneOf, toPairs } from './mapping.ts';

export function metricToMessage(metric: SandboxMetric): MessageInitShape<typeof MetricSchema> {
  return { ...metric };
}

export function metricFromMessage(message: MetricMessage | undefined): SandboxMetric {
  if (message === undefined) throw malformed('metric');
  const { $typeName: _, $unknown: __, ...metric } = message;
  return metric;
}

export function logsQueryToMessage(query: LogsQuery): LogsMessage {
  const { teamID: teamId, sandboxID: sandboxId, ...rest } = query;
  return create(LogsRequestSchema, { teamId, sandboxId, ...rest });
}

export function logsQueryFromMessage(message: LogsMessage): LogsQuery {
  const { teamId: teamID, sandboxId: sandboxID, limit, cursorMs, search } = message;
  return {
    teamID,
    sandboxID,
    direction: oneOf(message.direction, ['forward', 'backward'] as const, 'direction'),
    limit,
    ...(cursorMs === undefined ? {} : { cursorMs }),
    ...(message.level === undefined ? {} : { level: oneOf(message.level, LOG_LEVELS, 'level') }),
    ...(search === undefined ? {} : { search }),
  };
}

export function logEntryToMessage(entry: LogEntry): MessageInitShape<typeof LogEntrySchema> {
  return { ...entry, fields: toPairs(entry.fields) };
}

export function logEntryFromMessage({ atMs, level, message, fields }: LogEntryMessage): LogEntry {
  return { atMs, level: oneOf(level, LOG_LEVELS, 'level'), message, fields: fromPairs(fields) };
}

export function eventsQueryToMessage(query: EventsQuery): EventsMessage {
  const { teamID: teamId, sandboxID: sandboxId, kinds = [], ...rest } = query;
  return create(EventsRequestSchema, {
    ...rest,
    kinds: [...kinds],
    ...(teamId === undefined ? {} : { teamId }),
    ...(sandboxId === undefined ? {} : { sandboxId }),
  });
}

export function eventsQueryFromMessage(message: EventsMessage): EventsQuery {
  const { teamId, sandboxId, id, kinds, after, offset, waitMs } = message;
  return {
    order: oneOf(message.order, ['asc', 'desc'] as const, 'order'),
    limit: message.limit,
    ...(teamId === undefined ? {} : { teamID: teamId }),
    ...(sandboxId === undefined ? {} : { sandboxID: sandboxId }),
    ...(id === undefined ? {} : { id }),
    ...(kinds.length === 0 ? {} : { kinds: kinds.map((kind) => oneOf(kind, EVENT_KINDS, 'kinds')) }),
    ...(after === undefined ? {} : { after }),
    ...(offset === undefined ? {} : { offset }),
    ...(waitMs === undefined ? {} : { waitMs }),
  };
}

export function eventToMessage(event: LifecycleEvent): MessageInitShape<typeof EventSchema> {
  const { teamID: teamId, sandboxID: sandboxId, templateID: templateId, buildID: buildId, data, ...rest } = event;
  return { ...rest, teamId, sandboxId, templateId, buildId, data: JSON.stringify(data) };
}

export function eventFromMessage(message: EventMessage): LifecycleEvent {
  const { id, position, atMs, generation } = message;
  return {
    id,
    position,
    kind: oneOf(message.kind, EVENT_KINDS, 'kind'),
    atMs,
    teamID: message.teamId,
    sandboxID: message.sandboxId,
    generation,
    templateID: message.templateId,
    buildID: message.buildId,
    data: JSON.parse(message.data) as LifecycleEvent['data'],
  };
}
