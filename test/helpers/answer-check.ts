/**
 * Holds every answer of the REST edge against the contract: a status that the verb declares, a body of exactly the declared
 * shape, the headers that belong to it. It stands in the server, so that answers to an SDK are held against it too.
 */
import assert from 'node:assert/strict';
import type { IncomingMessage, OutgoingHttpHeaders, ServerResponse } from 'node:http';
import { type AnswerHeader, declaredAnswer } from '../../src/contract/e2b/answers.ts';
import { ERRORS, type ErrorCode } from '../../src/contract/errors.ts';

export interface GivenAnswer {
  readonly status: number;
  readonly headers: Readonly<OutgoingHttpHeaders>;
  readonly text: string;
}

type Listener = (req: IncomingMessage, res: ServerResponse) => void;

/** The listener, and what was wrong with its answers so far. Preflights are answered for every path and not checked. */
export function checkingAnswers(handle: Listener): { readonly handle: Listener; readonly faults: readonly string[] } {
  const faults: string[] = [];
  const checked: Listener = (req, res) => {
    const sent: Buffer[] = [];
    const keep = (chunk: unknown, encoding: unknown): void => {
      if (typeof chunk === 'string')
        sent.push(Buffer.from(chunk, typeof encoding === 'string' ? (encoding as BufferEncoding) : 'utf8'));
      else if (chunk instanceof Uint8Array) sent.push(Buffer.from(chunk));
    };
    const { write, end } = res;
    res.write = ((...args: Parameters<typeof write>) => {
      keep(args[0], args[1]);
      return write.apply(res, args);
    }) as typeof write;
    res.end = ((...args: Parameters<typeof end>) => {
      keep(args[0], args[1]);
      return end.apply(res, args);
    }) as typeof end;
    res.once('finish', () => {
      const text = Buffer.concat(sent).toString('utf8');
      // What was set and then given to writeHead in one go is only in the head as it was sent.
      const headers = { ...headersOf(res), ...res.getHeaders() };
      try {
        checkAnswer(req.method ?? '', req.url ?? '', { status: res.statusCode, headers, text });
      } catch (error) {
        faults.push((error as Error).message);
      }
    });
    handle(req, res);
  };
  return { handle: checked, faults };
}

/** @param url path and query as the client wrote them */
export function checkAnswer(method: string, url: string, answer: GivenAnswer): void {
  if (method === 'OPTIONS') return;
  const [path = '', query = ''] = url.split('?', 2);
  const label = `${method} ${path.slice(0, 100)} -> ${answer.status}`;
  const { headers, text, status } = answer;
  assert.equal(headers['access-control-allow-origin'], '*', label);
  const declared = declaredAnswer(method, path, status);
  assert.ok(declared, `${label}: the contract has no such answer: ${text.slice(0, 300)}`);
  const type = String(headers['content-type'] ?? '');
  const bare = method === 'HEAD';
  if (status === 405) assert.ok(headers.allow, `${label}: no Allow header`);
  let items: number | undefined;
  if (declared.text) assert.match(type, /^text\/plain/, `${label}: Content-Type ${type}`);
  else if (declared.bytes) assert.match(type, /^application\/octet-stream/, `${label}: Content-Type ${type}`);
  else if (declared.body === undefined) assert.deepEqual([type, text], ['', ''], `${label}: a body where none belongs`);
  else {
    assert.match(type, /^application\/json/, `${label}: Content-Type ${type}`);
    if (!bare) {
      const json: unknown = JSON.parse(text);
      const checked = declared.body.safeParse(json);
      assert.ok(checked.success, `${label}: ${checked.error?.message} in ${text.slice(0, 300)}`);
      const { code } = json as { code?: number | string };
      // Of the content API of volumes it is a word.
      const said =
        typeof code === 'string' && path.startsWith('/volumecontent/') ? ERRORS[code as ErrorCode]?.status : code;
      if (status >= 400) assert.equal(said, status, `${label}: another code in the body`);
      if (Array.isArray(json)) items = json.length;
    }
  }
  checkHeaders(label, headers, declared.headers, query, items);
}

function checkHeaders(
  label: string,
  headers: GivenAnswer['headers'],
  declared: readonly AnswerHeader[],
  query: string,
  items: number | undefined,
): void {
  const total = headers['x-total-running'];
  if (declared.includes('x-total-running')) assert.match(String(total), /^\d+$/, `${label}: X-Total-Running`);
  else assert.equal(total, undefined, `${label}: X-Total-Running where it does not belong`);
  if (declared.includes('server-timing')) assert.ok(headers['server-timing'], `${label}: no Server-Timing`);
  else assert.equal(headers['server-timing'], undefined, `${label}: Server-Timing where it does not belong`);
  assert.equal(headers['retry-after'], undefined, `${label}: Retry-After makes SDKs wait in silence`);
  const next = headers['x-next-token'];
  if (next === undefined) return;
  assert.ok(declared.includes('page'), `${label}: X-Next-Token on a list without pages`);
  assert.match(String(next), /^[A-Za-z0-9_-]+$/, `${label}: X-Next-Token`);
  const limit = Number(new URLSearchParams(query).get('limit') ?? 100);
  if (items !== undefined) assert.equal(items, limit, `${label}: X-Next-Token behind a page that is not full`);
}

/** `writeHead` with headers may leave none of them to `getHeaders`; the head as sent has them. */
function headersOf(res: ServerResponse): OutgoingHttpHeaders {
  const head = (res as unknown as { readonly _header?: string | null })._header ?? '';
  return Object.fromEntries(
    head
      .split('\r\n')
      .slice(1)
      .flatMap((line) => {
        const at = line.indexOf(': ');
        return at < 0 ? [] : [[line.slice(0, at).toLowerCase(), line.slice(at + 2)]];
      }),
  );
}
