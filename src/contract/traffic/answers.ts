/** What a client is told when the sandbox itself does not answer: E2B's JSON, or a page for people in a browser. */
import { type IncomingHttpHeaders, type IncomingMessage, type ServerResponse, STATUS_CODES } from 'node:http';
import type { Duplex } from 'node:stream';

/** One refusal. `message` is E2B's text where E2B has one (research notes in SPECIFICATION.md). */
export interface Refusal {
  readonly status: number;
  readonly message: string;
  readonly sandboxID?: string;
  readonly port?: number;
}

export const sandboxNotFound = (sandboxID: string): Refusal => ({
  status: 502,
  message: 'The sandbox was not found',
  sandboxID,
});

export const portNotOpen = (sandboxID: string, port: number): Refusal => ({
  status: 502,
  message: 'The sandbox is running but port is not open',
  sandboxID,
  port,
});

/** Milliseconds a client may go on sending a body after it has been refused, before its connection is cut. */
const LINGER_MS = 5_000;

function json(refusal: Refusal): string {
  return JSON.stringify({
    ...(refusal.sandboxID === undefined ? {} : { sandboxId: refusal.sandboxID }),
    message: refusal.message,
    ...(refusal.port === undefined ? {} : { port: refusal.port }),
    code: refusal.status,
  });
}

const escapeHtml = (text: string): string =>
  text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0).toString()};`);

function page(refusal: Refusal): string {
  const id = escapeHtml(refusal.sandboxID ?? '');
  const [title, text] =
    refusal.port !== undefined && refusal.status === 502
      ? ['Closed port', `The sandbox ${id} is running, but there is no service running on port ${refusal.port}.`]
      : refusal.status === 403
        ? ['Missing Traffic Access Token', escapeHtml(refusal.message)]
        : refusal.status === 502
          ? ['Sandbox not found', `The sandbox ${id} was not found. ${escapeHtml(refusal.message)}.`]
          : [STATUS_CODES[refusal.status] ?? 'Error', escapeHtml(refusal.message)];
  const facts = [id && `Sandbox: ${id}`, refusal.port && `Port: ${refusal.port}`].filter(Boolean).join('<br>');
  return `<!doctype html><html lang="en"><head><meta charset="utf-8"><title>${title}</title></head><body><h1>${title}</h1><p>${text}</p><p>${facts}</p></body></html>\n`;
}

/** A browser that did not ask for JSON. */
function wantsPage(headers: IncomingHttpHeaders): boolean {
  return (
    (headers['user-agent'] ?? '').toLowerCase().includes('mozilla') &&
    !(headers.accept ?? '').toLowerCase().includes('application/json')
  );
}

function render(headers: IncomingHttpHeaders, refusal: Refusal): { readonly type: string; readonly body: string } {
  return wantsPage(headers)
    ? { type: 'text/html; charset=utf-8', body: page(refusal) }
    : { type: 'application/json', body: json(refusal) };
}

/** Answers with the refusal. If the answer has already begun, the connection is cut instead: a cut is visible, a bad tail is not. */
export function refuse(res: ServerResponse, refusal: Refusal): void {
  if (res.headersSent || res.destroyed) {
    res.destroy();
    return;
  }
  const { type, body } = render(res.req.headers, refusal);
  // The reason is given: one that was set from a bad answer would stay otherwise.
  res.writeHead(refusal.status, STATUS_CODES[refusal.status] ?? 'Error', {
    'Content-Type': type,
    'Content-Length': Buffer.byteLength(body),
  });
  res.end(body);
  linger(res.req);
}

/** Throws away what still comes, for a while, so that the client reads the answer that it was given. */
export function linger(req: IncomingMessage): void {
  if (req.complete) return;
  const socket = req.socket;
  req.resume();
  const timer = setTimeout(() => socket.destroy(), LINGER_MS);
  timer.unref();
  req.once('close', () => clearTimeout(timer));
}

/** The same on a socket that Node has handed over (upgrade requests). Closes it. */
export function refuseSocket(socket: Duplex, headers: IncomingHttpHeaders, refusal: Refusal): void {
  if (socket.destroyed || !socket.writable) {
    socket.destroy();
    return;
  }
  socket.end(rawRefusal(headers, refusal));
  socket.resume();
  const timer = setTimeout(() => socket.destroy(), LINGER_MS);
  timer.unref();
  socket.once('close', () => clearTimeout(timer));
}

/** The refusal as bytes of a complete HTTP/1.1 answer that closes the connection. */
export function rawRefusal(headers: IncomingHttpHeaders, refusal: Refusal): string {
  const { type, body } = render(headers, refusal);
  return [
    `HTTP/1.1 ${refusal.status} ${STATUS_CODES[refusal.status] ?? 'Error'}`,
    `Content-Type: ${type}`,
    `Content-Length: ${Buffer.byteLength(body)}`,
    'Connection: close',
    '',
    body,
  ].join('\r\n');
}
