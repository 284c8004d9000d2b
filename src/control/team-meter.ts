/** Adds a point for every team, again and again, while control serves. */
import type { NodeApi } from '../contract/node-api.ts';
import { countRunning } from './census.ts';
import type { ControlStore } from './control-store.ts';

const INTERVAL_MS = 30_000;

export interface TeamMeter {
  /** Adds one now. A node that does not answer leaves a gap. */
  sample(): Promise<void>;
  close(): void;
}

export function createTeamMeter(node: NodeApi, { teams, points }: Pick<ControlStore, 'teams' | 'points'>): TeamMeter {
  let closed = false;
  let sampling: Promise<void> | undefined;
  const sample = async (): Promise<void> => {
    try {
      const running = await countRunning(node, teams);
      if (!closed) points.record(running);
    } catch {
      // the next one covers the time since the last
    } finally {
      sampling = undefined;
    }
  };
  const once = (): Promise<void> => {
    sampling ??= sample();
    return sampling;
  };
  const timer = setInterval(() => void once(), INTERVAL_MS).unref();
  return Object.freeze({
    sample: once,
    close: () => {
      closed = true;
      clearInterval(timer);
    },
  });
}
