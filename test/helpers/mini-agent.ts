/**
 * An agent on one end of a byte stream, for tests of what stands above the channel: it answers `ping`, `identity`, `sync` and
 * `hooks` (it has none), notes its `volumes`, and its processes end at once.
 */
import { Duplex, PassThrough } from 'node:stream';
import { encodeFrame, FrameDecoder } from '../../src/channel/frames.ts';
import { FRAME, type Identity, type VolumeMounts } from '../../src/channel/protocol.ts';

const ANSWERS: Readonly<Record<string, unknown>> = {
  ping: {},
  sync: { synced: true },
  hooks: { ran: [], left: 0 },
  volumes: {},
};

export interface MiniAgent {
  /** The host's end. */
  readonly stream: Duplex;
  readonly identities: Identity[];
  /** While true, requests are taken and not answered (a stopped or hung guest). */
  mute: boolean;
}

export function miniAgent(identities: Identity[] = [], volumes: VolumeMounts[] = []): MiniAgent {
  const toHost = new PassThrough();
  const toGuest = new PassThrough();
  const stream = Duplex.from({ readable: toHost, writable: toGuest });
  const agent: MiniAgent = { stream, identities, mute: false };
  const json = (value: unknown): Buffer => Buffer.from(JSON.stringify(value));
  const send = (frame: Buffer): void => void toHost.write(frame);
  const decoder = new FrameDecoder((type, _kind, id, payload) => {
    if (agent.mute) return;
    if (type === FRAME.HELLO) {
      send(
        encodeFrame(
          FRAME.HELLO_ACK,
          0,
          Buffer.concat([payload, json({ version: 'mini', pid: 1, clockMs: Date.now() })]),
        ),
      );
    } else if (type === FRAME.OPEN) {
      const request = JSON.parse(payload.toString()) as { op: string; identity?: Identity; volumes?: VolumeMounts };
      if (request.volumes) volumes.push(request.volumes);
      if (request.op === 'identity') {
        identities.push(request.identity!);
        send(encodeFrame(FRAME.REPLY, id, json({ hostname: request.identity!.hostname ?? 'mini' })));
      } else if (request.op === 'spawn') {
        send(encodeFrame(FRAME.REPLY, id, json({ pid: 2 })));
        send(encodeFrame(FRAME.EVENT, id, json({ event: 'exit', exitCode: 0 })));
        send(encodeFrame(FRAME.END, id));
      } else if (request.op in ANSWERS) send(encodeFrame(FRAME.REPLY, id, json(ANSWERS[request.op])));
      else send(encodeFrame(FRAME.RESET, id, json({ code: 'unimplemented', message: request.op })));
      if (request.op === 'identity' || request.op in ANSWERS) send(encodeFrame(FRAME.END, id));
    } else if (type === FRAME.END) {
      // Both sides have ended.
    }
  });
  toGuest.on('data', (chunk: Buffer) => decoder.push(chunk));
  return agent;
}
