/** Templates that teams build, between build-api.ts and the wire. */
import type { MessageInitShape } from '@bufbuild/protobuf';
import {
  BUILD_STATUSES,
  type BuildLogLine,
  type BuildLogQuery,
  type BuildTicket,
  type BuildView,
  type BuildWish,
  LOG_LEVELS,
  type TemplateTag,
} from '../build-api.ts';
import type {
  BuildLogLineSchema,
  BuildLogQuerySchema,
  Build as BuildMessage,
  BuildSchema,
  BuildTicketSchema,
  BuildWishSchema,
  BuildLogLine as LineMessage,
  BuildLogQuery as QueryMessage,
  BuildTicket as TicketMessage,
  BuildWish as WishMessage,
} from '../gen/node_pb.js';
import { oneOf } from './mapping.ts';

const DIRECTIONS = ['forward', 'backward'] as const;

export function wishToMessage(wish: BuildWish): MessageInitShape<typeof BuildWishSchema> {
  const { teamID, name, tags, cpuCount, memoryMB, freeDiskMB } = wish;
  return {
    teamId: teamID,
    name,
    tags: [...tags],
    ...(cpuCount === undefined ? {} : { cpuCount }),
    ...(memoryMB === undefined ? {} : { memoryMb: memoryMB }),
    ...(freeDiskMB === undefined ? {} : { freeDiskMb: freeDiskMB }),
  };
}

export function wishFromMessage(message: WishMessage): BuildWish {
  const { teamId, name, tags, cpuCount, memoryMb, freeDiskMb } = message;
  return {
    teamID: teamId,
    name,
    tags,
    ...(cpuCount === undefined ? {} : { cpuCount }),
    ...(memoryMb === undefined ? {} : { memoryMB: memoryMb }),
    ...(freeDiskMb === undefined ? {} : { freeDiskMB: freeDiskMb }),
  };
}

export function ticketToMessage(ticket: BuildTicket): MessageInitShape<typeof BuildTicketSchema> {
  const { templateID, buildID, name, tags } = ticket;
  return { templateId: templateID, buildId: buildID, name, tags: [...tags], public: ticket.public };
}

export function ticketFromMessage(message: TicketMessage): BuildTicket {
  const { templateId, buildId, name, tags } = message;
  return { templateID: templateId, buildID: buildId, name, tags, public: message.public };
}

export function logQueryToMessage(query: BuildLogQuery): MessageInitShape<typeof BuildLogQuerySchema> {
  const { teamID, templateID, buildID, offset, limit, level, direction, cursorMs } = query;
  return {
    teamId: teamID,
    templateId: templateID,
    buildId: buildID,
    offset,
    limit,
    ...(level === undefined ? {} : { level }),
    ...(direction === undefined ? {} : { direction }),
    ...(cursorMs === undefined ? {} : { cursorMs }),
  };
}

export function logQueryFromMessage(message: QueryMessage): BuildLogQuery {
  const { teamId, templateId, buildId, offset, limit, level, direction, cursorMs } = message;
  return {
    teamID: teamId,
    templateID: templateId,
    buildID: buildId,
    offset,
    limit,
    ...(level === undefined ? {} : { level: oneOf(level, LOG_LEVELS, 'level') }),
    ...(direction === undefined ? {} : { direction: oneOf(direction, DIRECTIONS, 'direction') }),
    ...(cursorMs === undefined ? {} : { cursorMs }),
  };
}

export function buildToMessage(view: BuildView): MessageInitShape<typeof BuildSchema> {
  const { templateID, buildID, status, reason, logs } = view;
  return {
    templateId: templateID,
    buildId: buildID,
    status,
    ...(reason === undefined ? {} : { reason: { ...reason } }),
    logs: logs.map(lineToMessage),
  };
}

export function buildFromMessage(message: BuildMessage): BuildView {
  const { templateId, buildId, status, reason, logs } = message;
  return {
    templateID: templateId,
    buildID: buildId,
    status: oneOf(status, BUILD_STATUSES, 'status'),
    ...(reason === undefined
      ? {}
      : { reason: { message: reason.message, ...(reason.step === undefined ? {} : { step: reason.step }) } }),
    logs: logs.map(lineFromMessage),
  };
}

function lineToMessage({ atMs, level, message, step }: BuildLogLine): MessageInitShape<typeof BuildLogLineSchema> {
  return { atMs, level, message, ...(step === undefined ? {} : { step }) };
}

function lineFromMessage({ atMs, level, message, step }: LineMessage): BuildLogLine {
  return { atMs, level: oneOf(level, LOG_LEVELS, 'level'), message, ...(step === undefined ? {} : { step }) };
}

export function tagFromMessage(message: { tag: string; buildId: string; createdAtMs: number }): TemplateTag {
  return { tag: message.tag, buildID: message.buildId, createdAtMs: message.createdAtMs };
}
