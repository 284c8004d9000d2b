/** Sessions as the agent sees them: a HELLO forgets all that was before; OPEN starts an operation on a new stream. */
import { type AgentRequest, FRAME, MORE, NONCE_BYTES } from '../../src/channel/protocol.ts';
import { Failure, failureOf } from './failure.ts';
import { AgentStream } from './stream.ts';
import type { Transport, TransportEvents } from './transport.ts';
import { Decoder, header } from './wire.ts';

const AGENT_VERSION = '1';

/** Answers on the stream, or throws. */
export type Operation = (request: AgentRequest, stream: AgentStream) => void | Promise<void>;

/** Runs sessions over a transport; `operation` serves every stream. Processes outlive sessions, streams do not. */
export function serve(open: (events: TransportEvents) => Transport, operation: Operation): Transport {
  const streams = new Map<number, AgentStream>();
  const opening = new Map<number, Buffer[]>();
  const port = {
    send: (bytes: Buffer) => transport.send(bytes),
    forget: (id: number) => void streams.delete(id),
  };

  const forgetAll = (): void => {
    opening.clear();
    for (const stream of [...streams.values()]) stream.close();
  };

  const onHello = (nonce: Buffer): void => {
    forgetAll();
    transport.dropQueued();
    const hello = JSON.stringify({ version: AGENT_VERSION, pid: process.pid, clockMs: Date.now() });
    const payload = Buffer.concat([nonce, Buffer.from(hello)]);
    transport.send(Buffer.concat([header(FRAME.HELLO_ACK, 0, 0, payload.length), payload]));
  };

  const onOpen = async (id: number, json: Buffer): Promise<void> => {
    const stream = new AgentStream(id, port);
    streams.set(id, stream);
    try {
      const request = JSON.parse(json.toString()) as AgentRequest;
      await operation(request, stream);
    } catch (error) {
      stream.fail(failureOf(error));
    }
  };

  const decoder = new Decoder((type, kind, id, payload) => {
    if (type === FRAME.HELLO) {
      if (payload.length === NONCE_BYTES) onHello(payload);
    } else if (type === FRAME.OPEN) {
      const parts = opening.get(id);
      if (kind === MORE) {
        if (parts) parts.push(payload);
        else opening.set(id, [payload]);
        return;
      }
      opening.delete(id);
      void onOpen(id, parts ? Buffer.concat([...parts, payload]) : payload);
    } else {
      // A stream that the agent has ended may still be spoken to by frames that were under way.
      streams.get(id)?.onFrame(type, payload);
    }
  });

  const transport = open({
    onBytes: (chunk) => decoder.push(chunk),
    onDisconnect: () => {
      decoder.reset();
      forgetAll();
      transport.dropQueued();
    },
  });
  return transport;
}

/** For an operation whose REPLY is all there is. */
export function answer(stream: AgentStream, value: unknown): void {
  stream.reply(value);
  stream.end();
}

export function unimplemented(op: unknown): never {
  throw new Failure('unimplemented', `operation ${JSON.stringify(op)} is not known to this agent`);
}
