/** Rows: what a program sees that uses the official packages, the whole client side included. */
import { Sandbox as CodeSandbox } from '@e2b/code-interpreter';
import { Sandbox } from 'e2b';
import { WARM_UP } from './creates.ts';
import type { RigService } from './service.ts';
import { type Summary, summarize } from './statistics.ts';

export interface Echoes {
  readonly create_to_first_echo_ms: Summary;
  readonly create_ms: Summary;
  readonly first_echo_ms: Summary;
  readonly second_echo_ms: Summary;
}

export interface CodeRuns {
  readonly first_run_code_ms: Summary;
  readonly warm_run_code_ms: Summary;
}

interface RowOptions {
  readonly template: string;
  readonly n: number;
  /** Entries that must stand before each create; 0 for misses. */
  readonly hot: number;
  readonly signal: AbortSignal;
}

const TIMEOUT_MS = 60_000;
/** Warm runs in each sandbox. */
const RUNS = 10;

export async function measureEchoes(service: RigService, options: RowOptions): Promise<Echoes> {
  const { template, n, hot, signal } = options;
  const rows = { both: [] as number[], create: [] as number[], first: [] as number[], second: [] as number[] };
  for (let round = -WARM_UP; round < n; round++) {
    signal.throwIfAborted();
    if (hot > 0) await service.untilHot(hot);
    const begun = performance.now();
    const sandbox = await Sandbox.create(template, { ...service.sdk, timeoutMs: TIMEOUT_MS });
    const created = performance.now();
    const first = await sandbox.commands.run('echo first');
    const firstDone = performance.now();
    const second = await sandbox.commands.run('echo second');
    const secondDone = performance.now();
    if (first.stdout !== 'first\n' || second.stdout !== 'second\n')
      throw new Error(`echo answered ${JSON.stringify([first.stdout, second.stdout])}`);
    if (round >= 0) {
      rows.both.push(firstDone - begun);
      rows.create.push(created - begun);
      rows.first.push(firstDone - created);
      rows.second.push(secondDone - firstDone);
    }
    await sandbox.kill();
  }
  return {
    create_to_first_echo_ms: summarize(rows.both),
    create_ms: summarize(rows.create),
    first_echo_ms: summarize(rows.first),
    second_echo_ms: summarize(rows.second),
  };
}

export async function measureCode(service: RigService, options: RowOptions): Promise<CodeRuns> {
  const { template, n, hot, signal } = options;
  const firsts: number[] = [];
  const warm: number[] = [];
  for (let round = -WARM_UP; round < n; round++) {
    signal.throwIfAborted();
    if (hot > 0) await service.untilHot(hot);
    const sandbox = await CodeSandbox.create(template, { ...service.sdk, timeoutMs: TIMEOUT_MS });
    const run = async (value: number): Promise<number> => {
      const begun = performance.now();
      const { text } = await sandbox.runCode(`${value} + 1`);
      const took = performance.now() - begun;
      if (text !== String(value + 1)) throw new Error(`the interpreter answered ${text} to ${value} + 1`);
      return took;
    };
    const first = await run(0);
    if (round >= 0) firsts.push(first);
    for (let value = 1; value <= RUNS; value++) {
      const took = await run(value);
      if (round >= 0) warm.push(took);
    }
    await sandbox.kill();
  }
  return { first_run_code_ms: summarize(firsts), warm_run_code_ms: summarize(warm) };
}
