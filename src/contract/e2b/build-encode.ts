/** The node's views of builds in E2B's JSON. */
import type { BuildLogLine, BuildTicket, BuildView } from '../build-api.ts';
import type { BuildInfo, BuildLogEntry, TemplateBuildTicket } from './build-responses.ts';

export function encodeTicket(ticket: BuildTicket): TemplateBuildTicket {
  const { templateID, buildID, name, tags } = ticket;
  return { templateID, buildID, public: ticket.public, names: [name], tags: [...tags], aliases: [name] };
}

export function encodeBuild({ templateID, buildID, status, reason, logs }: BuildView): BuildInfo {
  return {
    logs: logs.map(({ message }) => message),
    logEntries: logs.map(encodeLogLine),
    templateID,
    buildID,
    status,
    ...(reason === undefined ? {} : { reason: { ...reason, logEntries: [] } }),
  };
}

export function encodeLogLine({ atMs, level, message, step }: BuildLogLine): BuildLogEntry {
  return { timestamp: new Date(atMs).toISOString(), message, level, ...(step === undefined ? {} : { step }) };
}
