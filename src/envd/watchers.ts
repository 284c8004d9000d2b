/**
 * Watches for callers that poll (CreateWatcher, GetWatcherEvents, RemoveWatcher). Each holds what happened since the last
 * poll, within bounds: when it is full the agent's stream is left unread, so nothing is lost on the host and memory stays.
 */
import { randomUUID } from 'node:crypto';
import { AgentError } from '../channel/agent.ts';
import type { WatchEvent } from '../channel/protocol.ts';

const MAX_WATCHERS = 128;
const MAX_EVENTS = 4_096;

export interface WatchSource {
  readonly events: AsyncIterable<WatchEvent>;
  close(): void;
}

export interface Watchers {
  /** Rejects resource_exhausted when there are too many; otherwise as `open` does. */
  create(open: () => Promise<WatchSource>): Promise<string>;
  /** What happened since the last call. Throws not_found, or the failure of the watch once its events were taken. */
  take(id: string): readonly WatchEvent[];
  /** Throws not_found. */
  remove(id: string): void;
  close(reason: Error): void;
}

interface Watcher {
  events: WatchEvent[];
  failure: Error | undefined;
  /** Goes on reading after a pause for want of room. */
  resume: (() => void) | undefined;
  readonly source: WatchSource;
}

export function createWatchers(): Watchers {
  const watchers = new Map<string, Watcher>();
  let opening = 0;
  let closed: Error | undefined;

  async function read(watcher: Watcher): Promise<void> {
    try {
      for await (const event of watcher.source.events) {
        watcher.events.push(event);
        if (watcher.events.length >= MAX_EVENTS) {
          await new Promise<void>((resolve) => {
            watcher.resume = resolve;
          });
        }
      }
      watcher.failure ??= new AgentError('unavailable', 'the watch has ended');
    } catch (error) {
      watcher.failure ??= error instanceof Error ? error : new Error(String(error));
    }
  }

  function get(id: string): Watcher {
    const watcher = watchers.get(id);
    if (!watcher) throw new AgentError('not_found', `watcher with id ${id} not found`);
    return watcher;
  }

  return {
    async create(open) {
      if (closed) throw closed;
      if (watchers.size + opening >= MAX_WATCHERS) {
        throw new AgentError('resource_exhausted', `no more than ${MAX_WATCHERS} watchers at once`);
      }
      opening += 1;
      try {
        const source = await open();
        if (closed) {
          source.close();
          throw closed;
        }
        const watcher: Watcher = { events: [], failure: undefined, resume: undefined, source };
        const id = randomUUID();
        watchers.set(id, watcher);
        void read(watcher);
        return id;
      } finally {
        opening -= 1;
      }
    },
    take(id) {
      const watcher = get(id);
      const { events } = watcher;
      if (events.length === 0 && watcher.failure) throw watcher.failure;
      watcher.events = [];
      watcher.resume?.();
      watcher.resume = undefined;
      return events;
    },
    remove(id) {
      const watcher = get(id);
      watchers.delete(id);
      watcher.source.close();
      watcher.resume?.();
    },
    close(reason) {
      closed = reason;
      for (const watcher of watchers.values()) {
        watcher.source.close();
        watcher.resume?.();
      }
      watchers.clear();
    },
  };
}
