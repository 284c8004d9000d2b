/** A subscription as a stream of RPC events: with keepalives in silence, ended by the caller's deadline or departure. */
import { Code, ConnectError, type HandlerContext } from '@connectrpc/connect';
import { END, IDLE, type Subscription } from './fan-out.ts';

const DEFAULT_KEEPALIVE_SECONDS = 90;
const MAX_KEEPALIVE_SECONDS = 3_600;

/** ms between keepalives, from Keepalive-Ping-Interval (seconds). What cannot be read means the default. */
function keepaliveMs(header: Headers): number {
  const wanted = header.get('Keepalive-Ping-Interval');
  const seconds = wanted !== null && /^\d{1,9}$/.test(wanted) ? Number(wanted) : DEFAULT_KEEPALIVE_SECONDS;
  return Math.min(Math.max(seconds, 1), MAX_KEEPALIVE_SECONDS) * 1_000;
}

export const KEEPALIVE: unique symbol = Symbol('keepalive');

/**
 * Items and KEEPALIVE until the subscription ends. Closes the subscription in every case, at once when the caller leaves:
 * a caller that stopped reading may leave this generator suspended in a `yield` for good.
 */
export async function* follow<T>(
  subscription: Subscription<T>,
  context: HandlerContext,
): AsyncGenerator<T | typeof KEEPALIVE> {
  const idleMs = keepaliveMs(context.requestHeader);
  const { signal } = context;
  const abandon = (): void => subscription.fail(abortError(signal));
  if (signal.aborted) abandon();
  signal.addEventListener('abort', abandon, { once: true });
  try {
    for (;;) {
      const item = await subscription.next(idleMs);
      if (item === END) return;
      yield item === IDLE ? KEEPALIVE : item;
    }
  } finally {
    signal.removeEventListener('abort', abandon);
    subscription.close();
  }
}

/** The result of `work`, unless the caller's deadline passes or the caller leaves first; `work` goes on by itself then. */
export async function beforeAbort<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  if (signal.aborted) {
    work.catch(() => {});
    throw abortError(signal);
  }
  const { promise, reject } = Promise.withResolvers<never>();
  const abandon = (): void => reject(abortError(signal));
  signal.addEventListener('abort', abandon, { once: true });
  try {
    return await Promise.race([work, promise]);
  } finally {
    signal.removeEventListener('abort', abandon);
  }
}

/** deadline_exceeded when that is why; otherwise the caller is gone and the code is for nobody. */
function abortError(signal: AbortSignal): ConnectError {
  const { reason } = signal;
  return reason instanceof ConnectError ? reason : new ConnectError('the caller left', Code.Canceled);
}
