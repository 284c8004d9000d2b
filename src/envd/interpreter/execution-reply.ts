/**
 * The reply to /execute: one JSON object a line, in ASCII only, so that a client which decodes piece by piece cannot cut a
 * character. Long text fields of a result flow through in pieces; nothing is gathered here.
 */
import { once } from 'node:events';
import type { ServerResponse } from 'node:http';
import type { ResultFields, RunEvent, TextField } from './guest-event.ts';

/** ms without output after which a keepalive line goes out. */
const KEEPALIVE = 5_000;

export class ExecutionReply {
  readonly #res: ServerResponse;
  readonly #timer: NodeJS.Timeout;
  readonly #keepalive: number;
  /** The result line that is being written: the fields it has, the last of which may still be open. */
  #open: { readonly fields: Set<TextField>; last: TextField } | undefined;

  constructor(res: ServerResponse, options: { readonly keepaliveMs?: number } = {}) {
    this.#res = res;
    this.#keepalive = options.keepaliveMs ?? KEEPALIVE;
    res.writeHead(200, { 'Content-Type': 'application/x-ndjson; charset=utf-8', 'Cache-Control': 'no-store' });
    res.flushHeaders();
    this.#timer = setInterval(() => {
      if (this.#open === undefined && !this.#res.writableNeedDrain) void this.#line({ type: 'keepalive' });
    }, this.#keepalive);
    this.#timer.unref();
    res.once('close', () => clearInterval(this.#timer));
  }

  /** Resolves when the client has room for more, or is gone. */
  async send(event: RunEvent): Promise<void> {
    if (event.type === 'part') return await this.#part(event.field, event.text);
    if (event.type === 'result') return await this.#result(event.main, event.fields);
    if (this.#open !== undefined) await this.#result(false, {});
    switch (event.type) {
      case 'stdout':
      case 'stderr':
        return await this.#line({ type: event.type, text: event.text, timestamp: new Date().toISOString() });
      case 'number_of_executions':
        return await this.#line({ type: event.type, execution_count: event.executionCount });
      case 'error':
      case 'end_of_execution':
        return await this.#line(event);
    }
  }

  end(): void {
    clearInterval(this.#timer);
    this.#res.end();
  }

  /** The sandbox is gone: the client must see a broken stream, not a short one. */
  cut(): void {
    clearInterval(this.#timer);
    this.#res.destroy();
  }

  async #part(field: TextField, text: string): Promise<void> {
    const piece = ascii(text).slice(1, -1);
    if (this.#open === undefined) {
      this.#open = { fields: new Set([field]), last: field };
      return await this.#write(`{"type":"result","${field}":"${piece}`);
    }
    if (this.#open.last === field) return await this.#write(piece);
    // A field that comes again after another one would be a second key of the same name.
    if (this.#open.fields.has(field)) return;
    this.#open.fields.add(field);
    this.#open.last = field;
    await this.#write(`","${field}":"${piece}`);
  }

  async #result(main: boolean, fields: ResultFields): Promise<void> {
    const open = this.#open;
    this.#open = undefined;
    let text = open === undefined ? '{"type":"result"' : '"';
    for (const [name, value] of Object.entries(fields)) {
      if (!open?.fields.has(name as TextField)) text += `,"${name}":${ascii(value)}`;
    }
    await this.#write(`${text},"is_main_result":${main}}\n`);
  }

  async #line(value: unknown): Promise<void> {
    await this.#write(`${ascii(value)}\n`);
  }

  async #write(text: string): Promise<void> {
    const res = this.#res;
    if (res.destroyed || res.writableEnded) return;
    this.#timer.refresh();
    if (res.write(text)) return;
    const closed = new AbortController();
    const { signal } = closed;
    await Promise.race([once(res, 'drain', { signal }), once(res, 'close', { signal })]).catch(() => {});
    closed.abort();
  }
}

function ascii(value: unknown): string {
  const escaped = (char: string): string => `\\u${char.charCodeAt(0).toString(16).padStart(4, '0')}`;
  return JSON.stringify(value).replace(/[\u007f-\uffff]/g, escaped);
}
