/** Flows of the load rig: what a program does with a sandbox, over and over, by the official SDK. */
import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { Sandbox } from 'e2b';
import type { RigService } from './service.ts';

export const STAGES = ['create', 'exec', 'write', 'read', 'kill'] as const;
export type Stage = (typeof STAGES)[number];

export interface Failure {
  /** Seconds since the flows began. */
  readonly at_s: number;
  readonly stage: Stage;
  readonly message: string;
}

export interface FlowsResult {
  readonly seconds: number;
  readonly succeeded: number;
  readonly failures: readonly Failure[];
  /** ms, of flows that succeeded and of stages before a failure. */
  readonly times: Readonly<Record<Stage | 'flow', readonly number[]>>;
}

export interface FlowsOptions {
  readonly template: string;
  /** At once. */
  readonly flows: number;
  /** A flow that has begun by then is gone through to its end. */
  readonly seconds: number;
  readonly signal: AbortSignal;
}

/** A sandbox outlives a flow that failed by this much at most. */
const TIMEOUT_MS = 120_000;
const FILE_BYTES = 4096;
/** After a failure: what refuses at once is not to be asked thousands of times. */
const BACK_OFF_MS = 250;

export async function runFlows({ sdk }: RigService, options: FlowsOptions): Promise<FlowsResult> {
  const { template, flows, seconds, signal } = options;
  const times = Object.fromEntries([...STAGES, 'flow'].map((name) => [name, []])) as unknown as Record<
    Stage | 'flow',
    number[]
  >;
  const failures: Failure[] = [];
  let succeeded = 0;
  const begun = performance.now();

  const flow = async (): Promise<void> => {
    let stage: Stage = 'create';
    let sandbox: Sandbox | undefined;
    const timed = async <T>(name: Stage, work: () => Promise<T>): Promise<T> => {
      stage = name;
      const from = performance.now();
      const value = await work();
      times[name].push(performance.now() - from);
      return value;
    };
    const from = performance.now();
    try {
      const made = await timed('create', () => Sandbox.create(template, { ...sdk, timeoutMs: TIMEOUT_MS }));
      sandbox = made;
      const word = randomBytes(8).toString('hex');
      const { stdout } = await timed('exec', () => made.commands.run(`echo ${word}`));
      demand(stdout === `${word}\n`, `echo answered ${JSON.stringify(stdout.slice(0, 100))}`);
      const text = randomBytes(FILE_BYTES / 2).toString('hex');
      await timed('write', () => made.files.write('load.txt', text));
      const found = await timed('read', () => made.files.read('load.txt'));
      demand(found === text, 'the file is not what was written');
      sandbox = undefined;
      demand(await timed('kill', () => made.kill()), 'there was nothing to kill');
      times.flow.push(performance.now() - from);
      succeeded += 1;
    } catch (error) {
      const { name, message } = error as Error;
      failures.push({ at_s: Math.round((performance.now() - begun) / 1000), stage, message: `${name}: ${message}` });
      await sandbox?.kill().catch(() => {});
      await sleep(BACK_OFF_MS);
    }
  };
  const worker = async (): Promise<void> => {
    while (performance.now() - begun < seconds * 1000 && !signal.aborted) await flow();
  };
  await Promise.all(Array.from({ length: flows }, worker));
  signal.throwIfAborted();
  return { seconds: (performance.now() - begun) / 1000, succeeded, failures, times };
}

function demand(holds: boolean, otherwise: string): void {
  if (!holds) throw new Error(otherwise);
}
