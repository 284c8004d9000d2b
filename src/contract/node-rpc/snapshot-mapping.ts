/** What node.proto says of snapshots and forks, to and from the types of node-api.ts. */
import { create, type MessageInitShape } from '@bufbuild/protobuf';
import { ERRORS, type ErrorCode } from '../errors.ts';
import {
  type ForkResponse,
  type ForkResponseSchema,
  type ListSnapshotsRequest as ListSnapshotsMessage,
  ListSnapshotsRequestSchema,
  type Snapshot as SnapshotMessage,
  type SnapshotPosition as SnapshotPositionMessage,
  type SnapshotSchema,
} from '../gen/node_pb.js';
import {
  type ForkOutcome,
  type ForkResult,
  ISOLATIONS,
  type ListSnapshotsQuery,
  type SnapshotPosition,
  type SnapshotView,
} from '../node-api.ts';
import { failureText } from './failure.ts';
import {
  malformed,
  oneOf,
  receiptFromMessage,
  receiptToMessage,
  sandboxFromMessage,
  sandboxToMessage,
} from './mapping.ts';

export function snapshotQueryToMessage(query: ListSnapshotsQuery): ListSnapshotsMessage {
  return create(ListSnapshotsRequestSchema, {
    teamId: query.teamID,
    limit: query.limit,
    ...(query.sourceID === undefined ? {} : { sourceId: query.sourceID }),
    ...(query.name === undefined ? {} : { name: query.name }),
    ...(query.after === undefined ? {} : { after: snapshotPositionToMessage(query.after) }),
  });
}

export function snapshotQueryFromMessage(message: ListSnapshotsMessage): ListSnapshotsQuery {
  return {
    teamID: message.teamId,
    limit: message.limit,
    ...(message.sourceId === undefined ? {} : { sourceID: message.sourceId }),
    ...(message.name === undefined ? {} : { name: message.name }),
    ...(message.after === undefined ? {} : { after: snapshotPositionFromMessage(message.after) }),
  };
}

export function snapshotToMessage(view: SnapshotView): MessageInitShape<typeof SnapshotSchema> {
  return {
    snapshotId: view.snapshotID,
    names: [...view.names],
    templateId: view.templateID,
    buildId: view.buildID,
    sourceId: view.sourceID,
    isolation: view.isolation,
    memory: view.memory,
    parentId: view.parentID,
    ownBytes: view.ownBytes,
    sharedBytes: view.sharedBytes,
    createdAtMs: view.createdAtMs,
    cpuCount: view.shape.cpuCount,
    memoryMb: view.shape.memoryMB,
    diskSizeMb: view.shape.diskSizeMB,
  };
}

export function snapshotFromMessage(message: SnapshotMessage | undefined): SnapshotView {
  if (message === undefined) throw malformed('snapshot');
  return {
    snapshotID: message.snapshotId,
    names: message.names,
    templateID: message.templateId,
    buildID: message.buildId,
    sourceID: message.sourceId,
    isolation: oneOf(message.isolation, ISOLATIONS, 'isolation'),
    memory: message.memory,
    parentID: message.parentId,
    ownBytes: message.ownBytes,
    sharedBytes: message.sharedBytes,
    createdAtMs: message.createdAtMs,
    shape: { cpuCount: message.cpuCount, memoryMB: message.memoryMb, diskSizeMB: message.diskSizeMb },
  };
}

export function snapshotPositionToMessage(position: SnapshotPosition): { createdAtMs: number; buildId: string } {
  return { createdAtMs: position.createdAtMs, buildId: position.buildID };
}

export function snapshotPositionFromMessage(message: SnapshotPositionMessage): SnapshotPosition {
  return { createdAtMs: message.createdAtMs, buildID: message.buildId };
}

export function forkResultToMessage({ forks, receipt }: ForkResult): MessageInitShape<typeof ForkResponseSchema> {
  return {
    forks: forks.map((one) => ({
      outcome:
        'sandbox' in one
          ? { case: 'sandbox', value: sandboxToMessage(one.sandbox) }
          : { case: 'error', value: { code: one.error.code, message: failureText(one.error.message) } },
    })),
    receipt: receiptToMessage(receipt),
  };
}

export function forkResultFromMessage(message: ForkResponse): ForkResult {
  return {
    forks: message.forks.map(({ outcome }) => forkFromMessage(outcome)),
    receipt: receiptFromMessage(message.receipt),
  };
}

function forkFromMessage(outcome: ForkResponse['forks'][number]['outcome']): ForkOutcome {
  if (outcome.case === 'sandbox') return { sandbox: sandboxFromMessage(outcome.value) };
  if (outcome.case !== 'error' || !Object.hasOwn(ERRORS, outcome.value.code)) throw malformed('fork');
  const { code, message } = outcome.value;
  return { error: { code: code as ErrorCode, message } };
}
