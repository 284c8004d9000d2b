/** A connection to a port of the sandbox, carried on a stream. */
import net from 'node:net';
import { KIND } from '../../src/channel/protocol.ts';
import { Failure, failureOf } from './failure.ts';
import type { AgentStream } from './stream.ts';

const LOOPBACKS = ['127.0.0.1', '::1'] as const;

export async function dial(port: number, stream: AgentStream): Promise<void> {
  if (!Number.isInteger(port) || port < 1 || port > 65_535)
    throw new Failure('invalid_argument', `${port} is not a port`);
  const socket = await connect(port);
  if (stream.closed) {
    socket.destroy();
    return;
  }
  socket.on('data', (chunk: Buffer) => {
    if (!stream.data(KIND.RAW, chunk)) socket.pause();
  });
  socket.on('end', () => stream.end());
  socket.on('error', (error) => stream.fail({ ...failureOf(error), code: 'unavailable' }));
  socket.on('close', () => stream.end());
  stream.onDrain = () => socket.resume();
  stream.onData = (bytes) => {
    if (socket.destroyed || socket.writableEnded) stream.consumed(bytes.length);
    else socket.write(bytes, () => stream.consumed(bytes.length));
  };
  stream.onEnd = () => socket.end();
  // Both sides have ended: what is under way to the port still leaves. Otherwise it is cut.
  stream.onClose = () => (stream.hostEnded ? socket.destroySoon() : socket.destroy());
  stream.reply({});
}

async function connect(port: number): Promise<net.Socket> {
  let refusal: unknown;
  for (const host of LOOPBACKS) {
    const socket = net.connect({ host, port, allowHalfOpen: true, noDelay: true });
    try {
      await new Promise<void>((resolve, reject) => {
        socket.once('connect', resolve);
        socket.once('error', reject);
      });
      socket.removeAllListeners('error');
      return socket;
    } catch (error) {
      refusal ??= error;
      socket.destroy();
    }
  }
  throw new Failure('unavailable', `nothing listens on port ${port}: ${(refusal as NodeJS.ErrnoException).code}`);
}
