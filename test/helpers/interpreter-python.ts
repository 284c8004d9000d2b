/** The interpreter's programs on this host: where they are, whether this host can run them, and a pipe to drive them. */
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { type KernelSpec, type KernelSpecs, kernelSpecs } from '../../src/envd/interpreter/index.ts';

const PROGRAM = fileURLToPath(new URL('../../guest/interpreter/main.py', import.meta.url));
const PYTHON = '/usr/bin/python3';
export const KERNELS: KernelSpecs = { python: { cmd: PYTHON, args: [PROGRAM], warmArgs: ['--warm'] } };

/** Every language, as its program runs on this host. */
export const HOST_KERNELS = kernelSpecs({
  python: PYTHON,
  programs: path.dirname(PROGRAM),
  scripts: 'ts',
  node: [process.execPath],
});

/** False, or why tests that need this program must be skipped here. */
export function lacksProgram(file: string): false | string {
  return fs.existsSync(file) ? false : `${file} is not on this host`;
}

/** False, or why tests that need these modules must be skipped here. */
export function lacks(...modules: string[]): false | string {
  const done = spawnSync(PYTHON, ['-c', modules.map((name) => `import ${name}`).join('\n')]);
  return done.status === 0 ? false : `${PYTHON} cannot import all of: ${modules.join(', ')}`;
}

/** A value that a program printed as JSON: each test says what it must be. */
// biome-ignore lint/suspicious/noExplicitAny: a type here would only repeat the tests.
export type Loose = any;

export type Event = { readonly type: string; readonly id?: string } & Record<string, Loose>;

export interface Driver {
  readonly pid: number;
  /** Runs a cell; parts of results are put together. */
  run(code: string, more?: Record<string, unknown>): Promise<Event[]>;
  send(request: Record<string, unknown>): void;
  raw(bytes: string): void;
  next(): Promise<Event>;
  stop(): Promise<void>;
}

/** Starts the Python program and waits until it is ready. */
export function drive(options: { readonly args?: readonly string[]; readonly cwd: string }): Promise<Driver> {
  return driveKernel({ cmd: PYTHON, args: [PROGRAM, ...(options.args ?? [])] }, options.cwd);
}

/** A run that is interrupted after so many milliseconds, as the host would, and again every so many until it ends. */
export async function runInterrupted(
  { pid, run }: Pick<Driver, 'pid' | 'run'>,
  firstMs: number,
  code: string,
  more: Record<string, unknown> = {},
  everyMs = firstMs,
): Promise<Event[]> {
  const done = run(code, more);
  let timer = setTimeout(interrupt, firstMs);
  function interrupt(): void {
    process.kill(-pid, 'SIGINT');
    timer = setTimeout(interrupt, everyMs);
  }
  try {
    return await done;
  } finally {
    clearTimeout(timer);
  }
}

/** Starts a program and waits until it is ready. */
export async function driveKernel(spec: KernelSpec, cwd: string): Promise<Driver> {
  const env = { PATH: process.env.PATH, HOME: cwd, LANG: 'C.UTF-8' };
  const child = spawn(spec.cmd, spec.args, { cwd, env, detached: true });
  let stderr = '';
  child.stderr.on('data', (bytes) => {
    stderr += String(bytes);
  });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const next = async (): Promise<Event> => {
    const { value, done } = await lines.next();
    if (done) throw new Error(`the program ended: ${stderr}`);
    return JSON.parse(value);
  };
  const send = (request: Record<string, unknown>): void => void child.stdin.write(`${JSON.stringify(request)}\n`);
  const first = await next();
  if (first.type !== 'ready') throw new Error(`not ready: ${JSON.stringify(first)}`);
  let runs = 0;
  return {
    pid: child.pid!,
    send,
    next,
    raw: (bytes) => void child.stdin.write(bytes),
    async run(code, more = {}) {
      runs += 1;
      const id = `run-${runs}`;
      send({ op: 'execute', id, code, ...more });
      const events: Event[] = [];
      let parts: Record<string, string> = {};
      for (;;) {
        const event = await next();
        if (event.id !== id) continue;
        if (event.type === 'part') parts[event.field] = (parts[event.field] ?? '') + event.text;
        else if (event.type === 'result') {
          events.push({ ...event, fields: { ...event.fields, ...parts } });
          parts = {};
        } else events.push(event);
        if (event.type === 'end_of_execution') return events;
      }
    },
    async stop() {
      if (child.exitCode !== null || child.signalCode !== null) return;
      const gone = once(child, 'close');
      process.kill(-child.pid!, 'SIGKILL');
      await gone;
    },
  };
}

export const texts = (events: readonly Event[], type: string): string =>
  events
    .filter((event) => event.type === type)
    .map((event) => event.text)
    .join('');
export const results = (events: readonly Event[]): Event[] => events.filter((event) => event.type === 'result');
export const errorOf = (events: readonly Event[]): Event | undefined => events.find((event) => event.type === 'error');
