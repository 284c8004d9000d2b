/**
 * What the processes of a sandbox do, told line by line as envd sees it: their starts, what they write while somebody follows
 * them, their ends. Never their input, their environment, or what a terminal shows, which is both.
 */
import type { ProcessOutput } from '../channel/agent.ts';
import { type DataKind, KIND } from '../channel/protocol.ts';
import type { Spawn } from './process-hub.ts';
import { createRedactor } from './redact.ts';
import type { EnvdSandbox } from './sandbox.ts';

export interface ProcessNotes {
  /** Told whatever else is. */
  note(level: 'info' | 'warn', message: string, fields: Readonly<Record<string, string>>): void;
  /** A line of output; there may be too many. */
  line(level: 'info' | 'warn', message: string, fields: Readonly<Record<string, string>>): void;
}

/** Characters of one line that are told. */
const LINE = 4_096;
/** And that are looked at, so that what is to be taken out is not cut in two. */
const LOOKED_AT = 4 * LINE;
const COMMAND = 1_024;
const LOGGER = { logger: 'process' };

/** undefined: nobody wants to know. */
export function overhear(
  sandbox: EnvdSandbox,
  pid: number,
  request: Spawn | undefined,
): ((item: ProcessOutput) => void) | undefined {
  const { notes, accessToken } = sandbox;
  if (!notes) return undefined;
  const redact = createRedactor([sandbox.env, request?.env ?? {}], accessToken === undefined ? [] : [accessToken]);
  const fields = { ...LOGGER, pid: String(pid) };
  if (request) {
    const { cmd, args, user, cwd, tag } = request;
    const told = Object.entries({ user, cwd, tag }).flatMap(([name, value]) =>
      value === undefined ? [] : [[name, redact(printable(value))] as const],
    );
    const command = redact(printable([cmd, ...args].join(' '))).slice(0, COMMAND);
    notes.note('info', 'process started', { ...fields, command, ...Object.fromEntries(told) });
  }
  const tellOf = (level: 'info' | 'warn', stream: string): Lines =>
    createLines((line) => notes.line(level, redact(line).slice(0, LINE), { ...fields, stream }));
  const streams = new Map<DataKind, Lines>([
    [KIND.STDOUT, tellOf('info', 'stdout')],
    [KIND.STDERR, tellOf('warn', 'stderr')],
  ]);
  return (item) => {
    if (item.type === 'data') {
      streams.get(item.kind)?.push(item.bytes);
      return;
    }
    for (const lines of streams.values()) lines.end();
    const { exitCode, signal } = item;
    const level = signal === undefined && exitCode === 0 ? 'info' : 'warn';
    const how: Record<string, string> = signal === undefined ? { exitCode: String(exitCode) } : { signal };
    notes.note(level, 'process ended', { ...fields, ...how });
  };
}

interface Lines {
  push(bytes: Uint8Array): void;
  end(): void;
}

/** Lines of a stream of bytes, without what steers terminals; of one that is too long, its beginning. */
function createLines(tell: (line: string) => void): Lines {
  const decoder = new TextDecoder();
  let held = '';
  let cut = false;
  const take = (text: string): void => {
    let from = 0;
    for (let end = text.indexOf('\n'); end !== -1; end = text.indexOf('\n', from)) {
      if (!cut) tellLine(held + text.slice(from, end));
      held = '';
      cut = false;
      from = end + 1;
    }
    if (cut) return;
    held += text.slice(from, from + LOOKED_AT);
    if (held.length < LOOKED_AT) return;
    tellLine(held);
    held = '';
    cut = true;
  };
  const tellLine = (line: string): void => {
    const text = printable(line.slice(0, LOOKED_AT));
    if (text !== '') tell(text);
  };
  return {
    push: (bytes) => take(decoder.decode(bytes, { stream: true })),
    end: () => {
      take(decoder.decode());
      if (!cut && held !== '') tellLine(held);
      held = '';
    },
  };
}

/** A terminal that shows a log must not be steered by what is in it. */
function printable(text: string): string {
  return text.replace(/\x1b\[[0-?]*[ -/]*[@-~]|[\x00-\x08\x0a-\x1f\x7f-\x9f]/g, '');
}
