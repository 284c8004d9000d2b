/** Any failure, from a route, from the framework or from HTTP itself, in E2B's shape. */
import type { ServerResponse } from 'node:http';
import type { Duplex } from 'node:stream';
import { CoppiceError, type E2BErrorBody, toE2BError } from '../contract/errors.ts';

/**
 * The framework's own errors carry an HTTP status, and so do broken uploads after it has seen them. A status on any other
 * error is not meant for this edge's client: it stays as it is and is answered as 500.
 */
export function toCoppiceError(error: unknown): unknown {
  if (error instanceof CoppiceError || !(error instanceof Error)) return error;
  const { statusCode: status, code } = error as { statusCode?: unknown; code?: unknown };
  if (typeof code !== 'string' || !(code.startsWith('FST_') || code === 'ECONNRESET')) return error;
  if (status === 413) return new CoppiceError('payload_too_large', 'the request body is too large', { cause: error });
  if (status === 404 || status === 414) return new CoppiceError('route_not_found', 'route not found', { cause: error });
  if (typeof status === 'number' && status >= 400 && status < 500)
    return new CoppiceError('bad_request', `validation error: ${error.message}`, { cause: error });
  return error;
}

/** For answers before or after the framework's time. */
export function answerRaw(res: ServerResponse, error: CoppiceError): void {
  const body = JSON.stringify(toE2BError(error));
  res.writeHead(error.status, {
    'content-type': 'application/json; charset=utf-8',
    'content-length': Buffer.byteLength(body),
  });
  res.end(body);
}

const HTTP_FAULTS: Readonly<Record<string, readonly [number, string]>> = {
  HPE_HEADER_OVERFLOW: [431, 'Request Header Fields Too Large'],
  ERR_HTTP_REQUEST_TIMEOUT: [408, 'Request Timeout'],
};

/** For `server.on('clientError', ...)`: what is not even HTTP gets a JSON answer too, and its connection is closed. */
export function answerClientError(error: NodeJS.ErrnoException, socket: Duplex): void {
  if (error.code === 'ECONNRESET' || !socket.writable) {
    socket.destroy();
    return;
  }
  const [code, reason] = HTTP_FAULTS[error.code ?? ''] ?? [400, 'Bad Request'];
  const body: E2BErrorBody = { code, message: reason };
  const text = JSON.stringify(body);
  socket.end(
    `HTTP/1.1 ${code} ${reason}\r\nContent-Type: application/json; charset=utf-8\r\n` +
      `Content-Length: ${Buffer.byteLength(text)}\r\nConnection: close\r\n\r\n${text}`,
  );
}
