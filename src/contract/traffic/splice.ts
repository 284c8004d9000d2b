/** An upgrade request (WebSocket and the like): handshake through Node's parser, then the two sockets joined byte for byte. */
import {
  type ClientRequest,
  type IncomingHttpHeaders,
  type IncomingMessage,
  type RequestOptions,
  request,
} from 'node:http';
import type { Duplex } from 'node:stream';
import { announcesBody, codingSupported, responseHeaders } from './headers.ts';

export interface SpliceOptions {
  /** Must give a connection of its own: it leaves HTTP for good. */
  readonly connection: RequestOptions;
  readonly path: string;
  /** Flat name/value list without Connection and Upgrade, which are added here. */
  readonly headers: readonly string[];
  /** Called at most once, before any byte was written to the client. It must answer and close the socket. */
  readonly fail: (error: Error) => void;
}

/** The client sent an upgrade request with a body, which has no meaning. */
export class UpgradeBodyError extends Error {
  override readonly name = 'UpgradeBodyError';
}

/** True for requests that should leave HTTP. `h2c` is declined: the request is then served as HTTP/1.1, as RFC 9110 allows. */
export function upgradeWanted(headers: IncomingHttpHeaders): boolean {
  const protocol = headers.upgrade?.trim().toLowerCase();
  return protocol !== undefined && protocol !== '' && protocol !== 'h2c' && !protocol.startsWith('h2c,');
}

export function spliceUpgrade(req: IncomingMessage, socket: Duplex, head: Buffer, options: SpliceOptions): void {
  socket.on('error', () => socket.destroy());
  if (announcesBody(req)) {
    options.fail(new UpgradeBodyError('an upgrade request may not have a body'));
    return;
  }
  let over = false;
  const fail = (error: Error): void => {
    if (over) return;
    over = true;
    options.fail(error);
  };
  let upstream: ClientRequest;
  try {
    upstream = request({
      ...options.connection,
      method: req.method,
      path: options.path,
      headers: [...options.headers, 'Connection', 'Upgrade', 'Upgrade', req.headers.upgrade ?? 'websocket'],
      setHost: false,
    });
  } catch (error) {
    fail(error as Error);
    return;
  }
  const gone = (): void => {
    over = true;
    upstream.destroy();
  };
  socket.once('close', gone);

  upstream.on('upgrade', (answer, peer, peerHead) => {
    if (over) {
      peer.destroy();
      return;
    }
    over = true;
    socket.off('close', gone);
    const fields = answer.rawHeaders;
    let start = `HTTP/1.1 101 ${answer.statusMessage ?? 'Switching Protocols'}\r\n`;
    for (let i = 0; i + 1 < fields.length; i += 2) start += `${fields[i]}: ${fields[i + 1]}\r\n`;
    socket.write(Buffer.from(`${start}\r\n`, 'latin1'));
    if (peerHead.length > 0) socket.write(peerHead);
    if (head.length > 0) peer.write(head);
    joinSockets(socket, peer);
  });
  upstream.on('response', (answer) => {
    if (over) return;
    if (!codingSupported(answer)) {
      upstream.destroy();
      fail(new Error('unsupported transfer coding'));
      return;
    }
    over = true;
    // The server declined: its answer is passed on and ends with the connection.
    const fields = responseHeaders(answer, req.method ?? 'GET', false);
    let start = `HTTP/1.1 ${answer.statusCode} ${answer.statusMessage ?? ''}\r\n`;
    for (let i = 0; i + 1 < fields.length; i += 2) start += `${fields[i]}: ${fields[i + 1]}\r\n`;
    socket.write(Buffer.from(`${start}Connection: close\r\n\r\n`, 'latin1'));
    answer.once('error', () => socket.destroy());
    answer.pipe(socket);
    socket.resume();
  });
  upstream.on('error', fail);
  upstream.end();
}

/**
 * Milliseconds without a byte after which a joined pair with one side ended is cut. A client that vanished looks like a
 * half-close one hop on, so half-open pairs must not last.
 */
const HALF_OPEN_IDLE_MS = 30_000;

/** Joins two duplex streams: half-closes pass through; when one is cut, so is the other. */
export function joinSockets(a: Duplex, b: Duplex, halfOpenIdleMs = HALF_OPEN_IDLE_MS): void {
  let timer: NodeJS.Timeout | undefined;
  const cut = (): void => {
    clearTimeout(timer);
    a.destroy();
    b.destroy();
  };
  for (const [from, to] of [
    [a, b],
    [b, a],
  ] as const) {
    from.on('error', cut);
    from.once('end', () => {
      timer ??= setTimeout(cut, halfOpenIdleMs).unref();
    });
    from.on('data', () => timer?.refresh());
    from.once('close', () => {
      if (!from.readableEnded) cut();
      else if (to.destroyed) clearTimeout(timer);
      else if (!to.writableEnded) to.end();
    });
    from.pipe(to);
  }
}
