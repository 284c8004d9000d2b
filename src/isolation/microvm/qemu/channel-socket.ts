/** Connects to the unix socket on which a machine's agent is reached. */
import { connect, type Socket } from 'node:net';
import { CoppiceError } from '../../../contract/errors.ts';

const CONNECT_DEADLINE_MS = 10_000;

/** A socket on its way to `path`. A machine may die at any time: an error of it is no event of its own, `close` follows. */
export function channelSocket(path: string): Socket {
  const socket = connect(path);
  socket.on('error', () => {});
  return socket;
}

/** Resolves once it is connected. `unavailable`: nobody listens there, or not in time; `cause` is the system's error. */
export function connected(socket: Socket, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    const settle = (error?: Error) => {
      clearTimeout(timer);
      signal?.removeEventListener('abort', onAbort);
      socket.off('error', onError);
      if (!error) return resolve();
      socket.destroy();
      reject(error);
    };
    const onAbort = () => settle(new CoppiceError('aborted', 'opening the channel: given up'));
    const onError = (cause: Error) =>
      settle(new CoppiceError('unavailable', 'the channel of the machine cannot be opened', { cause }));
    const timer = setTimeout(
      () => settle(new CoppiceError('unavailable', `the channel did not open in ${CONNECT_DEADLINE_MS} ms`)),
      CONNECT_DEADLINE_MS,
    );
    socket.once('connect', () => settle());
    socket.once('error', onError);
    if (signal?.aborted) return onAbort();
    signal?.addEventListener('abort', onAbort, { once: true });
  });
}
