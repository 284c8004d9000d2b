/** E2B's filesystem.Filesystem service over the agent. Paths go to the agent as they are written: it resolves them. */
import { Code, ConnectError, type ServiceImpl } from '@connectrpc/connect';
import type { AgentClient } from '../channel/agent.ts';
import type { WatchEvent } from '../channel/protocol.ts';
import type { Filesystem } from '../contract/gen/filesystem_pb.ts';
import { entryInfo, filesystemEvent } from './entry-info.ts';
import { createFanOut } from './fan-out.ts';
import { beforeAbort, follow, KEEPALIVE } from './follow.ts';
import { refuseNetworkMount } from './network-mount.ts';
import { callOf } from './rpc-context.ts';
import type { WatchSource } from './watchers.ts';

/** Linux's PATH_MAX: a longer path names nothing. */
const MAX_PATH = 4_096;
const MAX_DEPTH = 1_024;

export const filesystemService: ServiceImpl<typeof Filesystem> = {
  async stat(request, context) {
    const { sandbox, user } = callOf(context);
    const agent = await sandbox.agent();
    return { entry: entryInfo(await beforeAbort(agent.stat(pathOf(request.path), user), context.signal)) };
  },

  async makeDir(request, context) {
    const { sandbox, user } = callOf(context);
    const agent = await sandbox.agent();
    return { entry: entryInfo(await beforeAbort(agent.mkdir(pathOf(request.path), user), context.signal)) };
  },

  async move(request, context) {
    const { sandbox, user } = callOf(context);
    const agent = await sandbox.agent();
    const moved = agent.move(pathOf(request.source), pathOf(request.destination), user);
    return { entry: entryInfo(await beforeAbort(moved, context.signal)) };
  },

  async listDir(request, context) {
    const { sandbox, user } = callOf(context);
    const agent = await sandbox.agent();
    // Nothing in a file system with PATH_MAX is deeper than the cap.
    const depth = Math.min(Math.max(request.depth, 1), MAX_DEPTH);
    const entries = await beforeAbort(agent.list(pathOf(request.path), depth, user), context.signal);
    return { entries: entries.map(entryInfo) };
  },

  async remove(request, context) {
    const { sandbox, user } = callOf(context);
    const agent = await sandbox.agent();
    await beforeAbort(agent.remove(pathOf(request.path), user), context.signal);
    return {};
  },

  async *watchDir(request, context) {
    const { sandbox, user } = callOf(context);
    const opening = openWatch(await sandbox.agent(), request, user);
    const source = await beforeAbort(opening, context.signal).catch((error: unknown) => {
      opening.then((late) => late.close()).catch(() => {});
      throw error;
    });
    const fanOut = createFanOut<WatchEvent>({ onEmpty: () => source.close() });
    const subscription = fanOut.subscribe();
    void fanOut.run(source.events, sizeOfEvent);
    try {
      yield { event: { case: 'start', value: {} } };
      for await (const item of follow(subscription, context)) {
        yield item === KEEPALIVE
          ? { event: { case: 'keepalive', value: {} } }
          : { event: { case: 'filesystem', value: filesystemEvent(item) } };
      }
    } finally {
      subscription.close();
    }
    throw new ConnectError('the watch has ended', Code.Unavailable);
  },

  async createWatcher(request, context) {
    const { sandbox, user, watchers } = callOf(context);
    const agent = await sandbox.agent();
    return { watcherId: await watchers.create(() => openWatch(agent, request, user)) };
  },

  async getWatcherEvents(request, context) {
    return { events: callOf(context).watchers.take(request.watcherId).map(filesystemEvent) };
  },

  async removeWatcher(request, context) {
    callOf(context).watchers.remove(request.watcherId);
    return {};
  },
};

interface WatchRequest {
  readonly path: string;
  readonly recursive: boolean;
  readonly includeEntry: boolean;
  readonly allowNetworkMounts: boolean;
}

async function openWatch(agent: AgentClient, request: WatchRequest, user: string): Promise<WatchSource> {
  const path = pathOf(request.path);
  if (!request.allowNetworkMounts) await refuseNetworkMount(agent, path, user);
  return agent.watch(path, { recursive: request.recursive, includeEntry: request.includeEntry, user });
}

function sizeOfEvent(event: WatchEvent): number {
  return event.name.length + (event.entry ? event.entry.path.length + 256 : 0);
}

function pathOf(path: string): string {
  if (path.includes('\0')) throw new ConnectError('the path contains a NUL character', Code.InvalidArgument);
  if (path.length > MAX_PATH) throw new ConnectError(`the path is longer than ${MAX_PATH}`, Code.InvalidArgument);
  return path;
}
