/** What one build says: whole lines, bounded, durable. */
import { StringDecoder } from 'node:string_decoder';
import type { BuildLogLine, LogLevel } from '../contract/build-api.ts';
import type { BuildRows } from './build-rows.ts';

/** Lines kept of a build; of what it says beyond, the most urgent. */
const MOST_LINES = 20_000;
const RESERVE = 1_000;
/** Characters of a line; a longer one is cut into several. */
const LONGEST = 4_000;

export class BuildLog {
  readonly #rows: BuildRows;
  readonly #buildID: string;
  #lines: number;

  constructor(rows: BuildRows, buildID: string) {
    this.#rows = rows;
    this.#buildID = buildID;
    this.#lines = rows.countLines(buildID);
  }

  say(level: LogLevel, message: string, step?: string): void {
    this.#say(message.split('\n'), level, step);
  }

  /** What comes in pieces, as lines of one step; `end` says what is left without an end of line. */
  output(step: string): Output {
    const decoder = new StringDecoder('utf8');
    let rest = '';
    return {
      write: (bytes) => {
        const lines = (rest + decoder.write(bytes as Buffer)).split(/\r?\n/);
        rest = lines.pop()!;
        // A program that never ends its line must not grow without bound here.
        while (rest.length > LONGEST) {
          lines.push(rest.slice(0, LONGEST));
          rest = rest.slice(LONGEST);
        }
        if (lines.length > 0) this.#say(lines, 'info', step);
      },
      end: () => {
        const last = rest + decoder.end();
        rest = '';
        if (last !== '') this.#say([last], 'info', step);
      },
    };
  }

  #say(texts: readonly string[], level: LogLevel, step: string | undefined): void {
    const urgent = level === 'warn' || level === 'error';
    const room = MOST_LINES + (urgent ? RESERVE : 0) - this.#lines;
    if (room <= 0) return;
    const atMs = Date.now();
    const lines = texts
      .slice(0, room)
      .flatMap((text) =>
        cut(text).map((message): BuildLogLine => ({ atMs, level, message, ...(step === undefined ? {} : { step }) })),
      );
    if (this.#lines < MOST_LINES && this.#lines + lines.length >= MOST_LINES)
      lines.push({ atMs, level: 'warn', message: `more than ${MOST_LINES} lines: what follows is left out` });
    this.#rows.say(this.#buildID, this.#lines, lines);
    this.#lines += lines.length;
  }
}

export interface Output {
  write(bytes: Uint8Array): void;
  end(): void;
}

function cut(text: string): string[] {
  // What a terminal would show of it: the last of what was written over.
  const shown = text.slice(text.lastIndexOf('\r', text.length - 2) + 1).trimEnd();
  if (shown.length <= LONGEST) return [shown];
  const parts: string[] = [];
  for (let at = 0; at < shown.length; at += LONGEST) parts.push(shown.slice(at, at + LONGEST));
  return parts;
}
