/** The node's metrics, log entries and events in E2B's JSON. */
import type { EventKind, LifecycleEvent, LogEntry, SandboxMetric } from '../node-api.ts';
import type { WireEvent, WireEventType, WireLogEntry, WireLogsV1, WireMetric } from './activity-responses.ts';

const LABELS = {
  created: 'create',
  updated: 'update',
  paused: 'pause',
  resumed: 'resume',
  checkpointed: 'checkpoint',
  killed: 'kill',
} as const satisfies Record<EventKind, string>;

export function encodeMetric({ atMs, ...rest }: SandboxMetric): WireMetric {
  return { timestamp: instant(atMs), timestampUnix: Math.floor(atMs / 1000), ...rest };
}

export function encodeLogEntry({ atMs, level, message, fields }: LogEntry): WireLogEntry {
  return { timestamp: instant(atMs), level, message, fields: { ...fields } };
}

export function encodeLogsV1(entries: readonly LogEntry[]): WireLogsV1 {
  const lineOf = ({ level, message, fields }: LogEntry): string =>
    JSON.stringify({ logger: '', ...fields, message, level: level.toUpperCase() });
  return {
    logs: entries.map((entry) => ({ timestamp: instant(entry.atMs), line: lineOf(entry) })),
    logEntries: entries.map(encodeLogEntry),
  };
}

export const eventTypeOf = (kind: EventKind): WireEventType => `sandbox.lifecycle.${kind}`;

export const eventKindOf = (type: WireEventType): EventKind => type.slice('sandbox.lifecycle.'.length) as EventKind;

export function encodeEvent(event: LifecycleEvent): WireEvent {
  return {
    id: event.id,
    version: 'v2',
    type: eventTypeOf(event.kind),
    timestamp: instant(event.atMs),
    event_category: 'lifecycle',
    event_label: LABELS[event.kind],
    event_data: { ...event.data },
    sandbox_id: event.sandboxID,
    sandbox_execution_id: event.generation,
    sandbox_template_id: event.templateID,
    sandbox_build_id: event.buildID,
    sandbox_team_id: event.teamID,
  };
}

function instant(ms: number): string {
  return new Date(ms).toISOString();
}
