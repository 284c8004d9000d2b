/** Control's side of the node RPC: a NodeApi over a unix socket. */
import { Agent } from 'node:http';
import { type CallOptions, createClient } from '@connectrpc/connect';
import { createConnectTransport } from '@connectrpc/connect-node';
import { CoppiceError } from '../errors.ts';
import { NodeService } from '../gen/node_pb.js';
import type { NodeApi } from '../node-api.ts';
import { fromConnectError } from './failure.ts';
import {
  demandWellFormed,
  positionFromMessage,
  queryToMessage,
  receiptFromMessage,
  requestToMessage,
  sandboxFromMessage,
  templateFromMessage,
} from './mapping.ts';
import { MAX_ANSWER_BYTES, MAX_REQUEST_BYTES } from './server.ts';

export interface NodeRpcClientOptions {
  /** Milliseconds for a call; default 60 000. */
  readonly timeoutMs?: number;
  /** Milliseconds for calls that may start a machine; default 180 000. */
  readonly startTimeoutMs?: number;
}

/** Idle connections kept, and for how long (ms). */
const MAX_IDLE = 32;
const IDLE_MS = 30_000;

/**
 * @param socketPath the node's unix socket; connected at the first call, and again after the node was away
 * @returns the node's API. Every failure is a CoppiceError: the node's own, `unavailable` when it does not answer,
 *   `aborted` when the signal or the time limit ended the call. Calls are never repeated.
 */
export function connectNodeApi(socketPath: string, options: NodeRpcClientOptions = {}): NodeApi & { close(): void } {
  const agent = new Agent({ keepAlive: true, maxFreeSockets: MAX_IDLE, timeout: IDLE_MS, scheduling: 'lifo' });
  const client = createClient(
    NodeService,
    createConnectTransport({
      baseUrl: 'http://node',
      httpVersion: '1.1',
      nodeOptions: { agent, socketPath },
      useBinaryFormat: true,
      acceptCompression: [],
      readMaxBytes: MAX_ANSWER_BYTES,
      writeMaxBytes: MAX_REQUEST_BYTES,
    }),
  );
  const closing = new AbortController();
  const call = async <T>(
    request: unknown,
    send: (options: CallOptions) => Promise<T>,
    timeoutMs: number,
    signal?: AbortSignal,
  ): Promise<T> => {
    if (closing.signal.aborted) throw new CoppiceError('unavailable', 'the connection to the node is closed');
    demandWellFormed(request);
    try {
      return await send({
        timeoutMs,
        signal: signal === undefined ? closing.signal : AbortSignal.any([signal, closing.signal]),
      });
    } catch (error) {
      throw fromConnectError(error);
    }
  };
  const usual = options.timeoutMs ?? 60_000;
  const start = options.startTimeoutMs ?? 180_000;

  return {
    async createSandbox(request, signal) {
      const answer = await call(request, (how) => client.createSandbox(requestToMessage(request), how), start, signal);
      return { sandbox: sandboxFromMessage(answer.sandbox), receipt: receiptFromMessage(answer.receipt) };
    },
    async getSandbox(teamID, sandboxID) {
      const ids = { teamId: teamID, sandboxId: sandboxID };
      return sandboxFromMessage((await call(ids, (how) => client.getSandbox(ids, how), usual)).sandbox);
    },
    async listSandboxes(query) {
      const answer = await call(query, (how) => client.listSandboxes(queryToMessage(query), how), usual);
      return {
        sandboxes: answer.sandboxes.map(sandboxFromMessage),
        ...(answer.next === undefined ? {} : { next: positionFromMessage(answer.next) }),
        totalRunning: answer.totalRunning,
      };
    },
    async connectSandbox(teamID, sandboxID, timeoutSeconds) {
      const request = { teamId: teamID, sandboxId: sandboxID, timeoutSeconds };
      const answer = await call(request, (how) => client.connectSandbox(request, how), start);
      return { sandbox: sandboxFromMessage(answer.sandbox), resumed: answer.resumed };
    },
    async setSandboxTimeout(teamID, sandboxID, timeoutSeconds) {
      const request = { teamId: teamID, sandboxId: sandboxID, timeoutSeconds };
      await call(request, (how) => client.setSandboxTimeout(request, how), usual);
    },
    async killSandbox(teamID, sandboxID) {
      const ids = { teamId: teamID, sandboxId: sandboxID };
      await call(ids, (how) => client.killSandbox(ids, how), usual);
    },
    async listTemplates() {
      return (await call({}, (how) => client.listTemplates({}, how), usual)).templates.map(templateFromMessage);
    },
    async status() {
      const { $typeName: _, $unknown: __, ...status } = await call({}, (how) => client.status({}, how), usual);
      return status;
    },
    async leaks() {
      const { $typeName: _, $unknown: __, ...leaks } = await call({}, (how) => client.leaks({}, how), usual);
      return leaks;
    },
    close() {
      closing.abort();
      agent.destroy();
    },
  };
}
