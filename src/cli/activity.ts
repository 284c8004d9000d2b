/** `coppice sandbox metrics` and `coppice sandbox logs`: what a sandbox uses, and what happened to it and in it. */
import { setTimeout as sleep } from 'node:timers/promises';
import { styleText } from 'node:util';
import { Sandbox } from 'e2b';
import type { WireLogEntry } from '../contract/e2b/activity-responses.ts';
import type { LogLevel } from '../contract/node-api.ts';
import { ask } from './ask.ts';
import { bytes, type OutputOptions, print, table } from './report.ts';
import { connection } from './sandbox.ts';

/** As often as E2B's command line. */
const FOLLOW_MS = 400;
const PAGE = 1000;
const COLOURS = { debug: 'dim', info: 'green', warn: 'yellow', error: 'red' } as const satisfies Record<
  LogLevel,
  string
>;

export async function metrics(id: string, options: OutputOptions & { readonly last?: number }): Promise<void> {
  const all = await Sandbox.getMetrics(id, connection());
  const found = options.last === undefined ? all : all.slice(-options.last);
  print(options, found, () =>
    table(
      ['TIME', 'CPU', 'MEMORY', 'CACHE', 'DISK'],
      found.map((one) => [
        one.timestamp.toISOString(),
        `${one.cpuUsedPct.toFixed(1)} % of ${one.cpuCount}`,
        `${bytes(one.memUsed)} of ${bytes(one.memTotal)}`,
        bytes(one.memCache),
        `${bytes(one.diskUsed)} of ${bytes(one.diskTotal)}`,
      ]),
    ),
  );
}

export interface LogsOptions extends OutputOptions {
  readonly follow?: boolean;
  readonly level: LogLevel;
}

/** With `follow` until the sandbox is gone and all of its log is told. */
export async function logs(id: string, { follow, level, json }: LogsOptions): Promise<void> {
  const path = `/v2/sandboxes/${encodeURIComponent(id)}/logs?direction=forward&limit=${PAGE}&level=${level}`;
  for (let cursor = 0, over = false; ; ) {
    const { body } = await ask('GET', `${path}&cursor=${cursor}`);
    const page = (body as { logs: WireLogEntry[] }).logs;
    for (const entry of page) process.stdout.write(`${json ? JSON.stringify(entry) : draw(entry)}\n`);
    const last = page.at(-1);
    if (last) {
      cursor = Date.parse(last.timestamp) + 1;
      continue;
    }
    if (!follow || over) return;
    // What is told between this question and the next is the end of it.
    over = !(await isThere(id));
    await sleep(FOLLOW_MS);
  }
}

async function isThere(id: string): Promise<boolean> {
  return Sandbox.getInfo(id, connection()).then(
    () => true,
    () => false,
  );
}

function draw({ timestamp, level, message, fields }: WireLogEntry): string {
  const { logger: _, ...rest } = fields;
  const told = Object.entries(rest).map(([name, value]) => `${name}=${value}`);
  const label = styleText(COLOURS[level], level.toUpperCase().padEnd(5));
  return [styleText('dim', timestamp), label, message, styleText('dim', told.join(' '))].join(' ').trimEnd();
}
