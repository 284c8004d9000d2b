/**
 * One HTTP/1.1 exchange, streamed through: both bodies, trailers, interim answers, with backpressure and without
 * buffering. The far side is whatever `connection` says; this file knows neither sandboxes nor sockets.
 */
import { type ClientRequest, type IncomingMessage, type RequestOptions, request, type ServerResponse } from 'node:http';
import { announcesBody, codingSupported, IDEMPOTENT, responseHeaders, trailerPairs } from './headers.ts';

export interface ForwardOptions {
  /** How to connect. `fresh`: not through a connection that has carried a request before. */
  readonly connection: (fresh: boolean) => RequestOptions;
  /** Request target: path and query, as it goes on the wire. */
  readonly path: string;
  /** Flat name/value list, framing included (headers.ts). */
  readonly headers: readonly string[];
  /**
   * True: wait one turn of the event loop first, so that a pooled connection whose end is already known to the kernel
   * has left the pool. For requests that must not be sent twice.
   */
  readonly settle?: boolean;
  /** Called at most once, while nothing has been answered yet and the client is still there. It must answer. */
  readonly fail: (error: Error) => void;
}

/** Interim (1xx) answers passed on per exchange; more are dropped, since they escape backpressure. */
const MAX_INTERIM = 16;

/** The far side answered with something that cannot be passed on. */
class BadAnswerError extends Error {
  override readonly name = 'BadAnswerError';
}

/**
 * Forwards the exchange. A request is sent twice only if a reused connection was reset before a byte of the answer, no
 * byte of the body had been taken from the client, and the method is idempotent or the (unsent) body was still missing.
 * A client that goes away destroys the far side at once; a far side that breaks off cuts the client.
 */
export function forward(req: IncomingMessage, res: ServerResponse, options: ForwardOptions): void {
  const body = announcesBody(req);
  let bodyTaken = false;
  let over = false;
  let upstream: ClientRequest | undefined;

  const fail = (error: Error): void => {
    if (over) return;
    over = true;
    upstream?.destroy();
    if (res.headersSent) res.destroy();
    else options.fail(error);
  };

  const attempt = (fresh: boolean): void => {
    if (over) return;
    let sent: ClientRequest;
    try {
      const connection = options.connection(fresh);
      sent = request({
        ...connection,
        method: req.method,
        path: options.path,
        headers: connection.agent === undefined ? [...options.headers, 'Connection', 'close'] : options.headers,
        setHost: false,
      });
    } catch (error) {
      fail(error as Error);
      return;
    }
    upstream = sent;
    let interim = 0;
    let answered = false;
    sent.on('information', (info) => {
      if (!over && interim++ < MAX_INTERIM && req.httpVersionMinor > 0) passInterim(res, info.statusCode, info.headers);
    });
    sent.on('response', (answer) => {
      answered = true;
      try {
        relay(answer, req, res, () => {
          over = true;
        });
      } catch (error) {
        fail(new BadAnswerError('the answer cannot be passed on', { cause: error }));
      }
    });
    sent.on('upgrade', (_answer, peer) => {
      peer.destroy();
      fail(new BadAnswerError('an upgrade that nobody asked for'));
    });
    // Node reports some broken exchanges by `close` alone.
    sent.on('close', () => {
      if (sent === upstream && !answered) fail(new BadAnswerError('closed without an answer'));
    });
    sent.on('error', (error) => {
      if (over || sent !== upstream) return;
      if (!fresh && mayRepeat(sent, error) && !bodyTaken && !res.headersSent) {
        if (IDEMPOTENT.has(req.method ?? '') || body) {
          req.unpipe(sent);
          attempt(true);
          return;
        }
      }
      fail(error);
    });
    if (!body) {
      sent.end();
      return;
    }
    // Not before there is a connection: a dial that fails leaves the body with the client, for the next one.
    sent.once('socket', () => {
      if (over || sent !== upstream) return;
      // The head goes with the first bytes of the body if they are here, else alone.
      setImmediate(() => {
        if (!sent.destroyed && !sent.writableEnded) sent.flushHeaders();
      });
      req.once('data', () => {
        bodyTaken = true;
      });
      req.once('end', () => {
        const trailers = trailerPairs(req);
        if (trailers.length > 0 && !sent.destroyed) sent.addTrailers(trailers);
      });
      req.pipe(sent);
    });
  };

  res.once('close', () => {
    if (res.writableFinished && upstream?.writableFinished) return;
    over = true;
    upstream?.destroy();
  });
  req.on('error', () => {});
  if (options.settle) setImmediate(attempt, false);
  else attempt(false);
}

function mayRepeat(sent: ClientRequest, error: NodeJS.ErrnoException): boolean {
  return sent.reusedSocket && (error.code === 'ECONNRESET' || error.code === 'EPIPE');
}

function passInterim(res: ServerResponse, status: number, headers: NodeJS.Dict<string | string[]>): void {
  if (res.headersSent || res.destroyed) return;
  try {
    if (status === 100) res.writeContinue();
    else if (status === 102) res.writeProcessing();
    else if (status === 103 && headers.link !== undefined) res.writeEarlyHints({ link: headers.link });
  } catch {
    // An interim answer that Node finds malformed is optional: the final one still comes.
  }
}

function relay(answer: IncomingMessage, req: IncomingMessage, res: ServerResponse, finished: () => void): void {
  if (!codingSupported(answer)) throw new BadAnswerError('unsupported transfer coding');
  const headers = responseHeaders(answer, req.method ?? 'GET', req.httpVersionMinor > 0);
  res.sendDate = false;
  res.writeHead(answer.statusCode ?? 502, answer.statusMessage ?? '', headers);
  answer.once('error', () => res.destroy());
  answer.once('end', () => {
    finished();
    if (!answer.complete) {
      res.destroy();
      return;
    }
    const trailers = trailerPairs(answer);
    if (trailers.length > 0) res.addTrailers(trailers);
  });
  answer.pipe(res);
  // The head goes out even if the body is silent for long (SSE); with a first chunk at hand they share a packet.
  setImmediate(() => {
    if (!res.destroyed && !res.writableEnded) res.flushHeaders();
  });
}
