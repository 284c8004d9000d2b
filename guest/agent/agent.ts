/** The agent: every operation of the channel, by name. */
import { type AgentRequest, MAX_TIMEOUT_MS } from '../../src/channel/protocol.ts';
import type { Context } from './context.ts';
import { dial } from './dial.ts';
import { entryAt } from './entry.ts';
import { Failure } from './failure.ts';
import { list, makeFolder, move, remove } from './files.ts';
import { createFlush } from './flush.ts';
import { runHooks } from './hooks.ts';
import { createIdentity } from './identity.ts';
import { createMetrics } from './metrics.ts';
import { resolvePath } from './paths.ts';
import { rehearseGreetings } from './rehearsal.ts';
import { createRetirement } from './retirement.ts';
import { answer, serve, unimplemented } from './session.ts';
import { createProcesses } from './spawn.ts';
import type { AgentStream } from './stream.ts';
import { compose, read, write } from './transfer.ts';
import type { Transport, TransportEvents } from './transport.ts';
import { createVolumes } from './volumes.ts';
import { createWatches } from './watch.ts';

/** Serves the host over a transport: for ever, or until `retire` is called, when nobody needs it any more. */
export function runAgent(context: Context, open: (events: TransportEvents) => Transport, retire?: () => void): void {
  const processes = createProcesses(context);
  const watches = createWatches(context);
  const metrics = createMetrics();
  const volumes = createVolumes(context.powers);
  const identity = createIdentity(context, volumes);
  const flush = createFlush(context.powers);
  const retirement =
    retire && createRetirement({ isAlone: () => !transport.connected(), isIdle: () => processes.idle(), retire });
  const transport = serve(
    (events) =>
      open({
        ...events,
        onDisconnect() {
          events.onDisconnect();
          retirement?.onAlone();
        },
      }),
    operate,
  );
  retirement?.onAlone();

  async function operate(request: AgentRequest, stream: AgentStream): Promise<void> {
    const account = () => context.users.find('user' in request ? request.user : undefined);
    const at = (path: string) => resolvePath(path, account());
    switch (request.op) {
      case 'ping':
        context.powers.warm();
        answer(stream, {});
        return;
      case 'identity':
        answer(stream, identity.take(request.identity));
        return;
      case 'metrics':
        answer(stream, metrics.read());
        return;
      case 'volumes':
        await volumes.mount(request.volumes);
        answer(stream, {});
        return;
      case 'quiesce':
        await context.powers.sync();
        // A clone shares what lies still: what is garbage now would be collected, and so unshared, by every one of them.
        globalThis.gc?.();
        await rehearseGreetings(context.powers.writable);
        // What a clone uses is measured from its restore.
        metrics.restart();
        await transport.flushed();
        answer(stream, {});
        return;
      case 'sync':
        answer(stream, { synced: await flush(bounded(request.timeoutMs)) });
        return;
      case 'hooks': {
        const { event, timeoutMs } = request;
        answer(stream, await runHooks(context, event, bounded(timeoutMs), () => !stream.closed));
        return;
      }
      case 'spawn':
        await processes.spawn(request, stream);
        return;
      case 'attach':
        processes.attach(request, stream);
        return;
      case 'processes':
        processes.list(stream, request.services ?? false);
        return;
      case 'signal':
        processes.signal(request.pid, request.signal);
        answer(stream, {});
        return;
      case 'resize':
        processes.resize(request.pid, request.cols, request.rows);
        answer(stream, {});
        return;
      case 'stat':
        answer(stream, { entry: entryAt(context, at(request.path)) });
        return;
      case 'list':
        await list(context, at(request.path), request.depth, stream);
        return;
      case 'mkdir':
        answer(stream, { entry: makeFolder(context, at(request.path), account()) });
        return;
      case 'move':
        answer(stream, { entry: await move(context, at(request.source), at(request.destination), account()) });
        return;
      case 'remove':
        await remove(at(request.path));
        answer(stream, {});
        return;
      case 'read':
        await read(context, at(request.path), request, stream);
        return;
      case 'write':
        write(context, at(request.path), account(), request.metadata ?? {}, stream);
        return;
      case 'compose': {
        const target = at(request.path);
        await compose(context, request.sources.map(at), target, account());
        answer(stream, { entry: entryAt(context, target) });
        return;
      }
      case 'watch':
        watches.watch(at(request.path), request, stream);
        return;
      case 'dial':
        await dial(request.port, stream);
        return;
      default:
        unimplemented((request as { op?: unknown }).op);
    }
  }
}

function bounded(timeoutMs: number): number {
  if (Number.isInteger(timeoutMs) && timeoutMs >= 1 && timeoutMs <= MAX_TIMEOUT_MS) return timeoutMs;
  throw new Failure('invalid_argument', `${timeoutMs} is no bound of 1 to ${MAX_TIMEOUT_MS} ms`);
}
